"""The distribution of the excess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from univfast.report.pictures.canvas import (
    BLUE,
    GREEN,
    LINE,
    array,
    legend_below,
    new_figure,
    nothing_to_draw,
    say,
    say_left_out,
)
from univfast.report.pictures.marks import bin_edges, draw_bars, draw_outline, scale_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from univfast.report.pictures.canvas import Size
    from univfast.report.pictures.marks import Flags, Floats, Scale
    from univfast.result import CorrelationResult


def excess_figure(
    result: CorrelationResult, size: Size | None = None, scale: Scale | None = None
) -> Figure:
    """Distribution of the excess, with universal neurons in green and chance as an outline.

    The outline pools ``null_excess`` over draws and is scaled to the number of neurons shown, so
    it can be compared with the bars; it is absent where ``null_excess`` is.
    """
    summary = result.summary
    figure = new_figure((8.0, 5.2), size)
    axes = figure.subplots()
    axes.set_title(_flagged_against_chance(summary))
    axes.set_xlabel("excess (correlation \N{MINUS SIGN} baseline)")
    axes.set_ylabel("neurons")
    say_left_out(figure, summary)
    excess = array(result.excess)
    live = np.isfinite(excess)
    if not live.any():
        say(axes, nothing_to_draw(summary))
        return figure
    null = np.empty(0) if result.null_excess is None else array(result.null_excess)
    universal = array(result.universal)[live]
    _draw(axes, excess[live], universal, null[np.isfinite(null)], summary, scale)
    return figure


def _draw(
    axes: Axes,
    excess: Floats,
    universal: Flags,
    null: Floats,
    summary: Mapping[str, Any],
    scale: Scale | None,
) -> None:
    threshold = summary["threshold"]
    # The excess of two correlations lies in [-2, 2]; a threshold outside marks no place in it.
    anchor = float(np.clip(threshold, -2, 2))
    # With a bin edge at the threshold no bar is partly green.
    edges = bin_edges(np.concatenate([excess, null, [anchor]]), anchor)
    other = np.histogram(excess[~universal], edges)[0].astype(np.float64)
    green = np.histogram(excess[universal], edges)[0].astype(np.float64)
    draw_bars(axes, edges, other, colour=BLUE, label=f"other ({int(other.sum()):,})")
    draw_bars(
        axes, edges, green, colour=GREEN, label=f"universal ({int(green.sum()):,})", bottom=other
    )
    outline = np.zeros_like(other)
    if null.size:
        outline = np.histogram(null, edges)[0] * (excess.size / null.size)
        rotated = "rotated B" if len(summary["models"]) == 2 else "rotated models"
        draw_outline(axes, edges, outline, label=f"by chance ({rotated}, same number of neurons)")
    axes.axvline(threshold, color=LINE, lw=1.4, ls="--", label=f"threshold ({threshold:g})")
    axes.set_xlim(edges[0], edges[-1])
    scale_counts(axes, other + green, outline, scale)
    legend_below(axes)


def _flagged_against_chance(summary: Mapping[str, Any]) -> str:
    flagged = f"{summary['universal']:,} of {summary['neurons']:,} neurons universal"
    chance = summary["universal_by_chance"]
    if chance is None:
        return f"{flagged}\nexpected by chance: not available (needs at least two draws)"
    return f"{flagged}\n{chance:,.1f} expected by chance"
