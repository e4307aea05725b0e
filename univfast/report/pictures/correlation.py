"""Actual correlation against the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from univfast.report.pictures.canvas import (
    BLUE,
    LINE,
    array,
    legend_below,
    new_figure,
    nothing_to_draw,
    say,
    say_left_out,
)
from univfast.report.pictures.marks import (
    bin_edges,
    draw_bars,
    draw_dots,
    draw_outline,
    scale_counts,
)
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from univfast.report.pictures.canvas import Size
    from univfast.report.pictures.marks import Flags, Floats, Scale
    from univfast.result import CorrelationResult


def correlation_figure(
    result: CorrelationResult, size: Size | None = None, scale: Scale | None = None
) -> Figure:
    """Actual correlation against the baseline: a dot a neuron, and both distributions.

    Neurons that are dead or have no partner have no correlation and are left out. Without a
    baseline (rotation ``none``) the left panel says so, and the right one shows the correlation
    alone.
    """
    figure = new_figure((11.0, 5.6), size)
    left, right = figure.subplots(1, 2)
    _draw_against(left, result)
    _draw_beside(right, array(result.correlation), array(result.baseline), result.summary, scale)
    say_left_out(figure, result.summary)
    return figure


def _draw_against(axes: Axes, result: CorrelationResult) -> None:
    axes.set_title("Each neuron: actual against baseline")
    x_label, y_label = _labels(result.summary)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    correlation, baseline = array(result.correlation), array(result.baseline)
    drawn = np.isfinite(correlation) & np.isfinite(baseline)
    if not drawn.any():
        say(axes, nothing_to_draw(result.summary))
        return
    correlation, baseline = correlation[drawn], baseline[drawn]
    universal: Flags = array(result.universal)[drawn]
    larger = draw_dots(axes, baseline, correlation, universal, "correlation = baseline")
    threshold = result.summary["threshold"]
    label = f"threshold (baseline {threshold:+g})"
    axes.axline((0, threshold), slope=1, color=LINE, lw=1.2, ls="--", label=label)
    legend_below(axes, markerscale=larger)


def _labels(summary: Mapping[str, Any]) -> tuple[str, str]:
    """What the baseline and the correlation are, with what they are means over."""
    draws, models = summary["rotation"]["draws"], len(summary["models"]) - 1
    statistic = MATCHINGS[summary["match"]].statistic
    one = "B" if models == 1 else "a model"
    rotated = "a randomly rotated B" if models == 1 else "a randomly rotated model"
    over_models = [f"{models} models"] if models > 1 else []
    over_both = [*over_models, f"{draws} draws"] if draws > 1 else over_models
    return (
        f"baseline: {statistic.format(rotated)}{_mean_over(over_both)}",
        f"correlation: {statistic.format(one)}{_mean_over(over_models)}",
    )


def _mean_over(what: list[str]) -> str:
    return f"\n(mean over {' and '.join(what)})" if what else ""


def _draw_beside(
    axes: Axes,
    correlation: Floats,
    baseline: Floats,
    summary: Mapping[str, Any],
    scale: Scale | None,
) -> None:
    axes.set_title("All neurons: actual beside baseline")
    axes.set_xlabel(MATCHINGS[summary["match"]].axis)
    axes.set_ylabel("neurons")
    correlation = correlation[np.isfinite(correlation)]
    baseline = baseline[np.isfinite(baseline)]
    if correlation.size == 0:
        say(axes, nothing_to_draw(summary))
        return
    edges = bin_edges(np.concatenate([correlation, baseline]), anchor=0.0)
    counts = np.histogram(correlation, edges)[0].astype(np.float64)
    draw_bars(axes, edges, counts, colour=BLUE, label=f"correlation ({_mean(correlation)})")
    outline = np.histogram(baseline, edges)[0].astype(np.float64)
    if baseline.size:
        draw_outline(axes, edges, outline, label=f"baseline ({_mean(baseline)})")
    axes.set_xlim(edges[0], edges[-1])
    scale_counts(axes, counts, outline, scale)
    legend_below(axes)


def _mean(values: Floats) -> str:
    return f"mean {values.mean():.3f}".replace("-", "\N{MINUS SIGN}")
