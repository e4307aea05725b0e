"""NumPy's files: ``.npy``, and ``.npz``, a zip file of them."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import MappedFile, Member
from univfast.inputs.stored import Stored, from_numpy

__all__ = ["read_npy", "read_npz"]

# Bytes: NumPy refuses headers of more than 10,000 characters itself.
_HEADER = 1 << 16

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    # Differs only in letting the names of a record's fields be other than Latin.
    (3, 0): npy_format.read_array_header_2_0,
}


def read_npy(file: SourceFile, lone: str) -> dict[str, Stored]:
    """The array of a ``.npy`` file, in place."""
    where, mapped = f"{file.path}: layer {lone!r}", file.mapped
    return {lone: from_numpy(_map_npy(mapped, (0, len(mapped.bytes)), where), where, mapped)}


def read_npz(file: SourceFile, lone: str) -> dict[str, Stored]:
    """The arrays of a ``.npz`` file: in place as ``numpy.savez`` writes them.

    Those of ``numpy.savez_compressed`` have no place in the file and are loaded whole.
    """
    arrays: dict[str, Stored] = {}
    for member in file.members or ():
        layer = member.name.removesuffix(".npy")
        where = f"{file.path}: layer {layer!r}"
        if layer == member.name:
            raise InputError(f"{where}: is not an array; save arrays alone, with numpy.savez")
        if member.compressed:
            arrays[layer] = from_numpy(_load_npy(file.path, member, where), where)
        else:
            arrays[layer] = from_numpy(
                _map_npy(file.mapped, member.span, where), where, file.mapped
            )
    return arrays


def _map_npy(mapped: MappedFile, span: tuple[int, int], where: str) -> NDArray[Any]:
    start, stop = span
    file = io.BytesIO(mapped.bytes[start : min(start + _HEADER, stop)].tobytes())
    shape, fortran_order, dtype = _header(file, where)
    span = (start + file.tell(), stop)
    return mapped.array(shape, dtype, span, order="F" if fortran_order else "C")


def _load_npy(path: str, member: Member, where: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        with archive.open(member.name) as file:
            _header(io.BytesIO(file.read(_HEADER)), where)
        with archive.open(member.name) as file:
            array: NDArray[Any] = npy_format.read_array(file, allow_pickle=False)
            return array


def _header(file: io.BytesIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = _HEADER_READERS[npy_format.read_magic(file)]
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise InputError(
            f"{where}: holds pickled Python objects, which were not executed; "
            "save it as an array of float32"
        )
    return shape, fortran_order, dtype
