"""Help: every command explains itself, at once, and stands in the documentation."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.shell_completion import ShellComplete

from support import ROOT
from support.command import error_line, run
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


def test_the_documentation_names_every_command() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    for name in cli.commands:
        assert f"univfast {name}" in page


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


EPILOGS = {name: command.epilog or "" for name, command in cli.commands.items()}
EXAMPLES = [
    (name, line.strip())
    for name, epilog in EPILOGS.items()
    for line in epilog.splitlines()
    if line.startswith("  univfast ")
]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_ends_with_an_example(name: str) -> None:
    assert any(own == name for own, _ in EXAMPLES)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_commands_that_are_taken(name: str, example: str) -> None:
    """As a shell parts them; what they read need not be there."""
    words = shlex.split(example.split(" > ")[0])
    assert words[:2] == ["univfast", name]
    command = cli.commands[name]
    command.make_context(name, words[2:], parent=click.Context(cli, info_name="univfast"))


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_help_fits_and_is_plain(
    width: int, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")  # for which rich_click would colour files
    monkeypatch.setenv("RICH_CLICK_THEME", "default-robo")
    monkeypatch.setenv("TERMINAL_WIDTH", "20")
    assert run(*([name] if name else []), "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() and line.isascii() for line in lines)
    assert "\x1b" not in "".join(lines)


def panels(text: str) -> dict[str, list[str]]:
    """The options in each panel."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"\n(?=[A-Z][a-z ]+:\n)", text)[1:]:
        title, rest = part.split(":\n", 1)
        found[title] = re.findall(r"^  (?:-\w, )?(--[\w-]+)", rest, re.MULTILINE)
    return found


def test_options_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("correlate", "--help") == 0
    found = panels(capsys.readouterr().out)
    titles = [x for x in found if x != "Examples"]
    assert titles == [
        *("Matching", "Nulls", "Input", "Live models", "Compute", "Long runs", "Output")
    ]
    expected = {
        "Matching": ("--match", "--threshold", "--reverse"),
        "Nulls": ("--rotation", "--draws", "--controls-a", "--controls", "--match-rate"),
        "Input": ("--layers", "--mask", "--token-ids"),
        "Live models": ("--text", "--hooks", "--hooks-b", "--skip"),
        "Compute": ("--device", "--threads", "--memory-limit", "--batch-tokens"),
        "Long runs": ("--checkpoint", "--checkpoint-every", "--timeout"),
        "Output": ("--out", "--json", "--all", "--quiet", "--details", "--help"),
    }
    for title, options in expected.items():
        assert {*options} <= {*found[title]}, title
    every = [name for title in titles for name in found[title]]
    parameters = cli.commands["correlate"].params
    declared = {max(x.opts, key=len) for x in parameters if isinstance(x, click.Option)}
    assert sorted(every) == sorted(declared | {"--help"})  # each once


def test_values_and_defaults_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("correlate", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for values in ("index|best|one-to-one", "hadamard|haar|gaussian|none", "float32|tf32"):
        assert f"<{values}>" in text
    for default in ("best", "hadamard", "5", "0.5", "262144", "auto", "univfast"):
        assert f"[default: {default}]" in text


MEANT = {
    "corelate a b": "No such command 'corelate'. Did you mean 'correlate'?",
    "correlate a b --match bset": "did you mean 'best'?",
    "correlate a b --match Best": "did you mean 'best'?",
    "correlate a b --match one2one": "did you mean 'one-to-one'?",
    "correlate a b --rotation harr": "did you mean 'haar'?",
    "correlate a b --device gpu": "did you mean 'cuda'?",
    "correlate a b --columns publised --out o": "did you mean 'published'?",
    "correlate a b --threshhold 1": "'--threshold'",
    "show r mlp/1 --kinds tpo": "did you mean 'top'?",
    "export r --to parket --out o": "did you mean 'parquet'?",
    "info --hlep": "'--help'",
}


@pytest.mark.parametrize("command", MEANT)
def test_what_was_meant(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split()) == 2
    assert MEANT[command] in error_line(capsys)


def test_no_command_is_help_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Commands:" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("univfast cor", "correlate"),
        ("univfast correlate --mat", "--match"),
        ("univfast correlate --match o", "one-to-one"),
        ("univfast correlate --rotation ha", "hadamard"),
    ],
)
def test_shells_complete(words: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = words.split()
    found = ShellComplete(cli, {}, "univfast", "_UNIVFAST_COMPLETE").get_completions(
        parts[1:-1], parts[-1]
    )
    assert expected in [item.value for item in found]


def test_what_a_measurement_is_of_is_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    assert panels(capsys.readouterr().out)["Input"] == ["--tokens", "--neurons"]
