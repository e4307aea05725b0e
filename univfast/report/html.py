"""``report.html``: one result on one page, and other results that it is to be seen beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from univfast.report.contexts import contexts_section
from univfast.report.definitions import definitions
from univfast.report.facts import all_pairs, control_facts, means, summary_facts
from univfast.report.live import (
    charts,
    layers_chart,
    models_named,
    neuron_table,
    tiles,
)
from univfast.report.page import (
    facts,
    folded,
    middle,
    named,
    number,
    page,
    section,
    table,
    terms,
    text,
    whole,
)
from univfast.report.plots import figures, png_bytes
from univfast.report.still import still_pictures, top_neurons
from univfast.report.web.data import page_data

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["report_html"]

Beside = Mapping[str, tuple[str, "CorrelationResult"]]


def report_html(
    result: CorrelationResult,
    beside: Beside = MappingProxyType({}),
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """The result as a self-contained HTML page: verdict, charts, layers, neurons, definitions.

    Without JavaScript, and on paper, pictures and a table of the first neurons stand in for charts.

    Args:
        result: what the page is about.
        beside: other results by the directory that they are saved in, with their titles, for a
            comparison near the top.
        pictures: all `figures` of the result as PNG, which takes longer than all the rest; None to
            draw them here.
    """
    summary = result.summary
    if pictures is None:
        pictures = {name: png_bytes(draw()) for name, draw in figures(result).items()}
    contexts = (
        "" if result.explained is None else contexts_section(result.explained.records(result))
    )
    controls = folded("Controls: networks that learned nothing", facts(control_facts(summary)))
    sections = {
        "result": _verdict(result, beside),
        "charts": section("Excess and correlation", charts(result), "charts"),
        "still": f'<div class="still">\n{still_pictures(result, pictures)}\n</div>',
        "layers": section("Layers", _layers(result), "layers"),
        "neurons": section("Neurons", neuron_table(result) + top_neurons(result), "neurons"),
        "contexts": contexts,
        "controls": section("Controls", controls, "controls"),
        "definitions": section("Definitions", terms(definitions(summary)), "definitions"),
    }
    parts = {
        "result": "Result",
        "charts": "Charts",
        "layers": "Layers",
        "neurons": "Neurons",
        "contexts": "What they do",
        "controls": "Controls",
        "definitions": "Definitions",
    }
    title = "Universal neurons: " + ", ".join(middle(name, 60) for name in summary["models"][:4])
    title += f" and {len(summary['models']) - 4} more" if len(summary["models"]) > 4 else ""
    return page(
        title=title,
        heading=title,
        models=models_named(summary),
        parts=[(mark, name) for mark, name in parts.items() if sections[mark]],
        links=_files(result, beside),
        sections=sections.values(),
        data=[page_data(result)],
        script="page.js",
    )


def _files(result: CorrelationResult, beside: Beside) -> list[tuple[str, str]]:
    """Addresses and names of what is saved beside the page."""
    names = ["neurons.csv", "summary.json"]
    if result.by_model or result.mutual is not None:
        names.insert(1, "matches.csv")
    if any(model.top_neuron is not None for model in (result.by_model or (result,))):
        names.insert(2, "top.csv")
    others = [(f"{quote(name)}/report.html", title) for name, (title, _) in beside.items()]
    if result.reverse is not None:
        others.append(("reverse/report.html", "reverse (B in A)"))
    return [*((name, name) for name in names), *others]


def _verdict(result: CorrelationResult, beside: Beside) -> str:
    said = f'<p class="verdict">{text(result.verdict())}</p>'
    # Absolute numbers first; how they came about, where it is asked for.
    how = folded("How it was computed: settings, versions and all counts", facts(_how(result)))
    body = [said, tiles(result.summary), how, _side_by_side(result, beside), _models(result)]
    return '<section id="result">\n' + "\n".join(filter(None, body)) + "\n</section>"


def _how(result: CorrelationResult) -> list[tuple[str, object]]:
    rows = summary_facts(result.summary)
    if result.command is not None:
        rows = [*rows, ("command", result.command)]
    return rows if result.summary["controls"] else [*rows, *control_facts(result.summary)]


# Columns of a row a result.
_COUNTS = (
    "universal",
    "partners",
    "by chance",
    "by control",
    "learned",
    "mean correlation",
    "mean baseline",
    "mean excess",
)


def _counts(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of `_COUNTS`."""
    return (
        whole(summary["universal"]),
        whole(summary["universal_partners"]),
        number(summary["universal_by_chance"], ",.1f"),
        number(summary["universal_by_control"], ",.1f"),
        whole(summary["learned"]),
        *means(summary),
    )


def _side_by_side(result: CorrelationResult, beside: Beside) -> str:
    """This result and those beside it, a row each."""
    others = {f"{quote(name)}/report.html": one for name, one in beside.items()}
    if result.reverse is not None:
        others["reverse/report.html"] = ("reverse: B in A", result.reverse)
    if not others:
        return ""
    own = str(result.summary.get("title", result.summary["match"]))
    rows = [
        (named(own), result.summary),
        *(
            (f'<a href="{text(address)}">{named(title)}</a>', one.summary)
            for address, (title, one) in others.items()
        ),
    ]
    cells = table(
        ("result", "matching", *_COUNTS),
        ((title, text(s["match"]), *_counts(s)) for title, s in rows),
        ("result", "matching"),
    )
    return f"<h3>Side by side</h3>\n{cells}"


def _models(result: CorrelationResult) -> str:
    """Each of several models by itself."""
    summary = result.summary
    if "by_model" not in summary:
        return ""
    # By index every neuron has its match, and none is mutual.
    own = ("dead", "unmatched", "mutual") if all_pairs(summary) else ("dead",)
    names = {"unmatched": "without a partner"}
    head = ("compared with", *(names.get(name, name) for name in own), *_COUNTS)
    models: Sequence[Mapping[str, Any]] = summary["by_model"]
    rows = (
        (named(one["model"]), *(whole(one[name]) for name in own), *_counts(one)) for one in models
    )
    note = (
        '<p class="note">Each model by itself. The other numbers on this page are of correlations '
        "averaged over the models.</p>"
    )
    return f"<h3>Models</h3>\n{note}\n{table(head, rows, ('compared with',))}"


def _layers(result: CorrelationResult) -> str:
    return f"{layers_chart(result)}\n{folded('Layers as a table', _layer_table(result))}"


def _layer_table(result: CorrelationResult) -> str:
    counts = ("neurons", "dead", "universal")
    by = {"by chance": "universal_by_chance", "by control": "universal_by_control"}
    of_means = ("mean correlation", "mean baseline", "mean excess")
    head = ("layer", *counts, *by, "learned", *of_means)
    layers: Sequence[Mapping[str, Any]] = result.summary["layers"]
    rows = (
        (
            named(layer["layer"]),
            *(whole(layer[name]) for name in counts),
            *(number(layer[name], ",.1f") for name in by.values()),
            whole(layer["learned"]),
            *means(layer),
        )
        for layer in layers
    )
    return table(head, rows)
