"""Beside a search through all neurons: r of neuron i with neuron i, from the same co-moments."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import Rotations
from univfast.nulls.shifts import shifts_of
from univfast.search.blocks import Block
from univfast.search.matches import LayerCorrelation
from univfast.sums.co_moments import tile_bytes

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

    def add_draws(
        self,
        block: Block,
        rows: slice,
        number: int,
        rotations: Rotations,
        inverse: Tensor,
        draws: range,
    ) -> None:
        """Takes in some rotations of a layer of B, with it in A if that is among the rows.

        Args:
            block: co-moments of some layers of A with all of B.
            rows: of it.
            number: of the layer of B.
            rotations: the draws of its rotations.
            inverse: 1 / norm of the rotated neurons ``[draws, width]``.
            draws: which they are.
        """
        name = block.searched.layout.names[number]
        if name not in block.matched.layout.names:
            return
        here, part = _in_layer(block, block.matched.layout.names.index(name), rows)
        columns = self._layout.slices[self._layout.names.index(name)]
        width = columns.stop - columns.start
        step = max(1, tile_bytes(block.cross.device) // (8 * width * len(draws)))
        for first in range(part.start, part.stop, step):
            i = numbers(first, min(first + step, part.stop), device=block.cross.device)
            at = here.start + (i - part.start)
            turned = rotations.apply(block.cross[at, columns])  # [draws, rows, width]
            c = turned[:, i - first, i]
            scale = block.inverse[0][at] * inverse[:, i]
            self._rotated[draws.start : draws.stop, columns][:, i] = (c * scale).clamp(-1, 1)

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


def _in_layer(block: Block, number: int, rows: slice) -> tuple[slice, slice]:
    """Of some rows of a block those of one layer: counted in the block, and in the layer.

    The latter is empty, or the wrong way round, where there are none.
    """
    layer, skipped = block.matched.layout.slices[number], block.matched.layout.skipped
    first, last = max(rows.start, layer.start), min(rows.stop, layer.stop)
    before = layer.start - skipped
    return slice(first, last), slice(first - before, last - before)
