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
    correlation: Array, rotated: Array, layer: NDArray[np.int64], threshold: float = 0.5
) -> Statistics:
    """Baseline, excess, chance, p and q as README defines them, neuron by neuron.

    A neuron that has a match but none in any draw (or, where a draw plays the model, in any other)
    takes for its baseline the mean of its layer's matched neurons over those draws; the mean of
    all layers' where its layer has none.

    Args:
        correlation: ``[neurons]``, NaN where there is none.
        rotated: ``[draws, neurons]``, NaN where there is none.
        layer: ``[neurons]``, the layer's number; null excesses are pooled within a layer.
        threshold: of the excess.
    """
    draws, neurons = rotated.shape
    nan = np.full(neurons, np.nan)
    baseline, std, null = nan.copy(), nan.copy(), np.full((draws, neurons), np.nan)

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
    excess = correlation - baseline
    universal = excess > threshold
    if draws < 2:
        return Statistics(baseline, nan, excess, nan, nan, universal, np.nan, np.nan)

    by_chance = float(np.mean([(row[~np.isnan(row)] > threshold).sum() for row in null]))
    p = nan.copy()
    for i in np.flatnonzero(~np.isnan(excess)).tolist():
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
