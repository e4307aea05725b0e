"""Arrays of other libraries, through DLPack.

What an object says of its memory is looked at before torch takes it: torch ends the process where a
stride is negative (in 2.13), and believes all else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.dlpack import from_dlpack

__all__ = ["BackwardsError", "tensor_of"]

_AXES = 64  # more than any library has
_MOST = 2**63 - 1  # bytes, and values of an axis


class BackwardsError(ValueError):
    """An array runs backwards, which no tensor does."""


class _DLTensor(ctypes.Structure):
    """As dlpack.h has it."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned; what was before it has the tensor first."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, (ctypes.py_object,)


def tensor_of(value: Any) -> Tensor:
    """The tensor that shares an object's memory.

    Raises:
        BackwardsError: it runs backwards along an axis.
        Exception: whatever the object, or torch, raises.
    """
    return from_dlpack(_Checked(value))


class _Checked:
    """An object whose capsule is looked at on its way."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __dlpack_device__(self) -> Any:
        return self._value.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._value.__dlpack__(**options)
        _check(capsule)
        return capsule


def _check(capsule: object) -> None:
    name = _name(capsule)
    address = _pointer(capsule, name)
    if name == b"dltensor_versioned":
        found = _Versioned.from_address(address).tensor
    elif name == b"dltensor":
        found = _DLTensor.from_address(address)
    else:
        raise ValueError(f"a capsule called {name!r}")
    if not 0 <= found.ndim <= _AXES or found.lanes != 1 or (found.ndim and not found.shape):
        raise ValueError(f"{found.ndim} axes of {found.lanes} lanes")
    shape = list(found.shape[: found.ndim]) if found.ndim else []
    strides = list(found.strides[: found.ndim]) if found.ndim and found.strides else []
    count = 1
    for size in shape:
        count *= size
    if min(shape, default=0) < 0 or (count and not found.data):
        raise ValueError(f"shape {shape} of no memory")
    if count == 0:
        return
    if any(stride < 0 and size > 1 for size, stride in zip(shape, strides, strict=False)):
        raise BackwardsError(f"strides {strides}")
    reach = [(size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=False)]
    if (max(count, sum(reach) + 1)) * found.bits > 8 * _MOST:
        raise ValueError(f"shape {shape} with strides {strides}")
