"""Writing files whole: under a temporary name, then moved into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from univfast.errors import InputError

__all__ = ["check_writable", "make_directory", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes ``path``'s place if the block ends without an exception.

    Until then, and after a failure, what was at ``path`` is as it was.

    Raises:
        InputError: the file cannot be written.
    """
    target = Path(path)
    temporary = None
    try:
        if target.is_dir():
            raise IsADirectoryError(None, "is a directory")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only the owner read
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); name a place that can be"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a path that could not be written, before the work whose result goes there.

    Raises:
        InputError: as `replacing` would.
    """
    target = Path(path)
    reason = None
    if target.is_dir():
        reason = "is a directory"
    elif not target.parent.is_dir():
        reason = f"{target.parent} is not a directory"
    elif not os.access(target.parent, os.W_OK):
        reason = f"{target.parent} cannot be written to"
    if reason is not None:
        raise InputError(f"{path}: cannot be written ({reason}); name a place that can be")


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory, made with its parents if it is not there.

    Raises:
        InputError: it cannot be made, or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: no such directory can be made ({error.strerror or error}); name another"
        ) from error
    check_writable(folder / "file")
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
