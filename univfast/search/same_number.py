"""Beside a search through all neurons: r of neuron i with neuron i, from the same co-moments."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.nulls.shifts import shifts_of
from univfast.search.blocks import Block
from univfast.search.matches import LayerCorrelation

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
        self.rotated = absent(rotation.draws, layout.neurons)
        """r in each rotation of B, ``[draws, neurons]``."""
        self._shifted = absent(max(map(len, self._shifts)), layout.neurons)

    def add(self, block: Block, rows: slice) -> None:
        """Takes in some rows of the co-moments of some layers of A with all of B."""
        for number, name in enumerate(block.matched.layout.names):
            here, part = _in_layer(block, number, rows)
            if part.stop <= part.start:
                continue
            place = self._layout.names.index(name)
            columns = self._layout.slices[place]
            own = slice(columns.start + part.start, columns.start + part.stop)
            c = block.cross[here, columns]
            inverse_a, inverse_b = block.inverse[0][here], block.inverse[1][columns]
            i = numbers(part.start, part.stop, device=c.device)
            row = i - part.start
            self._r[own] = (c[row, i] * inverse_a * inverse_b[i]).clamp(-1, 1)
            for k, shift in enumerate(self._shifts[place].tolist()):
                j = (i + shift) % c.shape[1]
                self._shifted[k, own] = (c[row, j] * inverse_a * inverse_b[j]).clamp(-1, 1)

    def own(self, block: Block, rows: slice, number: int) -> Tensor | None:
        """Of some rows of a block, the neuron of the same number in a layer of B; -1 for others.

        int64 ``[rows]``; None where the layer is not among those of A.
        """
        name = block.searched.layout.names[number]
        if name not in block.matched.layout.names:
            return None
        here, part = _in_layer(block, block.matched.layout.names.index(name), rows)
        if part.stop <= part.start:
            return None
        found = torch.full((rows.stop - rows.start,), -1, dtype=torch.int64, device=self._r.device)
        found[here.start - rows.start : here.stop - rows.start] = numbers(
            part.start, part.stop, device=self._r.device
        )
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far, by name, not copied."""
        return {"same_r": self._r, "same_rotated": self.rotated, "same_shifted": self._shifted}

    def correlations(self, tokens: int) -> list[LayerCorrelation]:
        """Of each layer."""
        return [
            LayerCorrelation(
                layer=name,
                match_layer=name,
                tokens=tokens,
                correlation=self._r[own].cpu(),
                rotated=torch.where(self._r[own].isnan(), torch.nan, self.rotated[:, own]).cpu(),
                shifted=self._shifted[: len(shifts), own].cpu(),
            )
            for name, own, shifts in zip(
                self._layout.names, self._layout.slices, self._shifts, strict=True
            )
        ]


def _in_layer(block: Block, number: int, rows: slice) -> tuple[slice, slice]:
    """Of some rows of a block those of one layer: counted in the block, and in the layer.

    The latter is empty, or the wrong way round, where there are none.
    """
    layer, skipped = block.matched.layout.slices[number], block.matched.layout.skipped
    first, last = max(rows.start, layer.start), min(rows.stop, layer.stop)
    before = layer.start - skipped
    return slice(first, last), slice(first - before, last - before)
