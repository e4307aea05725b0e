"""Matches among some pairs of neurons, whose r is known over all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.native import Best
from univfast.native.place import numbers
from univfast.search.matches import Matches

__all__ = ["Pairs", "matches_of_best"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of neurons of two models, and their r.

    Attributes:
        matched: layers of the neurons that are matched.
        searched: those of the others.
        rows, places: int64 ``[pairs]``: numbers among the neurons of either; each pair once.
        r: float64 ``[pairs]``; NaN where either is constant.
    """

    matched: Layout
    searched: Layout
    rows: Tensor
    places: Tensor
    r: Tensor

    def turned(self) -> Pairs:
        """The same pairs, seen from the other model."""
        return Pairs(self.searched, self.matched, self.places, self.rows, self.r)

    def best(self, count: int) -> Best:
        """The highest of each neuron, ``[neurons matched, count]``: of equal ones the first."""
        known = (~self.r.isnan()).nonzero()[:, 0]
        order = known[self.places[known].argsort(stable=True)]
        order = order[self.r[order].argsort(stable=True, descending=True)]
        order = order[self.rows[order].argsort(stable=True)]
        rows = self.rows[order]
        begins = torch.searchsorted(rows, numbers(self.matched.neurons))
        rank = numbers(len(rows)) - begins[rows]
        kept = rank < count
        best = Best.none(self.matched.neurons, count)
        best.correlation[rows[kept], rank[kept]] = self.r[order[kept]]
        best.place[rows[kept], rank[kept]] = self.places[order[kept]]
        return best


def matches_of_best(
    layouts: tuple[Layout, Layout], best: Best, back: Best, dead: Tensor, rotated: Tensor
) -> Matches:
    """Matches with the best of each neuron.

    Args:
        layouts: of the neurons matched, and of those searched.
        best: of the neurons matched, ``[neurons, count]``, highest first.
        back: of those searched, ``[neurons, 1 or more]``.
        dead: neurons without variance, bool.
        rotated: r in rotations, -inf for none, float64 ``[draws, neurons]``.
    """
    matched, searched = layouts
    match, there = best.place[:, 0], best.place >= 0
    back_place = back.place[:, 0]
    correlation = torch.where(there, best.correlation.clamp(-1.0, 1.0), torch.nan)
    layer, neuron = searched.locate(match)
    top_layer, top_neuron = searched.locate(best.place)
    return Matches(
        layers=searched.names,
        correlation=correlation[:, 0],
        match_layer=layer,
        match_neuron=neuron,
        rotated=torch.where((rotated == -torch.inf) | dead, torch.nan, rotated),
        dead=dead,
        mutual=(match >= 0) & (back_place[match] == numbers(matched.neurons)),
        top_correlation=correlation,
        top_layer=top_layer,
        top_neuron=top_neuron,
        place=match,
        back=torch.where(back_place >= 0, back.correlation[:, 0], torch.nan),
    )
