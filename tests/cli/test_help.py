"""Help: every command explains itself, at once, and README names it."""

from __future__ import annotations

import re

import pytest

from support import ROOT
from support.command import run
from support.processes import python
from univfast.cli.main import cli


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert set(cli.commands) == {
        *("demo", "train", "capture", "control", "correlate", "report", "show", "export"),
        *("weights", "ablate", "info", "bench"),
    }
    for name in cli.commands:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_explains_itself_and_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert len(cli.commands[name].help or "") > 40
    for parameter in cli.commands[name].params:
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in text
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"  # type: ignore[attr-defined]


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert f"univfast {name}" in readme


def test_readme_and_help_agree_on_how_long_the_demo_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (ROOT / "README.md").read_text()
    assert run("demo", "--help") == 0
    for text in (readme, capsys.readouterr().out):
        assert "under three minutes on two cores" in " ".join(text.split())


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys; from univfast.cli import main; "
        "assert main(['correlate', '--help']) == 0; assert main(['--version']) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert python(code).returncode == 0
