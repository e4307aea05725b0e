"""What neurons are drawn as: dots, bars, and the outline of what they are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from univfast.report.pictures.canvas import BLUE, GREEN, LINE, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_LOG_ABOVE = 300  # neurons in the tallest bar, from which a bar of one could no longer be seen


def draw_dots(axes: Axes, x: Floats, y: Floats, universal: Flags, diagonal: str) -> float:
    """A dot a neuron, universal ones green, on axes of one range, with the diagonal.

    Args:
        axes: to draw on.
        x: of each neuron, finite; at least one.
        y: the same.
        universal: which of them are.
        diagonal: what x = y is called.

    Returns:
        How much larger than the dots their marks in the legend should be.
    """
    size = float(np.clip(6000 / len(x), 2, 28))  # points^2: a few dots are big, many are fine dust
    alpha = float(np.clip(60 / np.sqrt(len(x)), 0.15, 0.85))
    for name, mask, colour, dot_alpha in (
        ("other", ~universal, BLUE, alpha),
        ("universal", universal, GREEN, max(alpha, 0.6)),
    ):
        axes.scatter(
            x[mask],
            y[mask],
            s=size,
            color=colour,
            alpha=dot_alpha,
            linewidths=0,
            rasterized=True,
            label=f"{name} ({int(mask.sum()):,})",
        )
    axes.axline((0, 0), slope=1, color=LINE, lw=1, label=diagonal)
    return float(np.sqrt(28 / size))


def set_square(axes: Axes, values: Floats) -> None:
    """One range for both axes that holds all values."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * max(high - low, 0.2)
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")


def bin_edges(values: Floats, neurons: int, anchor: float) -> Floats:
    """Equal bins over ``values``, with an edge at ``anchor`` and one bin to spare on each side."""
    low, high = float(values.min()), float(values.max())
    bins = int(np.clip(2 * np.sqrt(neurons), 16, 60))
    width = max((high - low) / bins, 0.005)
    first = np.floor((low - anchor) / width) - 1
    last = np.ceil((high - anchor) / width) + 1
    return np.asarray(anchor + width * np.arange(first, last + 1), dtype=np.float64)


def draw_bars(
    axes: Axes,
    edges: Floats,
    counts: Floats,
    *,
    colour: str,
    label: str,
    bottom: Floats | float = 0.0,
) -> None:
    """A histogram, upon ``bottom``."""
    axes.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", color=colour, label=label)


def draw_outline(axes: Axes, edges: Floats, counts: Floats, *, label: str) -> None:
    """A histogram that others are compared with."""
    # NaN ends the outline where there is nothing, so that it does not run along the axis.
    axes.stairs(np.where(counts > 0, counts, np.nan), edges, color=ORANGE, lw=1.5, label=label)


def scale_counts(axes: Axes, bars: Floats, outline: Floats) -> None:
    """The count axis: logarithmic where a bar of one neuron would be too low to be seen."""
    highest = float(max(bars.max(), outline.max()))
    if highest > _LOG_ABOVE:
        axes.set_yscale("log")
        axes.set_ylim(0.1, 2 * highest)  # an outline scaled by its draws goes below one neuron
        axes.set_ylabel("neurons (logarithmic)")
    else:
        axes.set_ylim(0, 1.06 * highest)
        axes.locator_params(axis="y", integer=True)
