"""Files and directories that one run at a time writes to.

A run holds a lock of the system's (``flock``), which is given back when its process ends, however
it ends. It is on a file beside what it locks, which says who holds it and is removed at the end;
one that a killed process left locks nothing. Over NFS the lock is seen by other machines where
their lock services work, and mounts with ``local_lock`` or ``nolock`` keep it to the machine. Where
a file system or system has no such locks, as Windows has none, nothing is locked.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from univfast.errors import InputError
from univfast.machine.files import check_directory
from univfast.machine.signals import unfinished

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock", "holding_directory", "holding_file", "lock_file"]

_IN_DIRECTORY = ".univfast.lock"
_LONGEST = 200  # bytes, of who holds a lock


class Lock:
    """A lock that this process holds, until `release` or its end.

    Args:
        path: what is locked, as users named it.
        file: the file that the lock is on, made if it is not there.

    Attributes:
        sure: whether no other can hold it; else the file system has no locks.

    Raises:
        InputError: another run holds it, or the file cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None
        self.sure = False
        try:
            while self._descriptor is None:
                self._descriptor = self._attempt(path)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be locked ({error.strerror or error}); name a place that can be"
                " written to"
            ) from error

    def _attempt(self, path: str | os.PathLike[str]) -> int | None:
        """The file, opened and locked; None where its holder was just removing it."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._file, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        try:
            self.sure = _lock(descriptor)
            if self.sure and not _is(descriptor, self._file):
                os.close(descriptor)
                return None
            unfinished[str(self._file)] = os.unlink  # by a signal that ends the process
            with suppress(OSError):  # of a full disk: it is locked all the same
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode()[:_LONGEST])
        except BlockingIOError:
            holder = os.read(descriptor, _LONGEST).decode(errors="replace").split()
            os.close(descriptor)
            raise _held(path, holder) from None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def release(self) -> None:
        """Gives it back, once; others may take it then."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        unfinished.pop(str(self._file), None)
        with suppress(OSError):
            if self.sure and _is(descriptor, self._file):
                self._file.unlink()  # while it is held: nobody else's
            elif not self.sure:
                self._file.unlink()
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether it is locked now; not where there are no locks.

    Raises:
        BlockingIOError: another holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from error
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def _is(descriptor: int, file: Path) -> bool:
    """Whether the file that is open is the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False


def _held(path: str | os.PathLike[str], holder: list[str]) -> InputError:
    who = "another run"
    if len(holder) == 2 and holder[0].isdigit():
        number, host = holder
        own = int(number) == os.getpid() and host == socket.gethostname()
        who = "this process" if own else f"process {number} on {host}"
    return InputError(f"{path}: is in use by {who}; wait until that run has ended, or name another")


def lock_file(path: str | os.PathLike[str]) -> Lock:
    """A lock on a file that is, or will be, at ``path``.

    Raises:
        InputError: another run holds it, or its directory cannot be written to.
    """
    target = Path(os.path.realpath(path))
    return Lock(path, target.parent / f".{target.name}.lock")


@contextmanager
def holding_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """A block that alone writes to a file. Raises what `lock_file` does."""
    lock = lock_file(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def holding_directory(path: str | os.PathLike[str]) -> Iterator[None]:
    """A block that alone writes to a directory, made if it is not there.

    If it is empty at the end, it is removed again, with the parents that were made for it.

    Raises:
        InputError: another run holds it, or it cannot be made or written to.
    """
    check_directory(path)
    folder = Path(os.path.realpath(path))
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with _unfinished(made):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(path, folder / _IN_DIRECTORY)
        except OSError as error:
            raise InputError(
                f"{path}: no such directory can be made ({error.strerror or error}); name another"
            ) from error
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):  # it is not empty, mostly
                for each in made:
                    each.rmdir()


@contextmanager
def _unfinished(made: Sequence[Path]) -> Iterator[None]:
    """A block in which a signal that ends the process removes directories that are empty."""
    for each in reversed(made):
        unfinished[str(each)] = os.rmdir
    try:
        yield
    finally:
        for each in made:
            unfinished.pop(str(each), None)
