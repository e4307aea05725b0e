"""Random neurons that are about as active as some others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast.machine.torch_state import in_plain_state
from univfast.nulls.matrices import layer_seed

__all__ = ["NEAR", "draw_alike"]

NEAR = 10
"""Of how many most alike that are left one is drawn."""


@in_plain_state
def draw_alike(
    flagged: Tensor,
    candidates: Tensor,
    active: Tensor,
    std: Tensor,
    repeats: int,
    seed: int,
    layer: str,
) -> list[Tensor]:
    """Sets of as many random neurons as are flagged, of like activity.

    Neurons are ranked, flagged and candidates together, by their share of active tokens and by
    their standard deviation: ranks go from 0 to 1, those of equal values are their mean. Two
    neurons are as far apart as the larger difference of their two ranks. For a set, the flagged
    ones come in a random order; each draws one of the ten candidates nearest to it that the set
    does not have yet, all as likely. So within a set none comes twice; sets are independent.

    Args:
        flagged: int64 ``[n]``, numbers of the layer's neurons.
        candidates: int64 ``[m]``, numbers of others, from which sets are drawn.
        active: share of active tokens ``[neurons]``.
        std: standard deviation ``[neurons]``.
        repeats: how many sets.
        seed: of the draws, which depend on the layer's name too.
        layer: its name.

    Returns:
        Numbers of neurons, int64 ``[n]`` each, in rising order; none with fewer candidates than
        flagged.
    """
    if len(candidates) < len(flagged):
        return []
    both = torch.cat([flagged, candidates])
    ranks = np.stack([_ranks(values[both].double().numpy()) for values in (active, std)], axis=1)
    own, others = ranks[: len(flagged)], ranks[len(flagged) :]
    sets = []
    for draw in range(repeats):
        key = [layer_seed(seed, layer), draw]
        generator = np.random.Generator(np.random.Philox(key=key))
        taken = np.zeros(len(others), dtype=bool)
        for i in generator.permutation(len(own)):
            far = np.abs(others - own[i]).max(axis=1)
            far[taken] = np.inf
            left = len(others) - int(taken.sum())
            nearest = np.argsort(far, kind="stable")[: min(NEAR, left)]
            taken[nearest[generator.integers(len(nearest))]] = True
        sets.append(candidates[torch.from_numpy(np.flatnonzero(taken))].sort().values)
    return sets


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 to 1, of equal values their mean."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[which] / max(len(values) - 1, 1)
