"""``univfast report``: results drawn again, and beside each other; as docs/report.md says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from support import ROOT
from support.command import error_line, run
from support.made_up import made_up
from support.pictured import SCRIPTS, Page
from univfast.report.files import save_result


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is where commands run, with two results."""
    monkeypatch.setattr("univfast.report.plots.png_bytes", lambda figure: b"")
    monkeypatch.chdir(tmp_path)
    for name, planted in (("one", 12), ("<two>", 5)):
        save_result(made_up(30, planted), tmp_path / name, published=False)
    return tmp_path


def test_each_is_drawn_again(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (two / name / "report.html").read_bytes() for name in ("one", "<two>")}
    for name in before:
        (two / name / "report.html").unlink()
    assert run("report", "one", "<two>") == 0
    said = capsys.readouterr().out
    assert "12 neurons of A are universal" in said
    assert "5 neurons of A are universal" in said
    assert {name: (two / name / "report.html").read_bytes() for name in before} == before


def test_beside_each_other(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "one", "<two>", "--out", "both.html") == 0
    assert "both.html" in capsys.readouterr().out.splitlines()[-1]
    page = Page((two / "both.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == SCRIPTS
    assert page.links == ["data:,"]
    for name, planted in (("one", 12), ("<two>", 5)):
        assert name in page.text
        assert f"{planted} neurons of A are universal" in page.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["one", "--out", "x.html"], "--out: puts results beside each other, and needs two"),
        (["one", "<two>", "--out", "x.pdf"], "--out: expected the name of a page"),
        (["one", "<two>", "--out", "one/report.html"], "is the report of one of them"),
        (["none", "one", "--out", "x.html"], "none"),
    ],
)
def test_what_is_refused(
    two: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = (two / "one" / "report.html").read_bytes()
    assert run("report", *arguments) == 2
    assert said in error_line(capsys)
    assert not (two / "x.html").exists()
    assert (two / "one" / "report.html").read_bytes() == before


def test_a_page_that_cannot_be_written(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "one", "<two>", "--out", "no/x.html") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("Error: no/x.html: cannot be written")


@pytest.mark.slow
def test_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(f"{name}.npy", g.standard_normal((200, 12)))
    (block,) = re.findall(
        r"```bash\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), re.DOTALL
    )
    first, *others = [line.split("#")[0].split() for line in block.splitlines()]
    assert run(*first[1:]) == 0
    shutil.copytree("result", "other")
    for line in others:
        assert line[0] == "univfast"
        assert run(*line[1:]) == 0
    assert Path("beside.html").exists()
