"""What the patterns of hooks matched, and those that matched more than may be meant."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Matched", "matched", "nested"]

_INPUT = ":input"


@dataclass(frozen=True)
class Matched:
    """What a pattern matched.

    Attributes:
        pattern: as it was given.
        modules: how many.
        first, last: their layers, in the order of the model's modules.
    """

    pattern: str
    modules: int
    first: str
    last: str

    def __str__(self) -> str:
        if self.modules == 1:
            return f"hooks {self.pattern!r}: 1 module, {self.first}"
        return f"hooks {self.pattern!r}: {self.modules} modules, {self.first} to {self.last}"

    def as_row(self) -> dict[str, object]:
        """For a summary."""
        return asdict(self)


def matched(layers: Sequence[str], hooks: str | Sequence[str]) -> list[Matched]:
    """What each pattern matched of the layers that all of them did."""
    return [
        Matched(pattern, len(found), found[0], found[-1])
        for pattern in ([hooks] if isinstance(hooks, str) else hooks)
        if (found := _of(pattern, layers))
    ]


def nested(layers: Sequence[str], hooks: str | Sequence[str]) -> list[str]:
    """A line for each pattern that matched modules and modules within them."""
    found = (_nested(x, _of(x, layers)) for x in ([hooks] if isinstance(hooks, str) else hooks))
    return [line for line in found if line is not None]


def _of(pattern: str, layers: Sequence[str]) -> list[str]:
    glob, is_input = pattern.removesuffix(_INPUT), pattern.endswith(_INPUT)
    return [
        layer
        for layer in layers
        if layer.endswith(_INPUT) is is_input
        and fnmatch.fnmatchcase(layer.removesuffix(_INPUT), glob)
    ]


def _nested(pattern: str, layers: Sequence[str]) -> str | None:
    names = [layer.removesuffix(_INPUT) for layer in layers]
    there = set(names)
    within = [name for name in names if any(x in there for x in _around(name))]
    if not within:
        return None
    outer = [name for name in names if name not in set(within)]
    alone = _alone(pattern, outer, names)
    if alone:
        instead = f"{' and '.join(map(repr, alone))} would match those {len(outer)} alone"
    else:
        instead = "name those that are meant"
    return (
        f"hooks: {pattern!r} matches {len(names)} modules, {len(within)} of them within others of"
        f" them, as {within[0]!r}, since '*' crosses dots: {instead}"
    )


def _around(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _alone(pattern: str, wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Patterns like it that match the wanted names and no others; none where there are none."""
    start, star, end = pattern.removesuffix(_INPUT).rpartition("*")
    if not star or re.search(r"[*?\[]", end):
        return []
    suffix = _INPUT if pattern.endswith(_INPUT) else ""
    found: list[str] = []
    for places in range(1, 5):
        glob = start + "?" * places + end
        hit = fnmatch.filter(names, glob)
        if hit and all(name in wanted for name in hit):
            found.append(glob)
    hits = {name for glob in found for name in fnmatch.filter(names, glob)}
    return [glob + suffix for glob in found] if hits == {*wanted} else []
