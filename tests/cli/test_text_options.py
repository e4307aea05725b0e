"""Options of the commands that run models on a text, where they do not go together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.command import SMALL_MODEL, error_line, run
from support.language_models import Directories, on_text


def test_options_that_do_not_go_together_are_refused(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gpt2, acts, text = directories.gpt2, tmp_path / "a.pt", on_text(directories)
    none = tmp_path / "none"
    torch.save(torch.randn(20, 3), acts)
    needs = "is the directory of a model, which needs --text FILE and --hooks GLOB"
    out = ("--out", tmp_path / "o")
    for arguments, expected in (
        (["correlate", gpt2, gpt2], f"{gpt2}: {needs}"),
        (["correlate", gpt2, gpt2, *text[:2]], f"{gpt2}: {needs}"),
        (["correlate", gpt2, gpt2, *text[2:]], f"{gpt2}: {needs}"),
        (
            ["correlate", acts, acts, *text],
            f"{acts}: is no directory of a Hugging Face model, which --text",
        ),
        (
            ["correlate", acts, acts, "--bos"],
            "is no directory of a Hugging Face model, which --bos is for",
        ),
        (
            ["correlate", acts, acts, "--hooks-b", "x"],
            "is no directory of a Hugging Face model, which --hooks-b is for",
        ),
        (["correlate", gpt2, acts, *text], f"{acts}: is no directory of a Hugging Face model, but"),
        (["correlate", gpt2, gpt2, *text, "--skip", "odd"], "skip: got 'odd', expected special"),
        (["correlate", gpt2, gpt2, *text, "--hooks-b", "odd"], "hooks: no module matches 'odd'"),
        (["capture", gpt2, *out], f"{gpt2}: {needs}"),
        (["capture", gpt2, *text, *out, "--site", "pre"], f"{gpt2}: --site is for a model file"),
        (["capture", gpt2, *text, *out, "--context", 0], "'--context': 0 is not in the range"),
        (["capture", tmp_path, *text, *out], f"{tmp_path}: is not the directory of a Hugging Face"),
        (["capture", gpt2, *text, "--out", acts], f"{acts}: is not a directory"),
        (["capture", gpt2, *text, "--out", gpt2], f"{gpt2}: is the directory of a model; name"),
        (["capture", none, *text, *out], f"{none}: no such file or directory; check the path"),
        (["correlate", gpt2, none, *text], f"{none}: no such file or directory; check the path"),
        (["correlate", none, none, *text], f"{none}: no such file or directory; check the path"),
    ):
        assert run(*arguments) == 2, arguments
        assert expected in error_line(capfd)
        assert not (tmp_path / "o").exists()
    model = tmp_path / "a.ckpt"
    assert run("train", model, *SMALL_MODEL) == 0
    for arguments, expected in (
        (text, f"{model}: --text is for directories of Hugging Face models"),
        (["--dtype", "float16"], f"{model}: --dtype is for directories of Hugging Face models"),
        (["--hooks", "blocks.*", "--site", "pre"], "--site and --hooks both say what to capture"),
        (["--hooks", "odd"], "hooks: no module matches 'odd'"),
    ):
        assert run("capture", model, *out, *arguments) == 2
        assert expected in error_line(capfd)


def test_a_missing_library_says_how_to_install_it(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run("correlate", directories.gpt2, directories.half, *on_text(directories)) == 2
    line = error_line(capfd)
    assert str(directories.gpt2) in line
    assert "pip install 'univfast[transformers]'" in line


@pytest.mark.slow
def test_no_library_says_anything(directories: Directories, tmp_path: Path) -> None:
    """As a process, on a text that is longer than the model reads: no bars, logs or warnings."""
    command = [sys.executable, "-m", "univfast", "capture", directories.gpt2, "--out", tmp_path]
    done = subprocess.run(
        [*map(str, command), *map(str, on_text(directories, "--quiet"))],
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
