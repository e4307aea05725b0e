"""Co-moments of some layers of both models as a search takes them: some rows, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.sums.co_moments import Side, tile_bytes

__all__ = ["Block", "inverse_root"]

# Of a block of rows: few enough that several processes, each with its CUDA device, have some.
_MOST_ROWS = 4096


class Block:
    """Co-moments of the neurons to match (rows) with those of some layers searched (columns).

    Args:
        cross: ``[rows, columns]``; any strides.
        matched: of the rows, neighbouring layers.
        searched: of the columns, neighbouring layers.
        models: all layers of both models.

    Attributes:
        inverse: 1 / norm of the rows and of the columns; NaN where a neuron is constant.
        place: the rows and columns among all neurons of both models.
    """

    def __init__(
        self, cross: Tensor, matched: Side, searched: Side, models: tuple[Layout, Layout]
    ) -> None:
        self.cross, self.matched, self.searched = cross, matched, searched
        self.inverse = matched.inverse_norm, searched.inverse_norm
        row, column = models[0].start(matched.layout), models[1].start(searched.layout)
        height, width = cross.shape
        self.place = slice(row, row + height), slice(column, column + width)

    def rows(self) -> list[slice]:
        """Rows that are done together: a tile of the widest layer, however work is shared."""
        step = min(self._tile_rows(max(self.searched.layout.widths)), _MOST_ROWS)
        count = len(self.cross)
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]

    def tiles(self, rows: slice, columns: slice) -> Iterator[tuple[slice, slice, Tensor]]:
        """Some rows with some of the columns, tile by tile: rows here, among all, co-moments."""
        step = self._tile_rows(columns.stop - columns.start)
        for first in range(rows.start, rows.stop, step):
            part = slice(first, min(first + step, rows.stop))
            tile = self.cross[part, columns]
            # Rows of a transpose are no rows in memory: they are copied, a tile at a time.
            tile = tile if tile.stride(1) == 1 or tile.shape[1] == 1 else tile.contiguous()
            start = self.place[0].start
            yield part, slice(start + part.start, start + part.stop), tile

    def _tile_rows(self, columns: int) -> int:
        return max(1, tile_bytes(self.cross.device) // (8 * columns))


def inverse_root(moments: Tensor) -> Tensor:
    """1 / sqrt of moments; NaN where there are none."""
    return torch.where(moments > 0, moments.rsqrt(), torch.nan)
