"""Beside a search through all neurons: r of neuron i with neuron i, from the same co-moments."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import Rotations
from univfast.nulls.shifts import shifts_of
from univfast.search.matches import LayerCorrelation
from univfast.sums.co_moments import Side, tile_bytes

__all__ = ["SameNumbers"]


class SameNumbers:
    """r of each neuron of A with that of the same layer and number of B, and what chance gives.

    Args:
        layout: the layers, the same of both models.
        rotation: of B.
        shifts: wrong partners of each neuron.
        device: where the co-moments are.
    """

    def __init__(
        self, layout: Layout, rotation: Baseline, shifts: int, device: torch.device
    ) -> None:
        self._layout = layout
        self._shifts = [
            shifts_of(width, shifts, rotation.seed, name).to(device)
            for name, width in zip(layout.names, layout.widths, strict=True)
        ]

        def absent(*shape: int) -> Tensor:
            return torch.full(shape, torch.nan, dtype=torch.float64, device=device)

        self._r = absent(layout.neurons)
        self._rotated = absent(rotation.draws, layout.neurons)
        self._shifted = absent(max(map(len, self._shifts)), layout.neurons)

    def add(self, cross: Tensor, matched: Side, searched: Side) -> None:
        """Takes in co-moments of some layers of A with all of B."""
        for number, (name, rows) in enumerate(
            zip(matched.layout.names, matched.layout.slices, strict=True)
        ):
            place = self._layout.names.index(name)
            layer, first = self._layout.slices[place], matched.layout.skipped
            width = self._layout.widths[place]
            block = cross[rows, layer]
            inverse_a, inverse_b = matched.inverse_norm[rows], searched.inverse_norm[layer]
            i = numbers(matched.layout.widths[number], device=cross.device)
            own = slice(layer.start + first, layer.start + first + len(i))

            for k, shift in enumerate([0, *self._shifts[place].tolist()]):
                j = (i + first + shift) % width
                r = (block[i, j] * inverse_a * inverse_b[j]).clamp(-1, 1)
                (self._shifted[k - 1] if k else self._r)[own] = r

    def add_draws(
        self,
        cross: Tensor,
        matched: Side,
        layer: str,
        rotations: Rotations,
        inverse: Tensor,
        draws: range,
    ) -> None:
        """Takes in some rotations of a layer of B, with it in A if that is among ``matched``.

        Args:
            cross: co-moments of the layers ``matched`` with all of B.
            matched: some layers of A.
            layer: the layer's name.
            rotations: the draws of its rotations.
            inverse: 1 / norm of the rotated neurons ``[draws, width]``.
            draws: which they are.
        """
        if layer not in matched.layout.names:
            return
        rows = matched.layout.slices[matched.layout.names.index(layer)]
        own = self._layout.slices[self._layout.names.index(layer)]
        block, width, skipped = cross[rows, own], own.stop - own.start, matched.layout.skipped
        step = max(1, tile_bytes(cross.device) // (8 * width * len(draws)))
        for first in range(0, len(block), step):
            part = numbers(first, min(first + step, len(block)), device=cross.device)
            turned = rotations.apply(block[part])  # [draws, rows, width]
            c = turned[:, part - first, part + skipped]
            scale = matched.inverse_norm[rows][part] * inverse[:, part + skipped]
            found = (c * scale).clamp(-1, 1)
            self._rotated[draws.start : draws.stop, own][:, part + skipped] = found

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far, by name, not copied."""
        return {"same_r": self._r, "same_rotated": self._rotated, "same_shifted": self._shifted}

    def correlations(self, tokens: int) -> list[LayerCorrelation]:
        """Of each layer."""
        return [
            LayerCorrelation(
                layer=name,
                match_layer=name,
                tokens=tokens,
                correlation=self._r[own].cpu(),
                rotated=torch.where(self._r[own].isnan(), torch.nan, self._rotated[:, own]).cpu(),
                shifted=self._shifted[: len(shifts), own].cpu(),
            )
            for name, own, shifts in zip(
                self._layout.names, self._layout.slices, self._shifts, strict=True
            )
        ]
