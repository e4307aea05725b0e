"""The members of zip files: where they lie, and what of them may be believed."""

from __future__ import annotations

import errno
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from univfast.errors import InputError

__all__ = ["Member", "read_member", "zip_members"]

_LOCAL_HEADER = 30  # bytes before the name in the header that precedes a member's data
_ENCRYPTED, _UTF_8 = 1, 1 << 11  # of a member's flags
# What a byte of a deflated stream can become, at most: 258 for two bits, and what frames them.
_MOST_FROM_A_BYTE = 1032
_PART = 1 << 20  # bytes that are decompressed at a time


@dataclass(frozen=True)
class Member:
    """A file inside a zip file: its name, and the bytes of its data where they are as written."""

    name: str
    span: tuple[int, int]  # (start, stop) in the zip file
    compressed: bool
    size: int  # bytes of its data once decompressed, as the file says


def zip_members(path: str, file: BinaryIO, whole: NDArray[np.uint8]) -> list[Member]:
    """The members of a zip file, in its order.

    Args:
        path: of the zip file, for messages.
        file: the file, open.
        whole: its bytes.

    Raises:
        zipfile.BadZipFile: it is damaged, two members have one name, or some overlap.
        InputError: one is encrypted, or compressed by another method than deflate.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [_member(path, info, whole) for info in archive.infolist()]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile("a place before the file") from error
    if len({member.name for member in members}) < len(members):
        raise zipfile.BadZipFile("two members of one name")
    spans = sorted(member.span for member in members)
    if any(one[1] > other[0] for one, other in pairwise(spans)):
        raise zipfile.BadZipFile("members that overlap")
    return members


def read_member(file: BinaryIO, member: Member) -> NDArray[np.uint8]:
    """The data of a compressed member, checked against its sum.

    Raises:
        zipfile.BadZipFile, zlib.error: the data is damaged, or not as much as the file says.
    """
    found = np.empty(member.size, np.uint8)
    done = 0
    with zipfile.ZipFile(file) as archive, archive.open(member.name) as stream:
        while data := stream.read(_PART):  # the sum is checked with the last part
            found[done : done + len(data)] = np.frombuffer(data, np.uint8)
            done += len(data)
    if done < member.size:
        raise zipfile.BadZipFile(f"{member.name} ends after {done} of {member.size} bytes")
    return found


def _member(path: str, info: zipfile.ZipInfo, whole: NDArray[np.uint8]) -> Member:
    # The central directory has no offset of the data: the local header's own name and extra field,
    # whose lengths need not be those of the directory's, lie between.
    begin = info.header_offset
    header = whole[max(begin, 0) : max(begin, 0) + _LOCAL_HEADER].tobytes()
    if begin < 0 or len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no local header for {info.filename}")
    flags, method, name, extra = (
        int.from_bytes(header[at : at + 2], "little") for at in (6, 8, 26, 28)
    )
    start = begin + _LOCAL_HEADER + name + extra
    stop = start + info.compress_size
    if stop > len(whole):
        raise zipfile.BadZipFile(f"{info.filename!r} ends behind the file")
    own_name = whole[begin + _LOCAL_HEADER : begin + _LOCAL_HEADER + name].tobytes()
    if own_name.decode("utf-8" if flags & _UTF_8 else "cp437") != info.orig_filename:
        raise zipfile.BadZipFile(f"{info.filename!r} has two names")
    if (info.flag_bits | flags) & _ENCRYPTED:
        raise InputError(f"{path}: {info.filename!r} in it is encrypted; save it as it is")
    compressed = method == zipfile.ZIP_DEFLATED
    if method != info.compress_type or not (compressed or method == zipfile.ZIP_STORED):
        raise InputError(
            f"{path}: {info.filename!r} in it is compressed by another method than deflate; save "
            "it uncompressed"
        )
    least = most = info.compress_size
    if compressed:
        least, most = 0, info.compress_size * _MOST_FROM_A_BYTE
    if not least <= info.file_size <= most:
        raise zipfile.BadZipFile(
            f"{info.filename!r} cannot be {info.file_size} bytes from {info.compress_size}"
        )
    return Member(info.filename, (start, stop), compressed, info.file_size)
