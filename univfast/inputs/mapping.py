"""A whole file mapped read-only, whose pages can be given back while it stays open."""

from __future__ import annotations

import mmap
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["MappedFile", "Member", "zip_members"]

# Bytes. Linux maps up to one huge page around the byte that was touched, so pages outside a slice
# become resident with it; giving back whole blocks of this size gets those too. A multiple of the
# page size everywhere (4, 16 or 64 KiB), as madvise asks.
_BLOCK = 2 << 20

_ZIP_LOCAL_HEADER = 30  # bytes before the name in the header that precedes a member's data


class MappedFile:
    """The bytes of ``path``, mapped shared and read-only.

    Such a mapping counts against no commit limit, so a file may be larger than memory and swap
    (a private writable one, which ``torch.load(mmap=True)`` makes, may not), and its pages are
    always clean, so giving them back can lose nothing. Writing to an array in it is a
    segmentation fault. ``bytes`` are the file's, ``address`` that of the first.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.address: int = self.bytes.ctypes.data

    def array(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        span: tuple[int, int],
        strides: tuple[int, ...] | None = None,
        order: Literal["C", "F"] = "C",
    ) -> NDArray[Any]:
        """An array in place, over the bytes ``span = (start, stop)`` of the file, both >= 0.

        ``strides`` are in bytes. Raises TypeError or ValueError where it would reach beyond.
        """
        buffer = self.bytes[slice(*span)].data  # fewer bytes where the file ends before
        array: NDArray[Any] = np.ndarray(shape, dtype, buffer=buffer, strides=strides, order=order)
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


@dataclass(frozen=True)
class Member:
    """A file inside a zip file: its name, and the bytes of its data where they are as written."""

    name: str
    span: tuple[int, int]  # (start, stop) in the zip file
    compressed: bool


def zip_members(path: str, mapped: MappedFile) -> list[Member]:
    """The members of the zip file ``path``, in its order. Raises zipfile.BadZipFile."""
    with zipfile.ZipFile(path) as archive:
        return [_member(info, mapped) for info in archive.infolist()]


def _member(info: zipfile.ZipInfo, mapped: MappedFile) -> Member:
    # The central directory has no offset of the data: the local header's own name and extra field,
    # whose lengths need not be those of the directory's, lie between.
    header = mapped.bytes[info.header_offset : info.header_offset + _ZIP_LOCAL_HEADER].tobytes()
    if len(header) < _ZIP_LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no local header for {info.filename}")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + _ZIP_LOCAL_HEADER + lengths
    # Bit 0 of the flags: encrypted, so not as written either.
    compressed = info.compress_type != zipfile.ZIP_STORED or bool(info.flag_bits & 1)
    return Member(info.filename, (start, start + info.compress_size), compressed)
