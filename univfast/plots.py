"""The two pictures of a result: actual against baseline, and the distribution of the excess.

Both are built with Matplotlib's object-oriented interface, so they need no display and leave the
global state of ``pyplot`` alone. Text that comes from the user is never drawn: a ``$`` in a layer
name would be read as a formula.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from univfast.result import CorrelationResult

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

# Okabe and Ito's palette, whose colours stay apart under every common colour blindness. The green
# is the darkest of those used, so it also stands out in grey print.
GREEN = "#009e73"  # universal neurons
BLUE = "#56b4e9"  # all other neurons, and the correlation
ORANGE = "#d55e00"  # the baseline, and what chance gives
LINE = "0.45"  # seen on a white and on a black background

_DPI = 130
_LOG_ABOVE = 300  # neurons in the tallest bar, from which a bar of one could no longer be seen
_ALL_DEAD = "No live neurons:\nevery neuron is constant, so none has a correlation."
_NO_BASELINE = "No baseline: computed with rotation none.\nNothing to compare the correlation with."


def correlation_figure(result: CorrelationResult) -> Figure:
    """Actual correlation against the baseline: a dot a neuron, and both distributions.

    Dead neurons have no correlation and are left out. Without a baseline (rotation ``none``) the
    left panel says so, and the right one shows the correlation alone.
    """
    figure = _new_figure(width=11.0, height=5.6)
    left, right = figure.subplots(1, 2)
    correlation = _array(result.correlation)
    baseline = _array(result.baseline)
    _draw_dots(left, correlation, baseline, _array(result.universal), result.summary["threshold"])
    _draw_correlation_histograms(right, correlation, baseline)
    return figure


def excess_figure(result: CorrelationResult) -> Figure:
    """Distribution of the excess, with universal neurons in green and chance as an outline.

    The outline pools ``null_excess`` over draws and is scaled to the number of neurons shown, so
    it can be compared with the bars; it is absent where ``null_excess`` is.
    """
    figure = _new_figure(width=8.0, height=5.2)
    axes = figure.subplots()
    axes.set_title(_flagged_against_chance(result.summary))
    axes.set_xlabel("excess (correlation \N{MINUS SIGN} baseline)")
    axes.set_ylabel("neurons")
    excess = _array(result.excess)
    if not np.isfinite(excess).any():
        _say(axes, _NO_BASELINE if np.isfinite(_array(result.correlation)).any() else _ALL_DEAD)
        return figure
    null = None if result.null_excess is None else _array(result.null_excess)
    threshold = result.summary["threshold"]
    _draw_excess(axes, excess, _array(result.universal), null, threshold)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file: the same result gives the same bytes, as nothing is dated."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04)
    return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu().numpy())


def _say(axes: Axes, message: str) -> None:
    """Write ``message`` in place of a plot that cannot be drawn."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def _legend_below(axes: Axes, markerscale: float = 1.0) -> None:
    """A legend under the axes, where it can hide no neuron."""
    legend = axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=2,
        frameon=False,
        fontsize="small",
        markerscale=markerscale,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def _draw_dots(
    axes: Axes, correlation: Floats, baseline: Floats, universal: Flags, threshold: float
) -> None:
    axes.set_title("Each neuron: actual against baseline")
    axes.set_xlabel("baseline (mean r with a randomly rotated B)")
    axes.set_ylabel("correlation (r of A with B)")
    drawn = np.isfinite(correlation) & np.isfinite(baseline)
    if not drawn.any():
        _say(axes, _NO_BASELINE if np.isfinite(correlation).any() else _ALL_DEAD)
        return
    count = int(drawn.sum())
    size = float(np.clip(6000 / count, 2, 28))  # points^2: a few dots are big, many are fine dust
    alpha = float(np.clip(60 / np.sqrt(count), 0.15, 0.85))
    for name, mask, colour, dot_alpha in (
        ("other", drawn & ~universal, BLUE, alpha),
        ("universal", drawn & universal, GREEN, max(alpha, 0.6)),
    ):
        axes.scatter(
            baseline[mask],
            correlation[mask],
            s=size,
            color=colour,
            alpha=dot_alpha,
            linewidths=0,
            rasterized=True,
            label=f"{name} ({int(mask.sum()):,})",
        )
    axes.axline((0, 0), slope=1, color=LINE, lw=1, label="correlation = baseline")
    label = f"threshold (baseline {threshold:+g})"
    axes.axline((0, threshold), slope=1, color=LINE, lw=1.2, ls="--", label=label)
    low, high = _square_limits(correlation[drawn], baseline[drawn], threshold)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    _legend_below(axes, markerscale=float(np.sqrt(28 / size)))


