"""NumPy's files: ``.npy``, and ``.npz``, a zip file of them."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import extent
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


def read_npz(file: SourceFile, lone: str) -> dict[str, Stored] | dict[str, SparseStored]:
    """The arrays of a ``.npz`` file: in place as ``numpy.savez`` writes them.

    Those of ``numpy.savez_compressed`` have no place in the file and are loaded whole. What
    ``scipy.sparse.save_npz`` wrote is one sparse array.
    """
    arrays: dict[str, Stored] = {}
    form = None
    sparse = {member.name for member in file.members or ()} >= _SCIPY
    for member in file.members or ():
        layer = member.name.removesuffix(".npy")
        where = f"{file.path}: layer {layer!r}"
        if layer == member.name:
            raise InputError(f"{where}: is not an array; save arrays alone, with numpy.savez")
        if member.compressed:
            array, mapped = _loaded(file, member, where), None
        else:
            array, mapped = _in_place(file, member.span, where), file.mapped
        if sparse and layer == "format" and array.dtype.kind in "SU" and array.size == 1:
            form = str(array.astype(str).item())
        else:
            arrays[layer] = from_numpy(array, where, mapped)
    if form is None:
        return arrays
    return {lone: of_scipy_file(form, arrays, f"{file.path}: layer {lone!r}")}


def _loaded(file: SourceFile, member: Member, where: str) -> NDArray[Any]:
    with open_file(file.path) as opened:
        data = read_member(opened, member)
    header = _Header(data[:_HEADER].tobytes(), len(data), where)
    array: NDArray[Any] = np.ndarray(
        header.shape, header.dtype, data.data, header.length, order=header.order
    )
    return array


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
