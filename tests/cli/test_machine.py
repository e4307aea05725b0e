"""What the machine refuses, and streams that are not there: one line, and no result is lost."""

from __future__ import annotations

import errno
import io
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.command import SMALL_MODEL, error_line, run
from univfast.cli.failures import internal, told
from univfast.cli.printing import say
from univfast.cli.progress import progress_bar
from univfast.errors import InputError
from univfast.machine import limits

NO_PATHS = {
    "": "names no file",
    " \t": "names no file",
    "a\0b": "cannot be a path",
    "x" * 300: "is too long",
    "~/a.pt": "write $HOME/a.pt, or ./~/a.pt",
}
PLACES = [
    ["correlate", "a.pt", "b.pt", "--out=PATH"],
    ["correlate", "a.pt", "b.pt", "--mask=PATH"],
    ["correlate", "a.pt", "b.pt", "--checkpoint=PATH"],
    ["correlate", "a.pt", "b.pt", "--token-ids=PATH"],
    ["correlate", "a.pt", "b.pt", "--text=PATH"],
    ["correlate", "a.pt", "PATH"],
    ["report", "PATH"],
    ["capture", "PATH", "--out=o"],
    ["capture", "a.pt", "--out=PATH"],
    ["control", "a.pt", "--out=PATH"],
    ["train", "PATH"],
    ["train", "a.ckpt", "--data=PATH"],
    ["demo", "--out=PATH"],
]


