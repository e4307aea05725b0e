"""What a file is, told by its first bytes, and one line for whatever is wrong with it."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from univfast.errors import InputError
from univfast.inputs import numpy_files
from univfast.inputs.mapping import MappedFile, zip_members
from univfast.inputs.safetensors_files import read_safetensors
from univfast.inputs.stored import Stored
from univfast.inputs.torch_files import read_torch

__all__ = ["read_file", "reading", "reason"]

_KINDS = ".pt, .npy, .npz or .safetensors"


def read_file(path: str, lone: str) -> dict[str, Stored] | dict[str, Any]:
    """The arrays of a file by name, in its order; a lone array gets the name ``lone``.

    The kind is told by content, so any file name will do. Where the file is a checkpoint of
    ``univfast train`` (``is_checkpoint``), the dict that was saved. Raises InputError.
    """
    with reading(path):
        return _read(path, lone)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Makes an InputError, of one line, of whatever goes wrong while the file is read."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            # Readers warn of old headers, protocols and TorchScript: what matters is an error.
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}; check the file") from error
    except MemoryError as error:
        raise InputError(
            f"{path}: does not fit into memory; save it uncompressed, so that it can be mapped"
        ) from error
    except Exception as error:
        # Damaged files make the readers raise anything, from struct.error to RecursionError.
        raise InputError(f"{path}: is damaged or incomplete; write it again") from error


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {reason(error)}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a directory; give one file ({_KINDS})")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file; save it to one ({_KINDS})")
    if status.st_size == 0:
        raise InputError(f"{path}: is empty; write it again")


def reason(error: Exception) -> str:
    """What the system says of an error, to stand in a line of ours."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _read(path: str, lone: str) -> dict[str, Stored] | dict[str, Any]:
    mapped = MappedFile(path)
    start = mapped.bytes[:9].tobytes()
    if start.startswith(b"PK"):
        members = zip_members(path, mapped)
        if any(member.name.endswith("/data.pkl") for member in members):
            return read_torch(path, mapped, members, path, lone)
        return numpy_files.read_npz(path, mapped, members, path)
    if start.startswith(numpy_files.MAGIC):
        return numpy_files.read_npy(mapped, path, lone)
    if start[8:9] == b"{":
        return read_safetensors(mapped, path)
    if start.startswith(b"\x80"):  # a pickle of protocol 2 or later
        return read_torch(path, mapped, None, path, lone)
    raise InputError(f"{path}: is not a file of activations; give a {_KINDS} file")
