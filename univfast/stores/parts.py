"""Files of a directory that are parts of one whole, in their order."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from univfast.errors import InputError
from univfast.inputs.natural import natural_key

__all__ = ["parts_in_order"]

# A number behind another word may count layers.
_WORD = r"(?:(?:.*[-_.])?(?:part|shard|chunk|batch|train|data|acts|activations)[-_.]?)?"
_PART = re.compile(rf"(?P<word>{_WORD})(?P<number>\d+)(?P<count>)(?:[-_.].*)?", re.IGNORECASE)
_OF = re.compile(r"(?P<word>.*?)(?P<number>\d+)[-_]of[-_](?P<count>\d+)", re.IGNORECASE)


def parts_in_order(path: str, names: Sequence[str]) -> list[str]:
    """The files ``names`` of the directory ``path``, in natural order.

    Raises:
        InputError: their names do not say that they are parts of one whole, or one is missing.
    """
    ordered = sorted(names, key=natural_key)
    if len(ordered) == 1:
        return ordered
    stems = [os.path.splitext(name)[0] for name in ordered]
    found = [_OF.fullmatch(stem) or _PART.fullmatch(stem) for stem in stems]
    words = {match["word"] if match else None for match in found}
    counts = {match["count"] if match else None for match in found}
    if None in words or len(words) > 1 or len(counts) > 1:
        raise InputError(
            f"{path}: may hold parts of one table, or several ({ordered[0]} and {ordered[-1]}); "
            "give one file, or name its parts part-00000, part-00001, ..."
        )
    numbers = [int(match["number"]) for match in found if match]
    start = 0 if 0 in numbers else 1
    count = int(next(iter(counts)) or 0) or len(numbers)
    expected = range(start, start + count)
    if numbers != list(expected):
        missing = next((n for n in expected if n not in numbers), None)
        if missing is None:
            raise InputError(f"{path}: has a part twice or too many; keep one of each number")
        raise InputError(
            f"{path}: part {missing} of {count} like {ordered[0]!r} is missing; complete them, or "
            "number them without a gap"
        )
    return ordered
