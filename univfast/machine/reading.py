"""Reading files: regular ones alone, and one line for whatever is wrong with them."""

from __future__ import annotations

import json
import os
import stat
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from univfast.errors import InputError

__all__ = [
    "MOST_JSON",
    "check_folder",
    "damaged",
    "open_file",
    "parse_json",
    "read_json",
    "reading",
    "reason",
]

MOST_JSON = 16 << 20
"""Bytes. A configuration has kilobytes; parsed, JSON takes up to 20 times as much memory."""
_AGAIN = "write it again"
_MEMORY = "can't allocate memory"  # what PyTorch says instead of a MemoryError


@contextmanager
def reading(
    path: str | os.PathLike[str], remedy: str = _AGAIN, give: str = "give a file"
) -> Iterator[None]:
    """Makes an InputError, of one line, of whatever goes wrong while a file is read.

    Args:
        path: begins the line. Refused where it is not a regular file, or is empty.
        remedy: what to do where its content is wrong.
        give: what to do where it is no file.
    """
    name = os.fsdecode(path)
    _check_file(name, give)
    try:
        with warnings.catch_warnings():
            # Readers warn of old headers, protocols and TorchScript: what matters is an error.
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except OSError as error:
        if error.errno is None:  # not of the system: pyarrow says so of content
            raise damaged(name, error, remedy) from error
        raise InputError(f"{name}: {reason(error)}; check the file") from error
    except MemoryError as error:
        raise _too_large(name) from error
    except Exception as error:
        # Readers raise anything, from struct.error to RecursionError.
        if _MEMORY in str(error):
            raise _too_large(name) from error
        raise damaged(name, error, remedy) from error


def damaged(path: str | os.PathLike[str], why: Exception | str, remedy: str = _AGAIN) -> InputError:
    """An error that says why the content of a file cannot be what was written."""
    said = _one_line(why) if isinstance(why, Exception) else why
    return InputError(f"{os.fsdecode(path)}: is damaged or incomplete ({said}); {remedy}")


def open_file(path: str | os.PathLike[str], give: str = "give a file") -> BinaryIO:
    """A regular file, to read: a pipe would be waited for, and a device has no end.

    Raises:
        InputError: there is none; names it, and ends with ``give`` where it is something else.
    """
    name = os.fsdecode(path)
    try:
        _check_kind(name, os.stat(name), give)
        # A pipe that takes its place now is not waited for.
        file = open(name, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({reason(error)}); check the path") from error
    try:
        _check_kind(name, os.fstat(file.fileno()), give)
    except InputError:
        file.close()
        raise
    return file


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuses a directory for another library to read, which would wait for a pipe in it.

    Raises:
        InputError: something in it is neither a regular file nor a directory; names it.
    """
    for name in os.listdir(path):
        inside = os.path.join(path, name)
        if os.path.exists(inside) and not (os.path.isfile(inside) or os.path.isdir(inside)):
            raise InputError(f"{inside}: is not a regular file; remove it from the directory")


def read_json(path: str | os.PathLike[str], remedy: str = _AGAIN) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        InputError: there is no such file, or it holds something else, or over 16 MiB.
    """
    with reading(path, remedy), open_file(path) as file:
        text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise damaged(path, f"over {MOST_JSON >> 20} MiB of JSON", remedy)
        return parse_json(text)


def parse_json(text: bytes, once: bool = False) -> dict[str, Any]:
    """The object in a JSON text, whose names stand but ``once``. Raises ValueError for all else."""
    try:
        found = json.loads(text, object_pairs_hook=_each_once if once else None)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def reason(error: Exception) -> str:
    """What the system says of an error, to stand in a line of ours."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _check_file(path: str, give: str) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {reason(error)}; check the path") from error
    _check_kind(path, status, give)
    if status.st_size == 0:
        raise InputError(f"{path}: is empty; {_AGAIN}")


def _check_kind(path: str, status: os.stat_result, give: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: cannot be read (is a directory); {give}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file; save it to one, and {give}")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _too_large(path: str) -> InputError:
    return InputError(
        f"{path}: does not fit into memory; save it uncompressed, so that it can be mapped"
    )


def _one_line(error: Exception) -> str:
    """What an exception says, as a part of a line."""
    text = "".join(char if char.isprintable() else " " for char in str(error))
    said = textwrap.shorten(text, 160, placeholder=" ...").rstrip(".")
    plain = type(error) is ValueError
    return (said if plain else f"{type(error).__name__}: {said}") if said else type(error).__name__
