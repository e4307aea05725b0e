"""The pictures of a result.

All are built with Matplotlib's object-oriented interface, so they need no display and leave the
global state of ``pyplot`` alone. They read the table and the summary only, so that a saved result
gives the same pictures.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from univfast.report.pictures.canvas import DPI
from univfast.report.pictures.correlation import correlation_figure
from univfast.report.pictures.excess import excess_figure
from univfast.report.pictures.layers import layers_figure, match_tables
from univfast.report.pictures.models import models_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from univfast.result import CorrelationResult

__all__ = [
    "correlation_figure",
    "excess_figure",
    "figures",
    "layers_figure",
    "models_figure",
    "png_bytes",
]


def figures(result: CorrelationResult) -> dict[str, Callable[[], Figure]]:
    """What can be drawn of this result, by name, in the order to show it."""
    found = {
        "correlation": partial(correlation_figure, result),
        "excess": partial(excess_figure, result),
    }
    if match_tables(result.summary):
        found["layers"] = partial(layers_figure, result)
    if result.correlation_min is not None:
        found["models"] = partial(models_figure, result)
    return dict(found)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file: the same result gives the same bytes, as nothing is dated."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the font lacks are drawn as boxes; nobody can do anything about it.
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
