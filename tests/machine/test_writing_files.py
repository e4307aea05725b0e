"""Files that are written whole, together, or not at all; and signals meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

import univfast as uf
from univfast.machine.files import making_directory, replacing, write_together
from univfast.machine.signals import held, noted, unfinished


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    yield
    signal.signal(signal.SIGINT, before)


def test_together_or_none(tmp_path: Path) -> None:
    contents = {tmp_path / name: name.encode() for name in "abc"}
    (tmp_path / "c").mkdir()
    with pytest.raises(uf.InputError, match=rf"^{tmp_path}/c: cannot be written \(is not an ordi"):
        write_together(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (tmp_path / "c").rmdir()
    write_together(contents)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_what_writes_itself_is_written_together_too(tmp_path: Path) -> None:
    def lines(file: BinaryIO) -> None:
        file.writelines([b"x"] * 100_000)

    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    write_together({tmp_path / "a": b"a", tmp_path / "to": lines})
    assert (tmp_path / "to").read_bytes() == b"x" * 100_000
    with pytest.raises(ZeroDivisionError):
        write_together({tmp_path / "a": b"other", tmp_path / "to": fails})
    assert (tmp_path / "a").read_bytes() == b"a"
    assert (tmp_path / "to").read_bytes() == b"x" * 100_000
    assert len([*tmp_path.iterdir()]) == 2


def test_a_signal_waits_until_all_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    contents = {tmp_path / name: name.encode() for name in "abc"}
    with pytest.raises(KeyboardInterrupt):
        write_together(contents)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert unfinished == {}


def test_what_is_unfinished_is_known_to_signals(tmp_path: Path) -> None:
    for making in (replacing, making_directory):
        with making(tmp_path / "x"):
            ((path, remove),) = unfinished.items()
            assert os.path.exists(path)
            remove(path)
            assert list(tmp_path.iterdir()) == []
            if making is making_directory:
                os.mkdir(path)
            else:
                Path(path).touch()
        assert unfinished == {}
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        (tmp_path / "x").unlink() if making is replacing else (tmp_path / "x").rmdir()


def test_names_of_full_length_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u5c42" * 85):
        write_together({tmp_path / name: b"whole"})
        assert (tmp_path / name).read_bytes() == b"whole"


@pytest.mark.parametrize("path", ["", " ", "a\0b", "x" * 300])
def test_what_is_no_path_is_refused_in_python(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a = torch.randn(50, 4)
    result = uf.correlate(a, a, match="index", draws=1)
    for name, call in {
        "a": lambda: uf.correlate(path, a),
        "b": lambda: uf.correlate(a, path),
        "mask": lambda: uf.correlate(a, a, mask=path),
        "checkpoint": lambda: uf.correlate(a, a, checkpoint=path),
        "path": lambda: result.save(path),
    }.items():
        with pytest.raises(uf.InputError, match=rf"^{name}: "):
            call()
    assert list(tmp_path.iterdir()) == []


def test_signals_come_after_a_block_that_holds_them() -> None:
    done = []

    def work(fails: bool) -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            done.append(fails)
            assert not fails

    for fails in (False, True):
        with pytest.raises(KeyboardInterrupt):
            work(fails)
    assert done == [False, True]


def test_a_hangup_is_noted_unless_nohup_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with noted(1.0) as came:
            signal.raise_signal(signal.SIGHUP)
            assert not came()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with noted(1.0) as came:
            signal.raise_signal(signal.SIGHUP)
            assert came()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
