"""Smallest correlation over several models against the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from univfast.report.pictures.canvas import (
    array,
    legend_below,
    new_figure,
    nothing_to_draw,
    say,
    say_left_out,
)
from univfast.report.pictures.marks import draw_dots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from univfast.report.pictures.canvas import Size
    from univfast.result import CorrelationResult


def models_figure(result: CorrelationResult, size: Size | None = None) -> Figure:
    """How far a neuron's correlation is the same in all models: a dot a neuron.

    On the diagonal it is the same; far below it, one model has the neuron and another has not.
    """
    assert result.correlation_min is not None
    assert result.correlation_max is not None
    models = len(result.summary["models"]) - 1
    figure = new_figure((6.4, 6.0), size)
    axes = figure.subplots()
    axes.set_title("Each neuron: smallest against largest correlation")
    axes.set_xlabel(f"largest correlation over {models} models")
    axes.set_ylabel(f"smallest correlation over {models} models")
    say_left_out(figure, result.summary)
    low, high = array(result.correlation_min), array(result.correlation_max)
    drawn = np.isfinite(low)
    if not drawn.any():
        say(axes, nothing_to_draw(result.summary))
        return figure
    low, high = low[drawn], high[drawn]
    scale = draw_dots(axes, high, low, array(result.universal)[drawn], "the same in all models")
    legend_below(axes, markerscale=scale)
    return figure
