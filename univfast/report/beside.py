"""Several results on one page, beside each other and on the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from univfast.report.live import SWITCH, histogram_legend, models_named, tiles
from univfast.report.page import named, page, text
from univfast.report.web.data import page_axis, page_data

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["beside_html"]


def beside_html(results: Sequence[tuple[str, CorrelationResult]]) -> str:
    """Verdict, counts, excess and layers of each result, and nothing of single neurons.

    Args:
        results: what each is called, and the result; at least two.
    """
    parts = "\n".join(_part(k, name, result) for k, (name, result) in enumerate(results))
    axes = (
        '<p class="note">The same axes in all: the excess from the smallest to the largest that any'
        " of them needs, and as many neurons.</p>"
    )
    head = " \N{MIDDLE DOT} ".join(f"<span>{named(name, 30)}</span>" for name, _ in results)
    return page(
        title="Universal neurons: results beside each other",
        heading="Results beside each other",
        models=head,
        parts=[],
        links=[],
        sections=[f'<div class="live">{SWITCH}{axes}</div>', f'<div class="beside">{parts}</div>'],
        data=[page_data(result) for _, result in results],
        script="beside.js",
    )


def _part(k: int, name: str, result: CorrelationResult) -> str:
    drawn = (
        '<p class="empty">Nothing to draw: no neuron has a correlation.</p>'
        if bool(result.correlation.isnan().all())
        else f'<div class="live"><figure><h3>Excess</h3>'
        f'<div class="chart" id="histogram-{k}" role="img" aria-label="Histogram"></div>'
        f'<ul class="legend">{histogram_legend(result, page_axis(result))}</ul></figure>'
        f"<figure><h3>Universal neurons by depth</h3>"
        f'<div class="chart" id="layers-{k}" role="img" aria-label="Layers"></div></figure></div>'
    )
    return (
        f"<section><h2>{named(name)}</h2>\n<p>{models_named(result.summary)}</p>\n"
        f"{tiles(result.summary)}\n{drawn}\n<p>{text(result.verdict())}</p></section>"
    )
