"""Files and directories that one run at a time writes to."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from univfast.errors import InputError
from univfast.machine import locks
from univfast.machine.locks import holding_directory, holding_file, lock_file

HOLD = """
import sys
from univfast.machine.locks import lock_file
lock = lock_file(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_lock_of_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with held_by_another(path) as process:
        who = f"process {process.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"^{path}: is in use by {who}; wait until"):
            lock_file(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [x.name for x in tmp_path.iterdir()] == [".run.pt.lock"]
    with holding_file(path):
        assert (tmp_path / ".run.pt.lock").read_text().split()[0] == str(os.getpid())
    assert not list(tmp_path.iterdir())


ENDED = """
import os, signal, sys
from univfast.machine.locks import holding_directory
from univfast.machine.signals import end_at_once
end_at_once()
with holding_directory(sys.argv[1]):
    assert os.listdir(sys.argv[1])
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_directory_that_was_made_is_removed_by_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDED, str(tmp_path / "new" / "out")]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, "Interrupted by SIGTERM.\n")
    assert not list(tmp_path.iterdir())


def test_one_holds_a_file_at_a_time(tmp_path: Path) -> None:
    path, link = tmp_path / "run.pt", tmp_path / "link.pt"
    link.symlink_to(path)
    with holding_file(path):
        for named in (path, link, f"{tmp_path}/../{tmp_path.name}/run.pt"):
            with pytest.raises(InputError, match=f"^{named}: is in use by this process; "):
                lock_file(named)
        with holding_file(tmp_path / "other.pt"):
            pass
    lock = lock_file(path)
    lock.release()
    lock.release()
    with holding_file(path):
        pass
    with pytest.raises(InputError, match=r"missing/run.pt: cannot be locked \(No such file"):
        lock_file(tmp_path / "missing" / "run.pt")


def test_a_directory_is_made_and_removed_if_nothing_came(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with holding_directory(folder):
        assert folder.is_dir()
        with (
            pytest.raises(InputError, match=f"^{folder}: is in use by this process; "),
            holding_directory(folder),
        ):
            pass
    assert not (tmp_path / "new").exists()
    with holding_directory(folder):
        (folder / "result").touch()
    assert [x.name for x in folder.iterdir()] == ["result"]
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file: is not a directory; name another place"),
        holding_directory(tmp_path / "file"),
    ):
        pass
    empty = tmp_path / "empty"
    empty.mkdir()
    with holding_directory(empty):
        pass
    assert empty.is_dir()  # which was there before


def test_a_lock_that_is_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its holder ends between the opening and the locking."""
    path, file = tmp_path / "run.pt", tmp_path / ".run.pt.lock"
    lock, attempts = locks._lock, []

    def late(descriptor: int) -> bool:
        attempts.append(descriptor)
        if len(attempts) == 1:
            file.unlink()
        return lock(descriptor)

    monkeypatch.setattr(locks, "_lock", late)
    with holding_file(path):
        assert len(attempts) == 2
        monkeypatch.undo()
        with pytest.raises(InputError, match="is in use by"):
            lock_file(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_where_there_are_no_locks_nothing_is_locked(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(number, "no locks")

    if number is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", flock)
    first, second = lock_file(tmp_path / "run.pt"), lock_file(tmp_path / "run.pt")
    assert not first.sure
    assert not second.sure
    first.release()
    second.release()
    assert not list(tmp_path.iterdir())
