"""From correlations to a verdict on each neuron: baseline, excess, chance, p and q.

The definitions are those of `univfast.reference.statistics`, which computes them neuron by neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LayerCorrelation", "Statistics", "statistics"]


@dataclass(frozen=True)
class LayerCorrelation:
    """What was measured of one layer.

    Attributes:
        layer: its name in A.
        match_layer: its name in B.
        tokens: that it was measured on.
        correlation: Pearson's r, float64 ``[neurons]``; NaN for a dead neuron.
        rotated: r with each rotation of B, float64 ``[draws, neurons]``.
    """

    layer: str
    match_layer: str
    tokens: int
    correlation: Tensor
    rotated: Tensor


@dataclass(frozen=True)
class Statistics:
    """What follows, over all layers; float64 ``[neurons]`` unless said otherwise.

    ``null_excess`` ``[draws, neurons]`` is the excess of each draw over the mean of the other
    draws, and ``chance_counts`` ``[draws]`` how many live neurons pass the threshold in each. With
    fewer than two draws there is no null: these two are None, the standard deviation, p and q are
    NaN.
    """

    baseline: Tensor
    baseline_std: Tensor
    excess: Tensor
    p_value: Tensor
    q_value: Tensor
    universal: Tensor
    null_excess: Tensor | None
    chance_counts: Tensor | None


def statistics(layers: list[LayerCorrelation], threshold: float) -> Statistics:
    """Baseline, excess, p, q and the counts that chance gives, over all layers together."""
    correlation = torch.cat([layer.correlation for layer in layers])
    rotated = torch.cat([layer.rotated for layer in layers], dim=1)
    draws = len(rotated)
    absent = torch.full_like(correlation, torch.nan)
    baseline = rotated.mean(dim=0) if draws else absent
    excess = correlation - baseline
    universal = excess > threshold
    if draws < 2:
        return Statistics(baseline, absent, excess, absent, absent, universal, None, None)

    # rotated[d] - mean of the others, without a copy a draw
    null_excess = (rotated - baseline) * (draws / (draws - 1))
    sizes = [len(layer.correlation) for layer in layers]
    parts = zip(torch.split(excess, sizes), torch.split(null_excess, sizes, dim=1), strict=True)
    p_value = torch.cat([_p_values(own, null) for own, null in parts])
    return Statistics(
        baseline,
        rotated.std(dim=0),
        excess,
        p_value,
        _q_values(p_value),
        universal,
        null_excess,
        (null_excess > threshold).sum(dim=1),  # NaN of dead neurons never passes
    )


def _p_values(excess: Tensor, null_excess: Tensor) -> Tensor:
    """``(1 + hits) / (1 + nulls)`` of each neuron against the pooled nulls of its layer."""
    null = null_excess[~null_excess.isnan()].sort().values
    hits = len(null) - torch.searchsorted(null, excess.contiguous())
    p_value = (1 + hits.double()) / (1 + len(null))
    return torch.where(excess.isnan(), torch.nan, p_value)


def _q_values(p_value: Tensor) -> Tensor:
    """Benjamini and Hochberg (1995), over all p-values that are not NaN."""
    alive = ~p_value.isnan()
    p, order = p_value[alive].sort(stable=True)
    q = p * len(p) / torch.arange(1, len(p) + 1, dtype=p.dtype)
    q = q.flip(0).cummin(0).values.flip(0) if len(q) else q
    unsorted = torch.empty_like(q)
    unsorted[order] = q
    return torch.full_like(p_value, torch.nan).masked_scatter(alive, unsorted)
