"""Which features a neuron is explained by: the r2 of each, and the order they are named in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from univfast.features.tallies import LEAST, Tallies
from univfast.features.token_features import Grouping, TokenFeatures
from univfast.native.place import numbers

__all__ = ["HALF", "MOST", "SLAB", "WHOLE", "Choice", "adjusted", "ranked"]

HALF = 0.5
"""What explains a neuron explains at least so much of its variance."""

MOST = 5
"""Features that are named of a neuron."""

WHOLE = -1
"""In place of a group: all of a grouping together."""

SLAB = 256
"""Neurons at a time."""

# A single feature is preferred to all groups of a family, unless it explains less than so much of
# what they do.
_SINGLE = 0.9
# What explains less is not named, unless it is the best.
_LEAST_R2 = 0.01
# Differences behind so many digits are rounding.
_DIGITS = 9


class Choice(NamedTuple):
    """A feature of a neuron.

    Attributes:
        family: whose it is.
        r2: share of the neuron's variance; of all groups together, adjusted for their number.
        r: its correlation with the neuron. All groups together are one column too: the mean of the
            neuron over the token's group.
        spread: sum of squares of that column about its mean.
        degrees: groups beyond the first, of all together; 0 of a single feature.
        block: number of its grouping; the one behind the last are the columns.
        at: its group, `WHOLE`, or its column.
    """

    family: str
    r2: float
    r: float
    spread: float
    degrees: int
    block: int
    at: int

    @property
    def order(self) -> tuple[bool, float]:
        """Lower is better. What explains half stands before what does not."""
        share = _SINGLE if self.at == WHOLE else 1.0
        return self.r2 < HALF, -round(share * self.r2, _DIGITS)


class _Candidates(NamedTuple):
    """Of one block, ``[candidates, neurons]`` each; r2 is below 0 where there is none."""

    block: int
    degrees: int
    at: Tensor
    r2: Tensor
    r: Tensor
    spread: Tensor


def ranked(tallies: Tallies, features: TokenFeatures) -> list[list[Choice]]:
    """The features that are named of each neuron, none of a constant one.

    At most `MOST`: first the best of each family, the best of all before the others, then the best
    of what is left.
    """
    found: list[list[Choice]] = []
    neurons = len(tallies.m2)
    for first in range(0, neurons, SLAB):
        part = slice(first, min(first + SLAB, neurons))
        candidates = [
            each
            for block, grouping in enumerate(features.groupings)
            for each in _of_groups(tallies, grouping, block, part)
        ]
        candidates.append(_of_columns(tallies, part))
        found += map(_named, _by_neuron(candidates, features, part.stop - first))
    return found


def adjusted(share: Tensor, tokens: int, degrees: Tensor | int) -> Tensor:
    """A share of the variance, less what as many groups explain by chance."""
    return 1 - (1 - share) * (tokens - 1) / (tokens - 1 - degrees)


def _of_groups(
    tallies: Tallies, grouping: Grouping, block: int, part: slice
) -> Iterator[_Candidates]:
    sums, m2, tokens = tallies.of_groups(block, part), tallies.m2[part], tallies.tokens
    counts = tallies.groups[block].counts.double()[:, None]
    # Each group by itself: n (its mean - mean)^2 / (m2 (1 - n / tokens)).
    own, size = sums[: grouping.named], counts[: grouping.named]
    spread = (size * (1 - size / tokens)).expand_as(own)
    held = torch.minimum(size, tokens - size) >= LEAST
    r2 = torch.where(held & (m2 > 0), own.square() / spread / m2, -1.0)
    # Of equal ones the first: what is taken off is less than the last digit.
    order = r2.round(decimals=_DIGITS) - numbers(len(r2))[:, None] * 1e-14
    at = order.topk(min(MOST, len(r2)), dim=0).indices
    own, spread = own.gather(0, at), spread.gather(0, at)
    yield _Candidates(block, 0, at, r2.gather(0, at), own / (spread * m2).sqrt(), spread)
    if grouping.whole is None:
        return
    whole = tallies.whole(block, part)
    share = (whole.spread / m2).clamp(max=1)
    r2 = adjusted(share, tokens, whole.degrees).clamp(min=0)
    r2 = torch.where((m2 > 0) & (whole.spread > 0), r2, -1.0)
    at = torch.full(r2.shape, WHOLE, dtype=torch.int64, device="cpu")
    parts = (x[None] for x in (at, r2, share.sqrt(), whole.spread))
    yield _Candidates(block, whole.degrees, *parts)


def _of_columns(tallies: Tallies, part: slice) -> _Candidates:
    co, m2 = tallies.co[:, part], tallies.m2[part]
    spread = tallies.gram.diagonal()[:, None].expand_as(co)
    r = co / (spread * m2).sqrt()
    known = tallies.varied[:, None] & (m2 > 0)
    at = numbers(len(co))[:, None].expand_as(co)
    return _Candidates(len(tallies.groups), 0, at, torch.where(known, r.square(), -1.0), r, spread)


def _by_neuron(
    candidates: Sequence[_Candidates], features: TokenFeatures, neurons: int
) -> Iterator[list[Choice]]:
    """Those of each neuron."""
    families = [grouping.family for grouping in features.groupings]
    lists = [
        (each, [x.T.tolist() for x in (each.at, each.r2, each.r, each.spread)])
        for each in candidates
    ]
    for neuron in range(neurons):
        own = []
        for each, values in lists:
            for at, r2, r, spread in zip(*(x[neuron] for x in values), strict=True):
                if r2 >= 0:
                    of_group = each.block < len(families)
                    family = families[each.block] if of_group else features.families[at]
                    r2, r = min(r2, 1.0), max(-1.0, min(r, 1.0))
                    own.append(Choice(family, r2, r, spread, each.degrees, each.block, at))
        yield own


def _named(candidates: list[Choice]) -> list[Choice]:
    """Those that are named of one neuron's."""
    best = sorted(candidates, key=lambda choice: choice.order)
    best = best[:1] + [choice for choice in best[1:] if choice.r2 >= _LEAST_R2]
    first: dict[str, Choice] = {}
    for choice in best:
        first.setdefault(choice.family, choice)
    others = [choice for choice in best if first[choice.family] is not choice]
    return [*first.values(), *others][:MOST]
