"""Writing files whole: under a temporary name, then moved into place."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from univfast.checks import check_path
from univfast.errors import InputError
from univfast.machine.signals import held, unfinished

__all__ = [
    "Content",
    "check_directory",
    "check_new_directory",
    "check_writable",
    "make_directory",
    "making_directory",
    "remove_unfinished",
    "replacing",
    "save_tensors",
    "write_together",
]

Content = bytes | Callable[[BinaryIO], None]

_remove_directory = partial(shutil.rmtree, ignore_errors=True)


@contextmanager
def replacing(
    path: str | os.PathLike[str], before: Callable[[], None] | None = None
) -> Iterator[BinaryIO]:
    """A file to write, which takes ``path``'s place if the block ends without an exception.

    Until then, and after a failure, what was at ``path`` is as it was. A link is followed.
    ``before`` is called when the file is whole, right before it takes the place.

    Raises:
        InputError: the file cannot be written, or is no ordinary file.
    """
    check_path("path", path)
    target = Path(os.path.realpath(path))
    with _writing(path), _temporary(target, os.unlink) as temporary:
        with _new_file(target, temporary) as file:
            yield file
        if before is not None:
            before()
        os.replace(temporary, target)


def write_together(contents: Mapping[Path, Content]) -> None:
    """Writes files whole, and all of them or none: none is moved before all are written.

    What is large is given as a function that writes it to the file.

    Raises:
        InputError: one cannot be written, or is no ordinary file.
    """
    with ExitStack() as stack:
        moves = []
        for path, content in contents.items():
            target = Path(os.path.realpath(path))
            temporary = stack.enter_context(_temporary(target, os.unlink))
            with _writing(path), _new_file(target, temporary) as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
            moves.append((path, temporary, target))
        with held():  # or a signal could leave some of one result, and some of another
            for path, temporary, target in moves:
                with _writing(path):
                    os.replace(temporary, target)


@contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says of what the system refuses which path it was, and what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); name a place that can be"
        ) from error


@contextmanager
def _temporary(target: Path, remove: Callable[[str], object]) -> Iterator[Path]:
    """A name beside ``target``, of what is removed where it was not moved there."""
    # Random, because a killed process leaves its file, and process numbers come again.
    temporary = target.parent / f".{_short(target.name)}.{secrets.token_hex(8)}.tmp"
    unfinished[str(temporary)] = remove
    try:
        yield temporary
    finally:
        with suppress(OSError):  # mostly: it was moved, or never made
            remove(str(temporary))
        del unfinished[str(temporary)]


def _short(name: str) -> str:
    """A name to which more can be added: file systems allow 255 bytes."""
    coded = os.fsencode(name)
    return name if len(coded) <= 200 else f"{name[:40]}-{zlib.crc32(coded):08x}"


@contextmanager
def _new_file(target: Path, temporary: Path) -> Iterator[BinaryIO]:
    """The file ``temporary``, which will be ``target``; on the disk when the block ends."""
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "is not an ordinary file")
    with open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the content


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Removes what processes that were killed while they wrote this file have left beside it."""
    target = Path(os.path.realpath(path))
    for left in target.parent.glob(f".{glob.escape(_short(target.name))}.*.tmp"):
        with suppress(OSError):
            left.unlink()


def save_tensors(
    path: str | os.PathLike[str], content: object, before: Callable[[], None] | None = None
) -> None:
    """Writes what ``torch.save`` takes, whole or not at all; ``before`` as `replacing` has it.

    Raises:
        InputError: the file cannot be written.
    """
    import torch

    with replacing(path, before) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch's writer hides the system's reason, which is nearly always this one.
            raise OSError(errno.ENOSPC, "the write failed; is the disk full?") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a file that could not be written, before the work whose result goes there.

    Raises:
        InputError: it is a directory, or its directory is missing or cannot be written to.
    """
    check_path("path", path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: cannot be written (is not an ordinary file); name a file")
    if not target.parent.is_dir():
        raise InputError(f"{path}: {target.parent} is not a directory; make it, or name another")
    check_directory(target.parent)


def check_directory(path: str | os.PathLike[str]) -> None:
    """Refuses a directory that could not be made or written to. Makes nothing.

    Raises:
        InputError: it, or the nearest of its parents that is there, is a file or is protected.
    """
    check_path("path", path)
    folder = Path(path)
    nearest = next((p for p in (folder, *folder.parents) if p.exists()), Path())
    of_it = f"{path}: " if nearest == folder else f"{path}: {nearest} "
    if not nearest.is_dir():
        raise InputError(f"{of_it}is not a directory; name another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{of_it}cannot be written to; name another place")


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory, made with its parents if it is not there.

    Raises:
        InputError: it cannot be made, or written to.
    """
    check_directory(path)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: no such directory can be made ({error.strerror or error}); name another"
        ) from error
    return folder


def check_new_directory(path: str | os.PathLike[str]) -> None:
    """Refuses a directory that is there already with something in it, or could not be made.

    Raises:
        InputError: naming it.
    """
    check_directory(path)
    folder = Path(path)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{path}: is there already, and not empty; name another directory")


@contextmanager
def making_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to fill, which is at ``path`` if the block ends without an exception.

    Raises:
        InputError: what `check_new_directory` refuses, or it cannot be written.
    """
    check_new_directory(path)
    target = Path(os.path.realpath(path))
    make_directory(target.parent)
    with _writing(path), _temporary(target, _remove_directory) as temporary:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, target)
