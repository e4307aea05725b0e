"""What neurons are drawn as: dots, bars, and the outline of what they are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from univfast.report.pictures.canvas import BLUE, GREEN, LINE, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

Scale = Literal["linear", "log"]
"""Of counts."""

_DENSE = 5_000  # dots, above which they hide one another, and how many there are is drawn
_LOG_ABOVE = 5_000  # neurons, above which a bar of one could no longer be seen
_BIN = 0.02  # of r, and of its excess
# Where axes end, in every figure alike so that two can be compared, unless a number lies beyond.
_FIXED = (-0.2, 1.0)
_STEP = 0.2  # that they are widened by


def draw_dots(axes: Axes, x: Floats, y: Floats, universal: Flags, diagonal: str) -> float:
    """A dot a neuron, universal ones green, on axes of one range, with the diagonal.

    Of over 5,000 neurons, those that are not universal are drawn as how many stand in a place.

    Args:
        axes: to draw on.
        x: of each neuron, finite; at least one.
        y: the same.
        universal: which of them are.
        diagonal: what x = y is called.

    Returns:
        How much larger than the dots their marks in the legend should be.
    """
    low, high = fixed_range(np.concatenate([x, y]))
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.axline((0, 0), slope=1, color=LINE, lw=1, label=diagonal)
    others = int((~universal).sum())
    dense = others > _DENSE
    if dense:
        cells = round((high - low) / _BIN)
        image = axes.hist2d(
            x[~universal],
            y[~universal],
            bins=[np.linspace(low, high, cells + 1)] * 2,
            cmap="Blues",
            norm="log",
            cmin=1,
            rasterized=True,
        )[-1]
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
        bar.set_label(f"other neurons ({others:,}) in a cell, logarithmic")
    size = float(np.clip(6000 / len(x), 4 if dense else 2, 28))  # points^2
    alpha = float(np.clip(60 / np.sqrt(len(x)), 0.15, 0.85))
    for name, mask, colour, dot_alpha in (
        ("other", ~universal & (not dense), BLUE, alpha),
        ("universal", universal, GREEN, max(alpha, 0.6)),
    ):
        if name == "other" and dense:
            continue
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
    return float(np.sqrt(28 / size))


def fixed_range(values: Floats) -> tuple[float, float]:
    """-0.2 to 1, or wider in steps of 0.2 so that all values lie within."""
    low, high = float(values.min()), float(values.max())
    first, last = _FIXED
    if low < first:
        first = _STEP * np.floor(low / _STEP + 1e-9)
    if high > last:
        last = _STEP * np.ceil(high / _STEP - 1e-9)
    return float(first), float(last)


def bin_edges(values: Floats, anchor: float) -> Floats:
    """Bins of 0.02 over the range of `fixed_range`, with an edge at ``anchor``."""
    low, high = fixed_range(values)
    first, last = np.floor((low - anchor) / _BIN - 1e-9), np.ceil((high - anchor) / _BIN + 1e-9)
    return np.asarray(anchor + _BIN * np.arange(first, last + 1), dtype=np.float64)


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


def scale_counts(axes: Axes, bars: Floats, outline: Floats, scale: Scale | None) -> None:
    """The count axis: as asked for, or logarithmic above 5,000 neurons, and said so."""
    highest = float(max(bars.max(), outline.max()))
    if scale == "log" or (scale is None and bars.sum() > _LOG_ABOVE):
        axes.set_yscale("log")
        axes.set_ylim(0.1, 2 * highest)  # an outline scaled by its draws goes below one neuron
        axes.set_ylabel("neurons (logarithmic scale)")
    else:
        axes.set_ylim(0, 1.06 * highest)
        axes.locator_params(axis="y", integer=True)
