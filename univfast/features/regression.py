"""How much of a neuron several features explain together.

A regression needs how features vary together, which follows from the tokens alone: from products
of columns, their sums by group, and how many tokens have one group and another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast.features.ranking import MOST, SLAB, WHOLE, Choice, adjusted
from univfast.features.tallies import Tallies
from univfast.features.token_features import TokenFeatures

__all__ = ["together"]

Array = NDArray[np.float64]

# Features of a regression.
_REGRESSED = 3
# Tokens whose groups are counted at a time.
_TOKENS = 1 << 18
# A direction in which features vary less, of the 1 of each, is one in which they do not.
_NO_SPREAD = 1e-9


class _Pair(NamedTuple):
    """Two features of a neuron: their places among its own, and what they are."""

    neuron: int
    places: tuple[int, int]
    choices: tuple[Choice, Choice]


def together(
    tallies: Tallies, features: TokenFeatures, used: Tensor, choices: Sequence[Sequence[Choice]]
) -> list[float]:
    """The most that up to three features of a neuron, each the best of its family, explain.

    Args:
        tallies: sums over the tokens.
        features: of the run.
        used: bool ``[tokens of the run]``: those that were summed.
        choices: of each neuron, as `ranked` gives them.

    Returns:
        Of each neuron R2 of the best regression, adjusted for the groups of what is `WHOLE`.
    """
    own = [_heads(each) for each in choices]
    alike = torch.eye(MOST, dtype=torch.float64, device="cpu").repeat(len(own), 1, 1)
    by_blocks: defaultdict[tuple[int, int], list[_Pair]] = defaultdict(list)
    for neuron, heads in enumerate(own):
        for places in combinations(range(len(heads)), 2):
            i, j = sorted(places, key=lambda place: heads[place].block)
            pair = _Pair(neuron, (i, j), (heads[i], heads[j]))
            by_blocks[heads[i].block, heads[j].block].append(pair)
    for blocks, pairs in by_blocks.items():
        products = _products(tallies, features, used, blocks)
        for first in range(0, len(pairs), SLAB):
            some = pairs[first : first + SLAB]
            for pair, r in zip(some, _correlations(tallies, products, some), strict=True):
                i, j = pair.places
                alike[pair.neuron, i, j] = alike[pair.neuron, j, i] = r
    return _best(tallies.tokens, own, alike)


def _heads(choices: Sequence[Choice]) -> list[Choice]:
    """The best of each family."""
    first: dict[str, Choice] = {}
    for choice in choices:
        first.setdefault(choice.family, choice)
    return [*first.values()]


# ---- how features vary together -----------------------------------------------------------------


def _products(
    tallies: Tallies, features: TokenFeatures, used: Tensor, blocks: tuple[int, int]
) -> Any:
    """Products of all features of one block with all of another, ``[features, features]``.

    Of a block of columns they are about the means.
    """
    one, other = blocks
    if one == len(tallies.groups):
        return tallies.gram.numpy()
    if other == len(tallies.groups):
        return tallies.columns_of_groups(one).numpy()
    from scipy.sparse import csr_matrix  # takes a while to import

    first, second = features.groupings[one], features.groupings[other]
    shape = first.groups, second.groups
    found = csr_matrix(shape, dtype=np.float64)
    for start in range(0, len(used), _TOKENS):
        tokens = used[start : start + _TOKENS].nonzero()[:, 0] + start
        one_each, other_each = first.of(tokens)[:, :, None], second.of(tokens)[:, None]
        there = (one_each >= 0) & (other_each >= 0)
        cells = tuple(x.expand_as(there)[there].numpy() for x in (one_each, other_each))
        found = found + csr_matrix((np.ones(len(cells[0])), cells), shape=shape)
    return found


def _correlations(tallies: Tallies, products: Any, pairs: Sequence[_Pair]) -> list[float]:
    """Between the two features of each pair, all of the same blocks."""
    sides = [
        _weights(tallies, [(pair.neuron, pair.choices[side]) for pair in pairs])
        for side in range(2)
    ]
    co = (sides[0] * (products @ sides[1])).sum(axis=0)
    blocks = [choice.block for choice in pairs[0].choices]
    if blocks[1] < len(tallies.groups):
        counts = (tallies.groups[block].counts.double().numpy() for block in blocks)
        sums = [n @ weights for n, weights in zip(counts, sides, strict=True)]
        co -= sums[0] * sums[1] / tallies.tokens
    spread = [[choice.spread for choice in pair.choices] for pair in pairs]
    found: list[float] = (co / np.sqrt(np.prod(spread, axis=1))).clip(-1, 1).tolist()
    return found


def _weights(tallies: Tallies, features: Sequence[tuple[int, Choice]]) -> Array:
    """Each neuron's feature, all of one block, as the values of its groups, or the columns' share.

    ``[groups or columns, features]``.
    """
    block = features[0][1].block
    of_groups = block < len(tallies.groups)
    rows = len(tallies.groups[block].counts if of_groups else tallies.gram)
    weights = np.zeros((rows, len(features)))
    whole = [place for place, (_, choice) in enumerate(features) if choice.at == WHOLE]
    for place, (_, choice) in enumerate(features):
        if choice.at != WHOLE:
            weights[choice.at, place] = 1.0
    if whole:
        own = [features[place][0] for place in whole]
        neurons = torch.tensor(own, dtype=torch.int64, device="cpu")
        weights[:, whole] = tallies.whole(block, neurons).column.numpy()
    return weights


# ---- regressions --------------------------------------------------------------------------------


def _best(tokens: int, heads: Sequence[Sequence[Choice]], alike: Tensor) -> list[float]:
    """Of the regressions on up to three of each neuron's features; ``alike`` are their r."""

    def padded(values: list[list[float]]) -> Tensor:
        rows = [[*row, *[0.0] * (MOST - len(row))] for row in values]
        return torch.tensor(rows, dtype=torch.float64, device="cpu")

    r = padded([[choice.r for choice in own] for own in heads])
    degrees = padded([[float(choice.degrees) for choice in own] for own in heads])
    subsets = [
        [float(place in chosen) for place in range(MOST)]
        for size in range(1, _REGRESSED + 1)
        for chosen in combinations(range(MOST), size)
    ]
    best = torch.zeros(len(r), dtype=torch.float64, device="cpu")
    for subset in padded(subsets):
        # Those left out are as features that go with nothing.
        within = torch.outer(subset, subset)
        gram = alike * within + torch.diag(1 - subset)
        spread, directions = torch.linalg.eigh(gram)
        along = ((r * subset)[:, None] @ directions)[:, 0].square()
        share = torch.where(spread > _NO_SPREAD, along / spread, 0.0).sum(dim=1).clamp(max=1)
        beyond = degrees @ subset
        enough = beyond < tokens - 1
        share = adjusted(share, tokens, torch.where(enough, beyond, 0.0))
        best = torch.where(enough, torch.maximum(best, share), best)
    return [float(value) for value in best]
