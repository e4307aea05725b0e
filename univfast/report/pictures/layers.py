"""Where matches are: how many neurons of each layer of A have theirs in each layer of B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from univfast.report.pictures.canvas import (
    new_figure,
    nothing_to_draw,
    say,
    say_left_out,
    short_names,
)
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from univfast.report.pictures.canvas import Size
    from univfast.result import CorrelationResult

MOST_PANELS = 6
_ROW_OF_PANELS = 3
_CELL = (0.55, 0.4)  # inches, of a cell while there is room
_PANEL = ((1.8, 6.0), (1.2, 6.0))  # inches, least and most, of a panel's width and height
_NARROWEST = 5.0  # inches, of a figure that its title fits in
_DIGIT = 0.085  # inches, of a count's digits and of a name's characters, about
_LINE = 0.14  # inches, of a line of names


def match_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of matches with each model; none by index, where there is nothing to see."""
    tables = summary["match_layers"]
    return [table for table in (tables if isinstance(tables, list) else [tables]) if table]


def layers_figure(result: CorrelationResult, size: Size | None = None) -> Figure:
    """A heat map a model, of the first six: layers of A downwards, those of the model across."""
    summary = result.summary
    models = summary["models"][1:]
    counts = match_tables(summary)[:MOST_PANELS]
    panels = [_Panel.of(table) for table in counts]
    across = min(len(panels), _ROW_OF_PANELS)
    down = -(-len(panels) // across)
    width = max(panel.width for panel in panels)
    height = max(panel.height for panel in panels)
    figure = new_figure((max(across * width + 0.9, _NARROWEST), down * height + 0.6), size)
    what = MATCHINGS[summary["match"]].partner
    shown = f" (first {MOST_PANELS} of {len(models)} models)" if len(models) > MOST_PANELS else ""
    figure.suptitle(f"Layers that each neuron's {what} is in{shown}")
    say_left_out(figure, summary)
    grid = figure.subplots(down, across, squeeze=False)
    highest = max(int(panel.counts.max()) for panel in panels)
    image = None
    for axes, panel, name in zip(grid.flat, panels, short_names(models), strict=False):
        axes.set_ylabel("layers of A")
        if len(models) > 1:
            axes.set_title(name, parse_math=False, fontsize="medium")
        axes.set_xlabel("layers of B" if len(models) == 1 else "layers of the model")
        if panel.counts.any():
            image = panel.draw(axes, highest)
        else:
            say(axes, nothing_to_draw(summary))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    if image is not None:
        from matplotlib.ticker import MaxNLocator

        ticks = MaxNLocator(nbins=5, integer=True)
        figure.colorbar(image, ax=grid, label="neurons of A", ticks=ticks)
    return figure


@dataclass(frozen=True)
class _Panel:
    """A heat map, and the room that it takes.

    Attributes:
        rows, columns: names of the layers, as they are drawn.
        counts: neurons, ``[rows, columns]``.
        cell: width and height in inches.
        upright: whether the names of the columns fit under them as they are.
    """

    rows: list[str]
    columns: list[str]
    counts: NDArray[np.int64]
    cell: tuple[float, float]
    upright: bool

    @classmethod
    def of(cls, table: dict[str, Any]) -> _Panel:
        rows, columns = short_names(table["rows"]), short_names(table["columns"])
        counts = np.array(table["counts"], dtype=np.int64).reshape(len(rows), len(columns))
        width, height = (
            float(np.clip(len(names) * cell, *limits)) / len(names)
            for names, cell, limits in zip((columns, rows), _CELL, _PANEL, strict=True)
        )
        upright = (max(map(len, columns)) + 1) * _DIGIT <= width
        return cls(rows, columns, counts, (width, height), upright)

    @property
    def width(self) -> float:
        """In inches, with the names beside it."""
        return len(self.columns) * self.cell[0] + max(map(len, self.rows)) * _DIGIT + 0.5

    @property
    def height(self) -> float:
        """In inches, with the names and the title."""
        names = _LINE if self.upright else max(map(len, self.columns)) * _DIGIT
        return len(self.rows) * self.cell[1] + names + 0.8

    def draw(self, axes: Axes, highest: int) -> AxesImage:
        """Draws it, in colours from 0 to ``highest``."""
        image = axes.imshow(
            self.counts, cmap="Blues", vmin=0, vmax=highest, aspect="auto", interpolation="nearest"
        )
        for names, room, set_ticks, rotation in (
            (self.columns, self.cell[0], axes.set_xticks, 0 if self.upright else 90),
            (self.rows, self.cell[1], axes.set_yticks, 0),
        ):
            step = int(np.ceil(_LINE / room))  # names of some layers only, where there are too many
            chosen = range(0, len(names), step)
            set_ticks(
                chosen,
                [names[i] for i in chosen],
                rotation=rotation,
                fontsize="small",
                parse_math=False,
            )
        digits = len(f"{int(self.counts.max()):,}")
        if self.cell[0] >= (digits + 1) * _DIGIT and self.cell[1] >= 1.2 * _LINE:
            for (i, j), count in np.ndenumerate(self.counts):
                colour = "white" if count > 0.6 * highest else "black"
                axes.text(
                    j, i, f"{count:,}", ha="center", va="center", fontsize="small", color=colour
                )
        return image
