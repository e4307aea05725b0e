"""Changes to bytes, to JSON and to values: one to three at a time, chosen by a generator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

INTEGERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 12, 60, 64, 127, 128, 255, 256, 1000, 65_535, 65_536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**60, 2**61, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 10**30, -1, -2, -4, -8, -60, -(2**31), -(2**62), -(2**63), -(2**64)),
)
TEXTS = ("", "x", "0", "nan", "..", "/", "\0", "a\nb", "a\rb", "é" * 3, "=1+1", "x" * 300)
OTHERS = (True, False, None, 0.0, -0.0, 0.5, 1.5, 5.0, 1e300, float("nan"), float("inf"))
NESTED = ([], {}, [[]], [0], ["x"], {"x": 0}, [[0, 1], [0, 1]], [0, 2**62], {"dtype": "F32"})

Mutator = Callable[[Random, bytes], bytes]


def odd(rng: Random) -> Any:
    """A value that is seldom what is expected."""
    of = rng.choice((INTEGERS, INTEGERS, INTEGERS, TEXTS, OTHERS, NESTED))
    return copy.deepcopy(rng.choice(of))


def near(rng: Random, value: int) -> int:
    """An integer that is one, or nearly."""
    return rng.choice((value + 1, value - 1, value * 2, value // 2, -value, value ^ 1 << 40))


def several(rng: Random, change: Callable[[Random, Any], Any], value: Any) -> Any:
    """A value changed once, seldom two or three times."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        value = change(rng, value)
    return value


# ---- bytes ---------------------------------------------------------------------------------------


def some_bytes(rng: Random, content: bytes, other: bytes = b"") -> bytes:
    """Bytes with one of the changes below; ``other`` is what pieces may come from."""
    changes: Sequence[Mutator] = (_flip, _flip, _set, _number, _number, _cut, _grow, _drop, _double)
    changes = (*changes, _swap, _zero, lambda r, x: _splice(r, x, other or x))
    return rng.choice(changes)(rng, content) if content else b"\0"


def _place(rng: Random, content: bytes, width: int = 1) -> int:
    """Where to change: mostly where headers are, at either end."""
    last = max(len(content) - width, 0)
    near = rng.choice((last, last, min(last, 200)))
    return last - rng.randint(0, near) if rng.random() < 0.3 else rng.randint(0, near)


def _flip(rng: Random, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _set(rng: Random, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _number(rng: Random, content: bytes) -> bytes:
    """An integer over what is there, where integers stand: at a multiple of its width or of two."""
    width = rng.choice((2, 4, 4, 8, 8))
    at = _place(rng, content, width) // (step := rng.choice((1, 2, width))) * step
    value = rng.choice(INTEGERS) % 2 ** (8 * width)
    if rng.random() < 0.3:
        there = int.from_bytes(content[at : at + width], "little")
        value = near(rng, there) % 2 ** (8 * width)
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def _cut(rng: Random, content: bytes) -> bytes:
    return content[: rng.choice((_place(rng, content), len(content) - 1))]


def _grow(rng: Random, content: bytes) -> bytes:
    return content + rng.randbytes(rng.choice((1, 8, 100)))


def _piece(rng: Random, content: bytes) -> tuple[int, int]:
    start = _place(rng, content)
    return start, start + rng.choice((1, 4, 8, 64, 200))


def _drop(rng: Random, content: bytes) -> bytes:
    start, stop = _piece(rng, content)
    return content[:start] + content[stop:]


def _double(rng: Random, content: bytes) -> bytes:
    start, stop = _piece(rng, content)
    return content[:stop] + content[start:]


def _swap(rng: Random, content: bytes) -> bytes:
    (a, b), size = sorted((_place(rng, content), _place(rng, content))), rng.choice((1, 4, 8, 64))
    b = max(b, a + size)
    one, two = content[a : a + size], content[b : b + size]
    return content[:a] + two + content[a + size : b] + one + content[b + size :]


def _zero(rng: Random, content: bytes) -> bytes:
    start, stop = _piece(rng, content)
    return content[:start] + bytes(min(stop, len(content)) - start) + content[stop:]


def _splice(rng: Random, content: bytes, other: bytes) -> bytes:
    start, stop = _piece(rng, other)
    at = _place(rng, content)
    return content[:at] + other[start:stop] + content[at + stop - start :]


# ---- plain values --------------------------------------------------------------------------------


def some_value(rng: Random, tree: Any) -> Any:
    """Nested dicts, lists and tuples, with one value somewhere in them changed."""
    tree = copy.deepcopy(tree)
    holder = [tree]  # so that the whole can be replaced like any part
    places = [(holder, 0), *_places(tree)]
    parent, key = rng.choice(places[1:] or places)
    value = parent[key]
    change = rng.randrange(8)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(value, list) and value:
        value.insert(rng.randint(0, len(value)), copy.deepcopy(rng.choice(value)))
    elif change == 2 and isinstance(parent, dict):
        parent[rng.choice((*TEXTS, *map(str, parent)))] = parent.pop(key)
    elif change <= 4 and isinstance(value, int) and not isinstance(value, bool):
        parent[key] = near(rng, value)
    elif change == 5:
        other, name = rng.choice(places)
        parent[key] = copy.deepcopy(other[name])
    else:
        parent[key] = odd(rng)
    return holder[0] if holder else None


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in nested dicts and lists that holds a value: its parent and its key."""
    if isinstance(tree, dict):
        keys: list[Any] = list(tree)
    elif isinstance(tree, list):
        keys = list(range(len(tree)))
    else:
        return []
    return [(tree, key) for key in keys] + [x for key in keys for x in _places(tree[key])]


def some_json(rng: Random, text: bytes) -> bytes:
    """A JSON text with a value in it changed, or its text."""
    change = rng.randrange(12)
    if change == 0:
        return b"[" * 100_000 + b"]" * 100_000
    if change == 1:
        return b'{"deep":' + b"[" * 5_000 + b"]" * 5_000 + b"," + text.lstrip()[1:]
    if change == 2:
        return text.replace(b"0", b"9" * 5_000, 1)
    if change == 3:
        return some_bytes(rng, text)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # changed already
        return some_bytes(rng, text)
    changed = json.dumps(several(rng, some_value, tree), ensure_ascii=rng.random() < 0.5)
    return changed.encode("utf-8", "surrogatepass")
