"""Two commands that write to one place: the second is refused before it does anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.command import SMALL_MODEL, error_line, run
from support.language_models import Directories
from univfast.machine.locks import holding_directory, holding_file

Holding = Callable[[Path], AbstractContextManager[None]]


def check(capsys: pytest.CaptureFixture[str], hold: Holding, place: Path, *command: object) -> None:
    """The command is refused while the place is held, and leaves it as it was."""
    capsys.readouterr()
    with hold(place):
        before = sorted(x for x in place.rglob("*")) if place.is_dir() else place.exists()
        assert run(*command) == 2
        after = sorted(x for x in place.rglob("*")) if place.is_dir() else place.exists()
        assert before == after
    assert error_line(capsys).startswith(f"Error: {place}: is in use by this process; wait until")


def test_correlate_and_report(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "out", tmp_path / "run.pt"
    command = ("correlate", *pair, "--match", "index", "--quiet")
    check(capsys, holding_directory, out, *command, "--out", out)
    assert not out.exists()
    check(capsys, holding_file, saved, *command, "--checkpoint", saved)
    assert run(*command, "--out", out) == 0
    check(capsys, holding_directory, out, "report", out)
    assert not (out / ".univfast.lock").exists()


def test_results_are_not_written_among_activations(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "acts"
    folder.mkdir()
    pair[1].rename(folder / "b.pt")
    assert run("correlate", pair[0], folder, "--match", "index", "--out", folder) == 2
    assert f"{folder}: --out is an input, which would be changed" in error_line(capsys)
    assert [path.name for path in folder.iterdir()] == ["b.pt"]


@pytest.mark.slow
def test_train_capture_control_and_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    train = ("train", model, *SMALL_MODEL)
    check(capsys, holding_file, model, *train)
    assert run(*train) == 0
    check(capsys, holding_file, out, "capture", model, "--out", out)
    check(capsys, holding_file, out, "control", model, "--out", out)
    demo = tmp_path / "demo"
    check(capsys, holding_directory, demo, "demo", "--out", demo)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.ckpt"]


@pytest.mark.slow
def test_directories_of_models(
    directories: Directories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    text = ("--text", directories.text, "--hooks", "transformer.h.*.mlp.act")
    model = directories.gpt2
    check(capsys, holding_directory, out, "capture", model, "--out", out, *text)
    check(capsys, holding_file, out, "control", model, "--out", out, "--no-match-rate")
    assert not list(tmp_path.iterdir())
