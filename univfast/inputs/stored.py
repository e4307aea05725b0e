"""One array as it was found: a tensor where PyTorch can hold it in place, else a NumPy array."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.dlpack import BackwardsError, tensor_of
from univfast.inputs.mapping import MappedFile
from univfast.inputs.plain import plain_tensor
from univfast.inputs.quantised import Quantiser

__all__ = ["Place", "Stored", "from_bits", "from_memory", "from_numpy"]


@dataclass(frozen=True)
class Stored:
    """An array in memory or in a mapped file, not copied.

    ``data`` is a NumPy array where PyTorch has no tensor for it: in the other byte order, at an
    address that is no multiple of the item size, or with a negative stride. ``copy_rows`` makes a
    tensor of a part of it. ``quantiser``: what its integers stand for; ``told``: what of it is not
    as its file says, and why.
    """

    data: torch.Tensor | NDArray[Any]
    dtype: torch.dtype
    mapped: MappedFile | None = None
    quantiser: Quantiser | None = None
    told: str = ""

    @property
    def read_as(self) -> torch.dtype:
        """The dtype of what is read."""
        return self.dtype if self.quantiser is None else torch.float32

    def copy_rows(self, rows: NDArray[Any]) -> torch.Tensor:
        """A part of ``data``, where that is a NumPy array, as a contiguous tensor."""
        native = rows.astype(rows.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native).view(self.dtype)

    def tensor(self) -> torch.Tensor:
        """All of it, in place where that is possible."""
        return self.data if isinstance(self.data, torch.Tensor) else self.copy_rows(self.data)

    def place(self) -> Place | None:
        """Where it lies in its file; None for an array in memory."""
        if self.mapped is None:
            return None
        data = self.data
        if isinstance(data, torch.Tensor):
            size = data.element_size()
            address, values = data.data_ptr(), f"i{size}" if size <= 8 else "c16"
            strides = tuple(stride * size for stride in data.stride())
        else:
            address, values, strides = data.ctypes.data, data.dtype.str, data.strides
        offset = address - self.mapped.address
        return Place(tuple(data.shape), self.dtype, offset, strides, values, self.quantiser)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in a file, to find it again when the file is mapped anew.

    ``offset`` and ``strides`` are in bytes; ``values`` is NumPy's name for a type of the same bits.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    strides: tuple[int, ...]
    values: str
    quantiser: Quantiser | None = None

    @property
    def read_as(self) -> torch.dtype:
        """The dtype of what is read."""
        return self.dtype if self.quantiser is None else torch.float32

    def map(self, mapped: MappedFile) -> Stored:
        """The array in place. Raises ValueError where it would reach beyond the file."""
        span = (self.offset, len(mapped.bytes))
        bits = mapped.array(self.shape, self.values, span, self.strides)
        return replace(from_bits(bits, self.dtype, mapped), quantiser=self.quantiser)


def from_numpy(array: NDArray[Any], where: str, mapped: MappedFile | None = None) -> Stored:
    """A NumPy array of any layout. ``where`` (file or argument, and layer) begins the error."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(
            f"{where}: is a masked array, whose mask would be lost; "
            "pass the data (.data) and give the mask as mask="
        )
    array = np.asarray(array)
    if _is_bfloat16(array.dtype):
        bits = from_bits(array.view(np.int16), torch.bfloat16, mapped)
        return replace(bits, told=f"dtype {array.dtype} is bfloat16, which NumPy has no name for")
    try:
        dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: has dtype {array.dtype}, which PyTorch cannot share; convert it to float32"
        ) from None
    return Stored(_in_place(array, dtype), dtype, mapped)


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether it is that of ml_dtypes (JAX), which in files is two bytes without a name: |V2."""
    lone = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
    return lone and dtype.name in ("bfloat16", "void16")


def from_bits(bits: NDArray[Any], dtype: torch.dtype, mapped: MappedFile | None) -> Stored:
    """An array of integers as wide as ``dtype``, to be read as ``dtype``.

    NumPy has no bfloat16, so arrays that PyTorch types describe are mapped as their bits.
    """
    return Stored(_in_place(bits, dtype), dtype, mapped)


def from_memory(value: object, where: str, wrong_type: Callable[[str], Exception]) -> Stored:
    """A tensor, a NumPy array or anything that offers DLPack.

    Anything else raises ``wrong_type(message)``: in Python a TypeError, in a file an InputError.
    """
    if isinstance(value, np.ndarray):
        _check_owner(value, where)
        return from_numpy(value, where)
    if not isinstance(value, torch.Tensor):
        if not hasattr(value, "__dlpack__"):
            known = [x for x in ("to_numpy", "toarray") if hasattr(value, x)]
            instead = f"; pass its .{known[0]}()" if known else ""
            raise wrong_type(
                f"{where}: expected a torch.Tensor, a NumPy array or an object with __dlpack__, "
                f"found {type(value).__name__}{instead}"
            )
        try:
            value = tensor_of(value)
        except BackwardsError:
            return _backwards(value, where)
        except Exception as error:  # whatever a class of another library raises
            raise InputError(
                f"{where}: PyTorch cannot take this {type(value).__name__} through DLPack; "
                "pass it as a NumPy array or a torch.Tensor"
            ) from error
    value = plain_tensor(value, where)
    return Stored(value, value.dtype)


def _backwards(value: Any, where: str) -> Stored:
    """An array that runs backwards along an axis, as NumPy's may, where NumPy has its dtype."""
    try:
        return from_numpy(np.from_dlpack(value), where)
    except Exception as error:
        raise InputError(
            f"{where}: this {type(value).__name__} has a negative stride; pass a copy"
        ) from error


def _check_owner(array: NDArray[Any], where: str) -> None:
    """Refuses a view that reaches beyond the array whose memory it is, as `as_strided` makes it."""
    owner: Any = array
    while (base := getattr(owner, "base", None)) is not None:
        owner = base
    if owner is array or not isinstance(owner, np.ndarray) or array.size == 0:
        return
    (low, high), (first, last) = (_bounds(x) for x in (array, owner))
    if low < first or high > last:
        raise InputError(
            f"{where}: is a view of shape {list(array.shape)} that needs {high - low} bytes, and"
            f" reaches beyond the {last - first} of the array that it is of; pass a copy of what is"
            " there"
        )


def _bounds(array: NDArray[Any]) -> tuple[int, int]:
    """The addresses of the first byte and behind the last. NumPy's own moved with version 2."""
    reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    start = array.__array_interface__["data"][0]
    low, high = (start + sum(x for x in reach if (x < 0) is below) for below in (True, False))
    return low, high + array.itemsize


def _in_place(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor | NDArray[Any]:
    """The array as a tensor that shares its memory, or itself where there is no such tensor."""
    size = array.dtype.itemsize
    whole_strides = all(stride >= 0 and stride % size == 0 for stride in array.strides)
    if not (array.flags.aligned and array.dtype.isnative and whole_strides):
        return array
    with warnings.catch_warnings():
        # PyTorch warns that a read-only array could be written through the tensor: none is.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array).view(dtype)
