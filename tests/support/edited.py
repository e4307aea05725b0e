"""States and checkpoints with one value edited: each plain value, and each tensor, by odd ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from univfast.checks import shown

__all__ = ["edits"]

PLAIN: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 1 << 62, 1 << 64, 10**5000, 0.5, math.nan, math.inf,
    "", "index", "\ud800", [], {}, [[]], [(0, 1)], (3, 1), {"a": 1}, torch.zeros(2), b"bytes",
)  # fmt: skip


def edits(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The content with one edit, and what was edited."""
    if isinstance(content, dict):
        for key, value in content.items():
            for where, edited in edits(value, f"{path}/{key}"):
                yield where, {**content, key: edited}
            yield f"{path}/{key} left out", {k: x for k, x in content.items() if k != key}
        yield f"{path} with more", {**content, "more": 1}
    elif isinstance(content, (list, tuple)):
        kind = type(content)
        for i, value in enumerate(content):
            for where, edited in edits(value, f"{path}/{i}"):
                yield where, kind([*content[:i], edited, *content[i + 1 :]])
        yield f"{path} without the last", kind(content[:-1])
        yield f"{path} with the last twice", kind([*content, *content[-1:]])
    elif isinstance(content, Tensor):
        for name, edited in _tensors(content):
            yield f"{path} {name}", edited
    if not isinstance(content, Tensor):
        yield from ((f"{path} = {shown(x)[:20]}", x) for x in _others(content))


def _others(content: Any) -> Iterator[Any]:
    yield from PLAIN
    if type(content) is int:
        yield from (content + 1, content - 1, 2 * content, float(content), str(content), -content)
    if type(content) is str:
        yield from (content + "x", content.upper(), content.encode())


def _tensors(x: Tensor) -> Iterator[tuple[str, Any]]:
    yield from (("None", None), ("a number", 1.0), ("a list", x.flatten()[:3].tolist()))
    yield from (("flat", x.flatten()), ("with an axis", x[None]), ("empty", x.flatten()[:0]))
    yield from (("longer", torch.cat([x.view(-1), x.view(-1)[-1:]])), ("sparse", x.to_sparse()))
    yield ("absent", torch.zeros(x.shape, dtype=x.dtype, device="meta"))
    yield ("repeated", torch.zeros((), dtype=x.dtype).expand(x.shape))
    for dtype in (torch.float32, torch.int32, torch.complex128, torch.bool, torch.float16):
        yield f"as {dtype}", x.to(dtype)
    for value in (-1, 0, 1, 3, 1 << 40):
        yield f"all {value}", torch.full_like(x, value)
        one = x.clone()
        one.view(-1)[-1:] = value
        yield f"last {value}", one
    if x.is_floating_point():
        for value in (math.nan, math.inf, -math.inf, -(2.0**100), 2.0**100):
            one = x.clone()
            one.view(-1)[:1] = value
            yield f"first {value}", one
        yield from (("negated", -x), ("doubled", 2 * x), ("large", x * 2.0**100))
