"""The pictures of a result.

All are built with Matplotlib's object-oriented interface, so they need no display and leave the
global state of ``pyplot`` alone. They read the table and the summary only, so that a saved result
gives the same pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from univfast.errors import InputError
from univfast.report.pictures.canvas import DPI, set_fonts
from univfast.report.pictures.correlation import correlation_figure
from univfast.report.pictures.excess import excess_figure
from univfast.report.pictures.layers import layers_figure, match_tables
from univfast.report.pictures.models import models_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from univfast.result import CorrelationResult

__all__ = [
    "FORMATS",
    "PICTURES",
    "as_formats",
    "correlation_figure",
    "excess_figure",
    "figure_bytes",
    "figures",
    "layers_figure",
    "models_figure",
    "png_bytes",
]


PICTURES = ("correlation", "excess", "layers", "models")
"""All that there may be of a result."""

FORMATS = ("png", "svg", "pdf")
"""Of the files that pictures are written as."""


def as_formats(name: str, value: object) -> tuple[str, ...]:
    """Some of `FORMATS`, each once: of a list, or of a text with commas between.

    Raises:
        InputError: others, or none.
        TypeError: neither list nor text.
    """
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
        raise TypeError(f"{name}: expected a list of formats, got {value!r}")
    wrong = [x for x in value if x not in FORMATS]
    if wrong or not value:
        given = repr(wrong[0]) if wrong else "none"
        raise InputError(f"{name}: got {given}; give some of {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(value))


def figures(result: CorrelationResult) -> dict[str, Callable[..., Figure]]:
    """What can be drawn of this result, by name, in the order to show it.

    Each is called with its ``size`` (width and height in inches), and those that count neurons
    with the ``scale`` of the counts; None, or nothing, for what suits the result.
    """
    found: dict[str, Callable[..., Figure]] = {
        "correlation": correlation_figure,
        "excess": excess_figure,
    }
    if match_tables(result.summary):
        found["layers"] = layers_figure
    if result.correlation_min is not None:
        found["models"] = models_figure
    return {name: partial(_drawn, draw, result) for name, draw in found.items()}


def _drawn(draw: Callable[..., Figure], result: CorrelationResult, **style: Any) -> Figure:
    return set_fonts(draw(result, **style))


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file: the same result gives the same bytes, as nothing is dated."""
    return figure_bytes(figure, "png")


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of one of `FORMATS`, of which nothing is dated or numbered by chance."""
    from matplotlib import rc_context

    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    # Text stays text, which can be searched and edited; a salt makes SVG's names those of a run.
    with rc_context({"svg.hashsalt": "univfast", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=undated[kind])
    return buffer.getvalue()
