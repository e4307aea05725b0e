"""A whole file mapped read-only, whose pages can be given back while it stays open."""

from __future__ import annotations

import mmap
import os
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from univfast.errors import InputError
from univfast.machine.reading import open_file

__all__ = ["MappedFile", "extent"]

# Bytes. Linux maps up to one huge page around the byte that was touched, so pages outside a slice
# become resident with it; giving back whole blocks of this size gets those too. A multiple of the
# page size everywhere (4, 16 or 64 KiB), as madvise asks.
_BLOCK = 2 << 20
_MOST_AXES = 64  # of NumPy's arrays and PyTorch's tensors


class MappedFile:
    """The bytes of ``path``, mapped shared and read-only.

    Such a mapping counts against no commit limit, so a file may be larger than memory and swap
    (a private writable one, which ``torch.load(mmap=True)`` makes, may not), and its pages are
    always clean, so giving them back can lose nothing. Writing to an array in it is a
    segmentation fault. ``bytes`` are the file's, ``address`` that of the first.

    Reading behind the end of a file that became shorter ends the process, so `check` comes before
    each slice. A file that is cut in the moment between the two still does that: nothing may write
    to a file while it is read. One that is replaced under its name stays as it was.

    Raises:
        InputError: it cannot be opened, or is no regular file.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._name = path
        with open_file(path) as file:
            self._state = _state(os.fstat(file.fileno()))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.address: int = self.bytes.ctypes.data

    def check(self) -> None:
        """Raises InputError where the file was written to since it was mapped."""
        changed = self._map.size() != len(self.bytes)
        try:
            now = _state(os.stat(self._path))
        except OSError:
            now = self._state  # removed: what is mapped stays
        same_file = now[:2] == self._state[:2]
        if changed or (same_file and now != self._state):
            raise InputError(
                f"{self._name}: changed while it was read; let nothing write to it, and start again"
            )

    def array(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        span: tuple[int, int],
        strides: tuple[int, ...] | None = None,
        order: Literal["C", "F"] = "C",
    ) -> NDArray[Any]:
        """An array in place, within the bytes ``span = (start, stop)`` of the file.

        ``strides`` are in bytes. Raises ValueError where it would reach beyond, or shape, strides
        or span are none.
        """
        start, stop = span
        kind = np.dtype(dtype)
        if not 0 <= start <= stop <= len(self.bytes):
            raise ValueError(f"bytes {start} to {stop} of {len(self.bytes)}")
        if not extent(shape, strides, kind.itemsize) <= stop - start:
            raise ValueError(f"shape {list(shape)} in {stop - start} bytes")
        buffer = self.bytes[start:stop].data
        array: NDArray[Any] = np.ndarray(shape, kind, buffer=buffer, strides=strides, order=order)
        return array

    def prepare(self, low: int, high: int) -> None:
        """Have the system read the pages of these addresses, without waiting for it.

        They take memory of the system's cache, none of this process. As for all that is advised,
        addresses outside the mapping are left alone, and without ``madvise`` (Windows) nothing
        happens.
        """
        self._advise("MADV_WILLNEED", low, high)

    def release(self, low: int, high: int) -> None:
        """Give back the pages of these addresses; they can be read again."""
        self._advise("MADV_DONTNEED", low, high)

    def _advise(self, advice: str, low: int, high: int) -> None:
        start = max(low - self.address, 0) // _BLOCK * _BLOCK
        stop = min(-(-(high - self.address) // _BLOCK) * _BLOCK, len(self.bytes))
        if start < stop and hasattr(mmap, advice):
            self._map.madvise(getattr(mmap, advice), start, stop - start)


def extent(shape: tuple[int, ...], strides: tuple[int, ...] | None, size: int) -> int:
    """Bytes from the first to the end of the last value of an array, in integers of any size.

    Args:
        shape: of the array.
        strides: in bytes; None where its values follow each other.
        size: bytes of a value.

    Raises:
        ValueError: these are no shape and strides, negative ones included.
    """
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{len(shape)} axes")
    for numbers in (shape, strides or ()):
        # A bool is an int to Python, and to nobody who writes files.
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError("a shape, or strides, that no array has")
    if strides is not None and len(strides) != len(shape):
        raise ValueError(f"shape {list(shape)} with strides {list(strides)}")
    if 0 in shape:
        return 0
    if strides is None:
        return prod(shape) * size
    return sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + size


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
