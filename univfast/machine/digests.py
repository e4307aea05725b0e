"""Digests of plain values and tensors: what was damaged on a disk is told from what was saved.

BLAKE2b over all values in their order, tensors by dtype, shape and bytes. A tensor is hashed in
parts of 16 MB, in as many threads as torch uses, so that no copy is made, and it takes about a
second for a gigabyte and core.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from univfast.native.place import memory

__all__ = ["DIGEST", "bytes_of", "digest_of", "sealed", "tensor_problem", "unsealed"]

DIGEST = "digest"
"""The entry of a sealed dict that holds its digest."""

_PART = 16 << 20
_DEEPEST = 16  # of lists in lists; those of states are half as deep


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest beside it; one that it has is replaced.

    Raises:
        TypeError: it holds other than plain values and plain tensors.
    """
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return {**rest, DIGEST: digest_of(rest)}


def unsealed(content: Mapping[str, Any]) -> str | None:
    """Why a dict is not as `sealed` gave it; None: it is."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    found = content.get(DIGEST)
    if not isinstance(found, str):
        return "it has no digest"
    try:
        same = digest_of(rest) == found
    except TypeError as error:
        return str(error)
    return None if same else "its digest is that of other values"


def digest_of(value: object) -> str:
    """A text that differs for other values.

    Of None, bool, int, float, str, and of tensors, lists and dicts of these.

    Raises:
        TypeError: another value, a tensor that is no plain memory, or lists too deep in lists.
    """
    return hashlib.blake2b(_Digest().of(value), digest_size=32).hexdigest()


def tensor_problem(x: Tensor) -> str | None:
    """Why a tensor is no plain memory that is all there; None: it is."""
    if type(x) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(x).__name__}, no plain tensor"
    if x.layout is not torch.strided or x.is_nested or x.is_quantized or x.device.type == "meta":
        return "is no dense tensor"
    if x.is_conj() or x.is_neg():
        return "is a view that is not resolved"
    needed, held = memory(x)
    if needed > held:
        return "reaches beyond its memory"
    return "repeats its memory" if x.numel() * x.element_size() > held else None


class _Digest:
    """One run through a value."""

    def __init__(self) -> None:
        # By identity, for one may be held many times. All are held by what is gone through.
        self._known: dict[int, bytes] = {}

    def of(self, value: object, depth: int = 0) -> bytes:
        """Plain values as they are, all others by their digest."""
        if isinstance(value, str):
            raw = value.encode("utf-8", "surrogatepass")
            return b"s%d;" % len(raw) + raw
        if value is None or isinstance(value, bool):
            return {None: b"n", False: b"f", True: b"t"}[value]
        if isinstance(value, int):
            return f"i{value:x};".encode()
        if isinstance(value, float):
            return b"d" + struct.pack("<d", value)
        if id(value) not in self._known:
            if depth > _DEEPEST:
                raise TypeError("it holds more than a state does, list in list")
            found = hashlib.blake2b(digest_size=32)
            for part in self._parts(value, depth + 1):
                found.update(part)
            self._known[id(value)] = b"x" + found.digest()
        return self._known[id(value)]

    def _parts(self, value: object, depth: int) -> Iterator[bytes]:
        if isinstance(value, Tensor):
            problem = tensor_problem(value)
            if problem is not None:
                raise TypeError(f"it holds a tensor that {problem}")
            yield f"x{value.dtype}{list(value.shape)};".encode()
            yield from _part_digests(value.detach())
        elif isinstance(value, Mapping):
            yield f"m{len(value)};".encode()
            for pair in value.items():
                yield from (self.of(each, depth) for each in pair)
        elif isinstance(value, (list, tuple)):
            yield f"l{len(value)};".encode()
            yield from (self.of(each, depth) for each in value)
        else:
            raise TypeError(f"it holds a {type(value).__name__}")


def bytes_of(x: Tensor) -> Tensor:
    """Of all values in their order, uint8 ``[bytes]``: in place where that can be."""
    # Of one value, any stride counts as contiguous.
    return x.contiguous().as_strided((x.numel(),), (1,)).view(torch.uint8)


def _part_digests(x: Tensor) -> Iterator[bytes]:
    raw = bytes_of(x)
    parts = torch.split(raw, _PART)
    threads = min(torch.get_num_threads(), len(parts))
    if raw.device.type != "cpu" or threads < 2:
        yield from map(_part_digest, parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_part_digest, parts)


def _part_digest(part: Tensor) -> bytes:
    return hashlib.blake2b(part.cpu().numpy().data, digest_size=32).digest()
