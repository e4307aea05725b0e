"""`univfast control`: of model files, of directories, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.command import SMALL_MODEL, error_line, run
from support.language_models import CPU, LLAMA_HOOKS, Directories, on_text
from univfast.experiment import load_model
from univfast.text.models import load_model as load_directory


def test_of_a_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "a.ckpt", tmp_path / "c.ckpt"
    assert run("train", model, *SMALL_MODEL) == 0
    for options in ((), ("--no-match-rate",)):
        assert run("control", model, "--seed", 3, "--out", out, *options) == 0
        kind = "plain" if options else "rate-matched"
        assert capsys.readouterr().out == f"{out}: a {kind} control of {model}, seed 3\n"
        control = load_model(out)
        assert (control.control, control.match_rate) == (3, not options)
    assert run("capture", out, "--out", tmp_path / "c.pt", "--quiet") == 0
    assert run("correlate", model, out, "--match", "best", "--quiet") == 0
    assert run("control", out, "--out", tmp_path / "d.ckpt") == 2
    assert "c.ckpt: is a control itself; give the trained model" in error_line(capsys)
    assert not (tmp_path / "d.ckpt").exists()


def test_of_a_directory(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "c"
    options = on_text(directories, "--context", 16, "--skip", "newline")
    assert run("control", directories.gpt2, "--seed", 2, *options, "--out", out) == 0
    said = f"{out}: a rate-matched control of {directories.gpt2}, seed 2\n"
    assert capfd.readouterr() == (said, "")
    note = load_directory(str(out), CPU).control
    assert note is not None
    assert note.seed == 2
    assert note.matched_on is not None
    assert {name: note.matched_on[name] for name in ("hooks", "skip", "context")} == {
        "hooks": ["transformer.h.*.mlp.act"],
        "skip": ["newline"],
        "context": 16,
    }
    assert 0 < int(str(note.matched_on["pilot_tokens"])) <= 16_384
    assert run("capture", out, *options, "--out", tmp_path / "acts", "--quiet") == 0
    plain = ("--no-match-rate", "--quiet", "--out", tmp_path / "p")
    assert run("control", directories.llama, *plain) == 0
    note = load_directory(str(tmp_path / "p"), CPU).control
    assert note is not None
    assert note.matched_on is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt2", ("--quiet",), "matched on --text FILE at --hooks GLOB; give both, or --no-match"),
        ("gpt2", ("--text", "a.txt"), "at --hooks GLOB; give both, or --no-match-rate for a plain"),
        ("gpt2", ("--no-match-rate", "--bos"), "--bos says how rates are matched; leave it or"),
        ("gpt2", ("--no-match-rate", "--mask", "m.pt"), "--mask says how rates are matched;"),
        ("gpt2", ("--no-match-rate", "--out", "full"), "full: is there already, and not empty;"),
        ("nowhere", (), "nowhere: no such file or directory"),
        ("empty", ("--no-match-rate",), "empty: is not the directory of a Hugging Face model"),
        ("a.ckpt", ("--text", "a.txt"), "--text is for directories of Hugging Face models; leave"),
        ("a.ckpt", ("--device", "cpu"), "--device is for directories of Hugging Face models"),
        ("a.ckpt", ("--out", "a.ckpt"), "a.ckpt: is the model itself; name another --out"),
        ("text.pt", (), "text.pt: is damaged, or not a file of plain tensors"),
    ],
)
def test_what_is_refused(
    model: str,
    options: tuple[str, ...],
    message: str,
    directories: Directories,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("full/a", "empty"):
        os.makedirs(folder)
    for name in ("a.ckpt", "text.pt", "a.txt", "m.pt"):
        Path(name).write_text("nothing")
    source = getattr(directories, model, model)
    assert run("control", source, "--out", "out", *options) == 2
    assert message in error_line(capsys)
    assert not Path("out").exists()


def test_layers_whose_rates_cannot_be_matched_are_named(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = on_text(directories, hooks=LLAMA_HOOKS)
    assert run("control", directories.llama, *options, "--out", tmp_path / "c") == 2
    line = error_line(capfd)
    assert "rates cannot be matched at layer 'model.layers.0.mlp.down_proj:input' (Linear)" in line
    assert "--no-match-rate" in line
    assert not [*tmp_path.iterdir()]