def _square_limits(correlation: Floats, baseline: Floats, threshold: float) -> tuple[float, float]:
    """One range for both axes that holds all dots and, where r can reach it, the threshold."""
    line = float(np.clip(np.median(baseline) + threshold, -1, 1))
    low = min(float(correlation.min()), float(baseline.min()), line)
    high = max(float(correlation.max()), float(baseline.max()), line)
    margin = 0.05 * max(high - low, 0.2)
    return low - margin, high + margin


def _draw_correlation_histograms(axes: Axes, correlation: Floats, baseline: Floats) -> None:
    axes.set_title("All neurons: actual beside baseline")
    axes.set_xlabel("r")
    axes.set_ylabel("neurons")
    correlation = correlation[np.isfinite(correlation)]
    baseline = baseline[np.isfinite(baseline)]
    if correlation.size == 0:
        _say(axes, _ALL_DEAD)
        return
    edges = _edges(np.concatenate([correlation, baseline, [0.0]]), correlation.size, anchor=0.0)
    counts = np.histogram(correlation, edges)[0].astype(np.float64)
    _bars(axes, edges, counts, colour=BLUE, label=f"correlation ({_mean(correlation)})")
    outline = np.histogram(baseline, edges)[0].astype(np.float64)
    if baseline.size:
        _outline(axes, edges, outline, label=f"baseline ({_mean(baseline)})")
    axes.set_xlim(edges[0], edges[-1])
    _scale_counts(axes, counts, outline)
    _legend_below(axes)


def _mean(values: Floats) -> str:
    return f"mean {values.mean():.3f}".replace("-", "\N{MINUS SIGN}")


def _draw_excess(
    axes: Axes, excess: Floats, universal: Flags, null: Floats | None, threshold: float
) -> None:
    live = np.isfinite(excess)
    null_values = np.empty(0) if null is None else null[np.isfinite(null)]
    # The excess of two correlations lies in [-2, 2]; a threshold outside marks no place in it.
    anchor = float(np.clip(threshold, -2, 2))
    values = np.concatenate([excess[live], null_values, [0.0, anchor]])
    # With a bin edge at the threshold no bar is partly green.
    edges = _edges(values, int(live.sum()), anchor)
    other = np.histogram(excess[live & ~universal], edges)[0].astype(np.float64)
    green = np.histogram(excess[live & universal], edges)[0].astype(np.float64)
    _bars(axes, edges, other, colour=BLUE, label=f"other ({int(other.sum()):,})")
    _bars(axes, edges, green, colour=GREEN, label=f"universal ({int(green.sum()):,})", bottom=other)
    outline = np.zeros_like(other)
    if null_values.size:
        weight = live.sum() / null_values.size
        outline = np.histogram(null_values, edges)[0] * weight
        _outline(axes, edges, outline, label="by chance (rotated B, same number of neurons)")
    axes.axvline(threshold, color=LINE, lw=1.4, ls="--", label=f"threshold ({threshold:g})")
    axes.set_xlim(edges[0], edges[-1])
    _scale_counts(axes, other + green, outline)
    _legend_below(axes)


def _edges(values: Floats, neurons: int, anchor: float) -> Floats:
    """Equal bins over ``values``, with an edge at ``anchor`` and one bin to spare on each side."""
    low, high = float(values.min()), float(values.max())
    bins = int(np.clip(2 * np.sqrt(neurons), 16, 60))
    width = max((high - low) / bins, 0.005)
    first = np.floor((low - anchor) / width) - 1
    last = np.ceil((high - anchor) / width) + 1
    return np.asarray(anchor + width * np.arange(first, last + 1), dtype=np.float64)


def _bars(
    axes: Axes,
    edges: Floats,
    counts: Floats,
    *,
    colour: str,
    label: str,
    bottom: Floats | float = 0.0,
) -> None:
    axes.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", color=colour, label=label)


def _outline(axes: Axes, edges: Floats, counts: Floats, *, label: str) -> None:
    # NaN ends the outline where there is nothing, so that it does not run along the axis.
    axes.stairs(np.where(counts > 0, counts, np.nan), edges, color=ORANGE, lw=1.5, label=label)


def _scale_counts(axes: Axes, bars: Floats, outline: Floats) -> None:
    """The count axis: logarithmic where a bar of one neuron would be too low to be seen."""
    highest = float(max(bars.max(), outline.max()))
    if highest > _LOG_ABOVE:
        axes.set_yscale("log")
        axes.set_ylim(0.1, 2 * highest)  # an outline scaled by its draws goes below one neuron
        axes.set_ylabel("neurons (logarithmic)")
    else:
        axes.set_ylim(0, 1.06 * highest)
        axes.locator_params(axis="y", integer=True)


def _flagged_against_chance(summary: dict[str, Any]) -> str:
    flagged = f"{summary['universal']:,} of {summary['neurons']:,} neurons universal"
    chance = summary["universal_by_chance"]
    if chance is None:
        return f"{flagged}\nexpected by chance: not available (needs at least two draws)"
    return f"{flagged}\n{chance:,.1f} expected by chance"
