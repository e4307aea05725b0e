"""NumPy's files: ``.npy``, and ``.npz``, a zip file of them."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import MappedFile, extent
from univfast.inputs.sparse import SparseStored
from univfast.inputs.sparse_tensors import of_scipy_file
from univfast.inputs.stored import Stored, from_numpy
from univfast.inputs.zip_files import Member, read_member
from univfast.machine.reading import open_file

__all__ = ["read_npy", "read_npz"]

# Bytes: NumPy refuses headers of more than 10,000 characters itself.
_HEADER = 1 << 16

# Members of what ``scipy.sparse.save_npz`` writes, whatever its form.
_SCIPY = {"format.npy", "shape.npy", "data.npy"}

_HEADER_READERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    # Differs only in letting the names of a record's fields be other than Latin.
    (3, 0): npy_format.read_array_header_2_0,
}


def read_npy(file: SourceFile, lone: str) -> dict[str, Stored]:
    """The array of a ``.npy`` file, in place."""
    whole, where = (0, len(file.mapped.bytes)), f"{file.path}: layer {lone!r}"
    return {lone: from_numpy(_in_place(file, whole, where), where, file.mapped)}


def read_npz(
    file: SourceFile, lone: str
) -> dict[str, Stored | InputError] | dict[str, SparseStored]:
    """The arrays of a ``.npz`` file: in place as ``numpy.savez`` writes them.

    Those of ``numpy.savez_compressed`` have no place in the file and are loaded whole. What
    ``scipy.sparse.save_npz`` wrote is one sparse array.
    """
    members = {member.name: member for member in file.members or ()}
    if members.keys() >= _SCIPY:
        form = _array(file, members["format.npy"], file.path)[0]
        if form.dtype.kind in "SU" and form.size == 1:
            kind, where = str(form.astype(str).item()), f"{file.path}: layer {lone!r}"
            named = {x.name.removesuffix(".npy"): x for x in file.members or ()}
            del named["format"]
            parts = {name: from_numpy(*_placed(file, x, where)) for name, x in named.items()}
            return {lone: of_scipy_file(kind, parts, where)}
    arrays: dict[str, Stored | InputError] = {}
    for member in file.members or ():
        layer = member.name.removesuffix(".npy")
        if layer in arrays:
            raise ValueError(f"two members {layer!r}")
        try:
            where = f"{file.path}: layer {layer!r}"
            if layer == member.name:
                raise InputError(f"{where}: is not an array; save arrays alone, with numpy.savez")
            arrays[layer] = from_numpy(*_placed(file, member, where))
        except InputError as error:
            arrays[layer] = error
    return arrays


def _placed(
    file: SourceFile, member: Member, where: str
) -> tuple[NDArray[Any], str, MappedFile | None]:
    """The array of a member, as `from_numpy` takes it."""
    array, mapped = _array(file, member, where)
    return array, where, mapped


def _array(file: SourceFile, member: Member, where: str) -> tuple[NDArray[Any], MappedFile | None]:
    """The array of a member, and the mapping that it is in; None where it was compressed."""
    if not member.compressed:
        return _in_place(file, member.span, where), file.mapped
    with open_file(file.path) as opened:
        data = read_member(opened, member)
    header = _Header(data[:_HEADER].tobytes(), len(data), where)
    array: NDArray[Any] = np.ndarray(
        header.shape, header.dtype, data.data, header.length, order=header.order
    )
    return array, None


def _in_place(file: SourceFile, span: tuple[int, int], where: str) -> NDArray[Any]:
    start, stop = span
    begin = file.mapped.bytes[start : min(start + _HEADER, stop)].tobytes()
    header = _Header(begin, stop - start, where)
    span = (start + header.length, stop)
    return file.mapped.array(header.shape, header.dtype, span, order=header.order)


class _Header:
    """What stands before the values of an array.

    Attributes:
        shape, dtype: of the array.
        order: "C" or "F".
        length: bytes of the header.
    """

    def __init__(self, begin: bytes, size: int, where: str) -> None:
        """Of a file of ``size`` bytes that begins so.

        Raises:
            InputError: the array is of pickled objects, or more follows behind it.
            ValueError: it is no header, or the file ends within the array.
        """
        file = io.BytesIO(begin)
        try:
            read = _HEADER_READERS[npy_format.read_magic(file)]
            self.shape, fortran_order, self.dtype = read(file)
        except Exception as error:
            # It is parsed as Python, which runs out of memory where it is nested too deep.
            raise ValueError("no header that NumPy writes") from error
        if self.dtype.hasobject:
            raise InputError(
                f"{where}: holds pickled Python objects, which were not executed; "
                "save it as an array of float32"
            )
        self.order: Literal["C", "F"] = "F" if fortran_order else "C"
        self.length = file.tell()
        if self.dtype.shape:
            raise ValueError(f"an array of arrays, {self.dtype}")
        missing = self.length + extent(self.shape, None, self.dtype.itemsize) - size
        if missing > 0:
            raise ValueError(f"{missing} bytes are missing")
        if missing < 0:
            raise InputError(
                f"{where}: has {-missing} bytes behind the array of shape {list(self.shape)}, as "
                "if it held several; save each array to a file of its own"
            )