@pytest.mark.parametrize("path", NO_PATHS, ids=["empty", "blank", "null", "long", "home"])
def test_what_is_no_path_is_never_the_working_directory(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in PLACES:
        assert run(*(word.replace("PATH", path) for word in place)) == 2
        line = error_line(capsys)
        assert NO_PATHS[path] in line
        assert "Invalid value for '" in line
    assert run("correlate", "a.pt", "b.pt", "--controls-a", "a.pt", path) == 2
    if "\0" not in path:  # which joins them
        assert NO_PATHS[path] in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_option_is_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("correlate", "a.pt", "b.pt", "--out", "--quiet") == 2
    assert "'--quiet' is an option; give a path before it, or ./--quiet" in error_line(capsys)


@pytest.mark.slow
def test_names_that_no_terminal_shows_are_told(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b\udce9\n\x1b[31m\u5c42"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    assert run("correlate", *pair, "--match", "index", "--draws", 1, "--out", out) == 0
    assert rb"b\udce9\n\x1b[31m\u5c42/report.html" in raw.getvalue()
    assert (out / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_loses_no_result(
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["correlate", *pair, "--match", "index", "--draws", 1, "--out", tmp_path / "o"]
    with monkeypatch.context() as patch, open("/dev/full", "wb", 0) as full:
        patch.setattr(sys, "stdout", io.TextIOWrapper(full, "utf-8", write_through=True))
        assert run(*command) == 2
    line = error_line(capsys)
    assert line == (
        "Error: stdout: cannot be written (No space left on device); print to another place"
    )
    assert (tmp_path / "o" / "summary.json").is_file()
    assert run("info") == 0  # and the next command prints


@pytest.mark.slow
def test_a_broken_pipe_is_quiet_and_loses_no_result(
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["correlate", *pair, "--match", "index", "--draws", 1, "--out", tmp_path / "o"]
    for arguments in (command, ["info"]):
        reader, writer = os.pipe()
        os.close(reader)
        with monkeypatch.context() as patch:
            pipe = io.FileIO(writer, "w")
            patch.setattr(sys, "stdout", io.TextIOWrapper(pipe, "utf-8", write_through=True))
            patch.setattr(sys, "stderr", sys.stderr)  # click replaces both
            assert run(*arguments) == 141
            pipe.close()
        assert capsys.readouterr().err == ""
    assert (tmp_path / "o" / "report.html").is_file()


@pytest.mark.slow
def test_a_result_that_cannot_be_saved_is_printed(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "excess.png").mkdir()
    command = ["correlate", *pair, "--match", "index", "--draws", 1, "--out", tmp_path / "o"]
    assert run(*command, "--quiet") == 2
    out, err = capsys.readouterr()
    assert " neurons universal" in out
    assert "Report:" not in out
    assert err.startswith(f"Error: {tmp_path / 'o' / 'excess.png'}: cannot be written")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["excess.png"]


class Hung(io.StringIO):
    """A terminal that was closed after its first lines."""

    left = 2

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return len(text)


@pytest.mark.parametrize("lines", [0, 2, 1000])
def test_a_progress_bar_ends_no_work(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Hung()
    terminal.left = lines
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("univfast.cli.progress._REDRAWN", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("train", "steps", quiet=False) as progress:
        for i in range(20):
            progress(i + 1, 20, note=0.5)
    assert (terminal.left < 0) == (lines < 1000)
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("train", "steps", quiet=False) as progress:
            progress(1, 2)


def test_nobody_at_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    say("text")


# ---- what the machine lacks ---------------------------------------------------------------------


def from_other(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MEMORY, FILES, THREADS = "'ulimit -v' shows", "('ulimit -n')", "('ulimit -u')"
NO_MEMORY = OSError(errno.ENOMEM, "Cannot allocate memory")
LACKS = [
    (MemoryError(), "not enough memory (MemoryError); use less", MEMORY),
    (RuntimeError("std::bad_alloc"), "not enough memory (std::bad_alloc); use less", MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "2.00 GiB", MEMORY),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "segment", MEMORY),
    (NO_MEMORY, "not enough memory ([Errno 12] Cannot allocate memory)", MEMORY),
    (
        from_other(InputError("a.pt: cannot allocate memory; check the file"), NO_MEMORY),
        "a.pt: cannot allocate memory; use less",
        MEMORY,
    ),
    (from_other(InputError("a.npz: does not fit; save it"), MemoryError()), "not fit; save it", ""),
    (OSError(errno.EMFILE, "Too many open files", "a.pt"), "a.pt: Too many open files", FILES),
    (RuntimeError("can't start new thread"), "can't start new thread", THREADS),
    (OSError(errno.EIO, "Input/output error", "a.pt"), "a.pt: Input/output error", ""),
    (OSError("of no number"), "of no number", ""),
]


@pytest.mark.parametrize(("error", "says", "advice"), LACKS)
def test_what_the_machine_lacks_is_told(error: Exception, says: str, advice: str) -> None:
    line = told(error) or ""
    assert says in line
    assert advice in line


def test_memory_that_torch_cannot_have_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert (told(caught.value) or "").startswith("not enough memory (asked for 4000000000000000 b")


@pytest.mark.parametrize("error", [RecursionError("deep"), UnicodeError("u"), ZeroDivisionError()])
def test_bugs_are_called_bugs(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(error) is None
    line = internal(error)
    assert f"internal error: {type(error).__name__}: " in line
    assert "please report it with what UNIVFAST_TRACEBACK=1 shows" in line
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("UNIVFAST_TRACEBACK", "1")
    internal(error)
    assert type(error).__name__ in capsys.readouterr().err

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("univfast.experiment.training._step", broken)
    with pytest.raises(type(error)):
        run("train", "no-model.ckpt", *SMALL_MODEL)
    assert not Path("no-model.ckpt").exists()


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("RLIMIT_AS", r"not enough memory: the address space is limited to 500 MB"),
        ("RLIMIT_STACK", r"not enough memory: the stack is limited to 0.1 MB"),
    ],
)
def test_limits_that_are_too_low_are_refused_before_libraries_abort(
    limit: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    low = {"RLIMIT_AS": 500_000_000, "RLIMIT_STACK": 100_000}[limit]
    allowed = resource.getrlimit

    def getrlimit(kind: int) -> tuple[int, int]:
        return (low, low) if kind == getattr(resource, limit) else allowed(kind)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    assert run("info") == 2
    assert says in error_line(capsys)


def test_too_few_threads_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start, left = limits.threading.Thread.start, [2]

    def limited(self: Any) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(self)

    monkeypatch.setattr(limits.threading.Thread, "start", limited)
    assert run("info") == 2
    assert "not enough threads: only 2 of " in error_line(capsys)


def test_a_working_directory_that_has_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run("info") == 2
    assert "the working directory is not there any more" in error_line(capsys)


def test_nowhere_to_write_temporary_files_is_no_hindrance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(limits.tempfile, "tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr(limits.tempfile, "_get_default_tempdir", nowhere)
        assert run("info") == 0
        assert limits.tempfile.gettempdir() == os.sep
