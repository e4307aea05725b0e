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

__all__ = ["DIGEST", "digest_of", "sealed", "tensor_problem", "unsealed"]

DIGEST = "digest"
"""The entry of a sealed dict that holds its digest."""

_PART = 16 << 20
# What is saved has some thousand values, a few deep: more is no state, and could take for ever.
_MOST_VALUES = 1 << 22
_DEEPEST = 16


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
    """A text that differs for other values: of None, bool, int, float, str, and of tensors, lists
    and dicts of these.

    Raises:
        TypeError: another value, a tensor that is no plain memory, or more than is ever saved.
    """
    return _Digest().of(value)


def tensor_problem(x: Tensor) -> str | None:
    """Why a tensor is no plain memory that is all there; None: it is."""
    if type(x) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(x).__name__}, no plain tensor"
    if x.layout is not torch.strided or x.is_nested or x.is_quantized or x.device.type == "meta":
        return "is no dense tensor"
    if x.is_conj() or x.is_neg():
        return "is a view that is not resolved"
    size, held = x.element_size(), x.untyped_storage().nbytes()
    if x.numel() == 0:
        return None
    # In Python's integers, which do not overflow.
    reach = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    first = x.storage_offset()
    if first < 0 or min(x.stride(), default=0) < 0 or (first + reach + 1) * size > held:
        return "reaches beyond its memory"
    return "repeats its memory" if x.numel() * size > held else None


class _Digest:
    """One run through a value."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._values = 0
        self._tensors: dict[int, bytes] = {}  # by identity, for one may be held many times

    def of(self, value: object) -> str:
        self._feed(value, 0)
        return self._hash.hexdigest()

    def _feed(self, value: object, depth: int) -> None:
        self._values += 1
        if depth > _DEEPEST or self._values > _MOST_VALUES:
            raise TypeError("it holds more values than a state does")
        add = self._hash.update
        if value is None or isinstance(value, bool):
            add({None: b"n", False: b"f", True: b"t"}[value])
        elif isinstance(value, int):
            add(f"i{value:x};".encode())
        elif isinstance(value, float):
            add(b"d" + struct.pack("<d", value))
        elif isinstance(value, str):
            raw = value.encode("utf-8", "surrogatepass")
            add(f"s{len(raw)};".encode() + raw)
        elif isinstance(value, Tensor):
            add(self._tensor(value))
        elif isinstance(value, Mapping):
            add(f"m{len(value)};".encode())
            for key, item in value.items():
                self._feed(key, depth + 1)
                self._feed(item, depth + 1)
        elif isinstance(value, (list, tuple)):
            add(f"l{len(value)};".encode())
            for item in value:
                self._feed(item, depth + 1)
        else:
            raise TypeError(f"it holds a {type(value).__name__}")

    def _tensor(self, x: Tensor) -> bytes:
        if id(x) not in self._tensors:
            problem = tensor_problem(x)
            if problem is not None:
                raise TypeError(f"it holds a tensor that {problem}")
            found = hashlib.blake2b(f"{x.dtype}{list(x.shape)};".encode(), digest_size=32)
            for part in _part_digests(x.detach()):
                found.update(part)
            self._tensors[id(x)] = b"x" + found.digest()
        return self._tensors[id(x)]


def _part_digests(x: Tensor) -> Iterator[bytes]:
    raw = x.contiguous().view(-1).view(torch.uint8)
    parts = torch.split(raw, _PART)
    threads = min(torch.get_num_threads(), len(parts))
    if raw.device.type != "cpu" or threads < 2:
        yield from map(_part_digest, parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_part_digest, parts)


def _part_digest(part: Tensor) -> bytes:
    return hashlib.blake2b(part.cpu().numpy().data, digest_size=32).digest()
