"""Whether the numbered files of a directory are all there, and once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from univfast.errors import InputError
from univfast.inputs.file_names import FileName

__all__ = [
    "are_ids",
    "check_counts",
    "check_layers_alike",
    "check_numbers",
    "counts_up",
    "steps_of",
]

_COMPLETE = (
    "complete the shards, number them alike and without a gap, or say that gaps are meant with"
    " files='...{shard}...'"
)


def counts_up(numbers: Sequence[int]) -> bool:
    """Whether numbers in order count files, or the tokens before them: one step, from the start."""
    steps = {y - x for x, y in pairwise(numbers)}
    step = max(steps, default=1)
    return len(steps) <= 1 and (numbers[0] in (0, 1) or (step > 1 and numbers[0] % step == 0))


def are_ids(names: Iterable[FileName]) -> bool:
    """Whether the numbers are of samples, and no count with gaps: most numbers are not there."""
    found = list(names)
    if not all(name.ids and len(name.key) == 1 for name in found):
        return False
    numbers = sorted({name.numbers[0] for name in found})
    sparse = 2 * len(numbers) <= numbers[-1] - numbers[0] + 1
    return not counts_up(numbers) and len(numbers) > 1 and sparse


def check_counts(path: str, names: Iterable[FileName]) -> None:
    """Refuses a set of files ``-of-N`` that are not 1 to N, or 0 to N - 1."""
    sets: defaultdict[tuple[str, tuple[str, ...]], list[FileName]] = defaultdict(list)
    for name in names:
        if name.count is not None:
            sets[name.layer, name.key[:-1]].append(name)
    for found in sets.values():
        first, count = found[0], found[0].count or 0
        for name in found:
            if name.count != count:
                raise InputError(
                    f"{first.file} and {name.file}: are of {count} and of {name.count} shards; "
                    "keep those of one set in the directory"
                )
        numbers = {name.numbers[-1] for name in found}
        start = 0 if 0 in numbers else 1
        missing = (n for n in range(start, start + count) if n not in numbers)
        if (number := next(missing, None)) is not None:
            raise InputError(
                f"{path}: {len(numbers)} of {count} shards like "
                f"{os.path.basename(first.file)!r} are there, number {number} is missing; "
                "complete them"
            )


def check_numbers(
    layer: str, names: Sequence[FileName], steps: Mapping[tuple[str, int], int], lone: bool
) -> None:
    """Refuses shards of a layer with a number twice, or with one missing in between.

    Args:
        layer: its name.
        names: of its files, in the order in which they are joined.
        steps: from one number to the next, as `steps_of` has them; empty where gaps are meant.
        lone: whether the files' names say which layer it is, so that all of it and a shard of it
            clash.
    """
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    before: dict[tuple[str, tuple[str, ...]], int] = {}
    for name in names:
        file, group, key = name.file, name.layer, name.key
        if not key:
            if lone and len(names) > 1:
                other = next(other.file for other in names if other is not name)
                raise InputError(
                    f"{file} and {other}: are both layer {layer!r}, but the first has no number; "
                    "keep one, or number both as shards"
                )
            continue
        if (group, key) in seen:
            raise InputError(
                f"{seen[group, key]} and {file}: are both shard {name.shard} of layer {layer!r}; "
                "keep one"
            )
        seen[group, key] = file
        for depth in range(len(key)) if steps else ():
            outer, number, step = key[:depth], name.numbers[depth], steps[group, depth]
            due = before.get((group, outer), number - step) + step
            if number not in (due, due - step) or (number != due and depth == len(key) - 1):
                raise InputError(
                    f"{file}: shard {'/'.join((*outer, str(due)))} of layer {layer!r} is"
                    f" missing before it; {_COMPLETE}"
                )
            before[group, outer] = number


def steps_of(names: Iterable[FileName]) -> dict[tuple[str, int], int]:
    """From the number of a shard to the next: of each layer, and of each number in its key."""
    numbers: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for name in names:
        for depth, number in enumerate(name.numbers):
            numbers[name.layer, depth].add(number)
    return {
        group: min((y - x for x, y in pairwise(sorted(found))), default=1)
        for group, found in numbers.items()
    }


def check_layers_alike(path: str, layers: Mapping[str, Sequence[FileName]]) -> None:
    """Refuses layers of lone arrays that have other shards than the first: one is incomplete."""
    counted = {
        layer: {name.key: name for name in names}
        for layer, names in layers.items()
        if all(name.key and name.count is None for name in names)
    }
    every = {key: name for shards in counted.values() for key, name in shards.items()}
    for layer, shards in counted.items():
        for key in every.keys() - shards.keys() if len(shards) < len(every) else ():
            raise InputError(
                f"{path}: shard {every[key].shard} of layer {layer!r} is missing, which layer"
                f" {every[key].layer!r} has ({every[key].file}); complete the shards"
            )
