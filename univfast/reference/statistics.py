"""Baseline, excess, chance, p and q, neuron by neuron."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistics", "statistics"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Per neuron ``[neurons]``, and the two counts."""

    baseline: Array
    baseline_std: Array
    excess: Array
    p_value: Array
    q_value: Array
    universal: NDArray[np.bool_]
    universal_by_chance: float
    fdr: float


def statistics(
    correlation: Array,
    rotated: Array,
    layer: NDArray[np.int64],
    threshold: float = 0.5,
    shifted: Array | None = None,
) -> Statistics:
    """Baseline, excess, chance, p and q as README defines them, neuron by neuron.

    A neuron that has a match but none in any draw (or, where a draw plays the model, in any other)
    takes for its baseline the mean of its layer's matched neurons over those draws; the mean of
    all layers' where its layer has none.

    By index, chance is the excess of wrong partners over the neuron's own baseline, which is 0 if
    there are no rotations. A layer of fewer than two has no p, and none of it pass by chance.

    Args:
        correlation: ``[neurons]``, NaN where there is none.
        rotated: ``[draws, neurons]``, NaN where there is none.
        layer: ``[neurons]``, the layer's number; null excesses are pooled within a layer.
        threshold: of the excess.
        shifted: ``[shifts, neurons]``, NaN where there is none; None but by index.
    """
    draws, neurons = rotated.shape
    nan = np.full(neurons, np.nan)
    baseline, std, null = nan.copy(), nan.copy(), np.full((draws, neurons), np.nan)
    has = np.full(neurons, draws)  # draws of the null, in the neuron's layer

    def mean_of(others: Array, i: int) -> float:
        for values in (others[:, i], others[:, layer == layer[i]], others):
            there = values[~np.isnan(values)]
            if there.size:
                return float(there.mean())
        return float("nan")

    for i in range(neurons):
        there = np.flatnonzero(~np.isnan(rotated[:, i])).tolist()
        for d in there:
            null[d, i] = rotated[d, i] - mean_of(np.delete(rotated, d, axis=0), i)
        if not np.isnan(correlation[i]):
            baseline[i] = mean_of(rotated, i)
            if len(there) > 1:
                std[i] = rotated[there, i].std(ddof=1)
    if shifted is not None:
        if draws == 0 and len(shifted):
            baseline = np.where(np.isnan(correlation), np.nan, 0.0)
        null = shifted - baseline
        widths = np.array([(layer == number).sum() for number in layer])
        has = np.minimum(len(shifted), widths - 1)
    excess = correlation - baseline
    universal = excess > threshold
    if has.max(initial=0) < 2:
        return Statistics(baseline, std, excess, nan, nan, universal, np.nan, np.nan)

    # Each neuron's mean over the draws that its layer has.
    null = np.where(has < 2, np.nan, null)
    with np.errstate(invalid="ignore"):
        by_chance = float(((null > threshold).sum(axis=0) / np.maximum(has, 1)).sum())
    p = nan.copy()
    for i in np.flatnonzero(~np.isnan(excess) & (has > 1)).tolist():
        pool = null[:, layer == layer[i]]
        pool = pool[~np.isnan(pool)]
        p[i] = (1 + (pool >= excess[i]).sum()) / (1 + pool.size)
    q = nan.copy()
    alive = np.flatnonzero(~np.isnan(p))
    order = alive[np.argsort(p[alive], kind="stable")]
    smallest = 1.0
    for rank in range(len(order), 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * len(order) / rank)
        q[order[rank - 1]] = smallest
    flagged = int(universal.sum())
    fdr = by_chance / flagged if flagged else np.nan
    return Statistics(baseline, std, excess, p, q, universal, by_chance, fdr)
