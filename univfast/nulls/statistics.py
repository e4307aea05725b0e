"""From correlations to a verdict on each neuron: baseline, excess, chance, p and q.

The definitions are those of `univfast.reference.statistics`, which computes them neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Statistics", "statistics"]


@dataclass(frozen=True)
class Statistics:
    """What follows, over all layers; float64 ``[neurons]`` unless said otherwise.

    ``null_excess`` ``[draws, neurons]`` is the excess of each draw, for every neuron that has a
    match in that draw: of a rotation over the mean of the others or, by index, of a wrong partner
    over the neuron's own baseline. ``chance_counts`` ``[draws]`` are how many pass the threshold in
    each. With fewer than two draws there is no null: these two are None, p and q are NaN. The
    standard deviation is that over rotations.
    """

    baseline: Tensor
    baseline_std: Tensor
    excess: Tensor
    p_value: Tensor
    q_value: Tensor
    universal: Tensor
    null_excess: Tensor | None
    chance_counts: Tensor | None


def statistics(
    correlation: Tensor,
    rotated: Tensor,
    widths: Sequence[int],
    threshold: float,
    shifted: Tensor | None = None,
) -> Statistics:
    """Baseline, excess, p, q and the counts that chance gives, over all layers together.

    By index chance is what wrong partners give: their excess over the neuron's baseline, which is 0
    where there are no rotations but wrong partners. If numbers of neurons mean nothing, the right
    partner is one like these, whatever the baseline. Layers may have different numbers of wrong
    partners: of draws that one does not have, its count is the mean over those it has. A layer of
    fewer than two has no null.

    With several models, baseline, excess and null excess are those of each model, averaged over the
    models that a neuron has a match in (for the null: in that draw).

    One-to-one, a neuron may have a match and yet be left over in every draw, or have one in a draw
    and in no other. Its baseline is then the mean, over those draws, of the neurons of its layer
    that have a match; of all layers, where its own has none. So a draw is treated as the model is,
    and no match is left out.

    Args:
        correlation: r of each neuron, layer after layer, with each other model, float64
            ``[models, neurons]``; NaN where there is none.
        rotated: r with each rotation, float64 ``[models, draws, neurons]``; NaN where there is
            none. Dead neurons have none.
        widths: neurons of each layer; null excesses are pooled within a layer.
        threshold: of the excess, above which a neuron is universal.
        shifted: r with wrong partners, float64 ``[models, shifts, neurons]``; NaN where there is
            none. None for matches that are not by index.
    """
    there = ~rotated.isnan()
    values = rotated.nan_to_num(nan=0.0)
    total, count = values.sum(dim=1, keepdim=True), there.sum(dim=1, keepdim=True)
    baselines = _mean_of_draws(total, count, widths)[:, 0]
    if shifted is not None and shifted.shape[1] and not rotated.shape[1]:
        baselines = torch.zeros_like(correlation)
    excess = (correlation - baselines).nanmean(dim=0)
    baseline = torch.where(correlation.isnan(), torch.nan, baselines).nanmean(dim=0)
    absent = torch.full_like(excess, torch.nan)
    deviation = (rotated - total / count).nanmean(dim=0)
    draws = (~deviation.isnan()).sum(dim=0)
    std = (deviation.square().nansum(dim=0) / (draws - 1)).sqrt()
    std = torch.where((draws > 1) & ~excess.isnan(), std, torch.nan)
    universal = excess > threshold
    drawn = rotated if shifted is None else shifted
    if drawn.shape[1] < 2:
        return Statistics(baseline, std, excess, absent, absent, universal, None, None)
    if shifted is None:
        others = _mean_of_draws(total - values, count - there.long(), widths)
        has = [len(drawn[0])] * len(widths)
    else:
        others = baselines[:, None]
        has = [min(len(drawn[0]), width - 1) for width in widths]
    nulls = list(torch.split((drawn - others).nanmean(dim=0), list(widths), dim=1))
    p_values, counts = [], []
    for i, own in enumerate(torch.split(excess, list(widths))):
        if has[i] < 2:
            nulls[i] = torch.full_like(nulls[i], torch.nan)
        p_values.append(_p_values(own, nulls[i]) if has[i] > 1 else torch.full_like(own, torch.nan))
        counts.append(_chance_counts(nulls[i], has[i], threshold))
    p_value = torch.cat(p_values)
    return Statistics(
        baseline,
        std,
        excess,
        p_value,
        _q_values(p_value),
        universal,
        torch.cat(nulls, dim=1),
        torch.stack(counts).sum(dim=0),
    )


def _chance_counts(null_excess: Tensor, draws: int, threshold: float) -> Tensor:
    """How many pass in each draw, float64 ``[all draws]``: the mean where a layer has fewer."""
    counts = (null_excess > threshold).sum(dim=1).double()  # NaN never passes
    counts[draws:] = counts[:draws].mean() if draws > 1 else 0.0
    return counts


def _mean_of_draws(total: Tensor, count: Tensor, widths: Sequence[int]) -> Tensor:
    """Of sums over draws and the number of draws with a match, ``[..., neurons]``: the mean.

    Where there is none: that over the neurons of the layer; failing that, over all.
    """

    def over_neurons(total: Tensor, count: Tensor) -> Tensor:
        mean = total.sum(dim=-1, keepdim=True) / count.sum(dim=-1, keepdim=True)
        return mean.expand_as(total)

    layers = (torch.split(x, list(widths), dim=-1) for x in (total, count))
    layer = torch.cat([over_neurons(*part) for part in zip(*layers, strict=True)], dim=-1)
    filled = torch.where(layer.isnan(), over_neurons(total, count), layer)
    return torch.where(count > 0, total / count, filled)


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
    q = p * len(p) / torch.arange(1, len(p) + 1, dtype=p.dtype, device="cpu")
    q = q.flip(0).cummin(0).values.flip(0) if len(q) else q
    unsorted = torch.empty_like(q)
    unsorted[order] = q
    return torch.full_like(p_value, torch.nan).masked_scatter(alive, unsorted)
