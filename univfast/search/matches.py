"""What a search finds: r of neurons with their matches, and in rotations of the other model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.native.place import numbers

__all__ = ["LayerCorrelation", "Matches", "matches_by_index"]


@dataclass(frozen=True)
class LayerCorrelation:
    """r of neuron i of one layer with neuron i of another.

    Attributes:
        layer: its name in A.
        match_layer: its name in B.
        tokens: that it was measured on.
        correlation: Pearson's r, float64 ``[neurons]``; NaN for a dead neuron.
        rotated: r with each rotation of B, float64 ``[draws, neurons]``.
        shifted: r with each wrong partner, float64 ``[shifts, neurons]``; NaN where either is dead.
    """

    layer: str
    match_layer: str
    tokens: int
    correlation: Tensor
    rotated: Tensor
    shifted: Tensor


@dataclass(frozen=True)
class Matches:
    """What one model's neurons are matched with in another; ``[neurons]``, layer after layer.

    Attributes:
        layers: names of the layers searched.
        correlation: r with the match, float64; NaN where there is none.
        match_layer: number of the match's layer in ``layers``, int64; -1 where there is none.
        match_neuron: number of the match in its layer, int64; -1 where there is none.
        rotated: r with the match in each rotation, float64 ``[draws, neurons]``; NaN where there is
            none in it, and for the dead.
        dead: without variance (by index: in either model), bool.
        mutual: the match is this neuron's best, and this neuron is the best of its match, bool;
            None by index.
        top_correlation: the highest r, float64 ``[neurons, top_k]``, NaN where there are fewer;
            None by index.
        top_layer, top_neuron: where, as above, int64 ``[neurons, top_k]``; None by index.
        place: number of the match among all neurons searched, int64; -1 where there is none.
        back: of each neuron searched, r with the neuron matched that it fits best (one-to-one, with
            its partner; by index, with that of the same number), float64; NaN where there is none.
        shifted: r with wrong partners, float64 ``[shifts, neurons]``; NaN for the dead, where the
            partner is dead, and where a layer has fewer shifts; None but by index.
    """

    layers: tuple[str, ...]
    correlation: Tensor
    match_layer: Tensor
    match_neuron: Tensor
    rotated: Tensor
    dead: Tensor
    mutual: Tensor | None = None
    top_correlation: Tensor | None = None
    top_layer: Tensor | None = None
    top_neuron: Tensor | None = None
    place: Tensor | None = None
    back: Tensor | None = None
    shifted: Tensor | None = None


def matches_by_index(layers: Sequence[LayerCorrelation]) -> Matches:
    """The matches of neurons with those of the same number, layer after layer."""
    widths = [len(layer.correlation) for layer in layers]
    correlation = torch.cat([layer.correlation for layer in layers])
    dead = correlation.isnan()
    rotated = torch.cat([layer.rotated for layer in layers], dim=1)
    shifted = _side_by_side(layers)
    return Matches(
        layers=tuple(layer.match_layer for layer in layers),
        correlation=correlation,
        match_layer=numbers(len(layers)).repeat_interleave(
            torch.tensor(widths, dtype=torch.int64, device="cpu")
        ),
        match_neuron=torch.cat([numbers(width) for width in widths]),
        # A neuron that is constant in B alone has an r with rotations of B, and with others of B.
        rotated=torch.where(dead, torch.nan, rotated),
        dead=dead,
        place=torch.where(dead, -1, numbers(len(dead))),
        back=correlation,
        shifted=torch.where(dead, torch.nan, shifted),
    )


def _side_by_side(layers: Sequence[LayerCorrelation]) -> Tensor:
    """r with wrong partners, ``[most shifts, neurons]``; NaN where there are fewer."""
    most = max(len(layer.shifted) for layer in layers)
    parts = [
        torch.nn.functional.pad(x.shifted, (0, 0, 0, most - len(x.shifted)), value=torch.nan)
        for x in layers
    ]
    return torch.cat(parts, dim=1)
