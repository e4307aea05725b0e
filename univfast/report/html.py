"""``report.html``: one result on one page, and other results that it is to be seen beside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from univfast.report.contexts import contexts_section
from univfast.report.definitions import definitions
from univfast.report.page import facts, figure, number, page, section, table, terms, text, whole
from univfast.report.pictures.layers import MOST_PANELS
from univfast.report.plots import figures, png_bytes
from univfast.report.verdict import by_chance_in_words
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["report_html"]

_TOP = 20  # neurons listed by name
_NEEDS_DRAWS = "not available (needs at least two draws)"


def report_html(
    result: CorrelationResult,
    beside: Sequence[tuple[str, CorrelationResult]] = (),
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """The result as a self-contained HTML page: verdict, summary, plots, tables, definitions.

    Args:
        result: what the page is about. Only its table, its draws, its summary and its contexts
            are read.
        beside: titles of other results and these, for a comparison near the top.
        pictures: all `figures` of the result as PNG, which takes longer than all the rest; None to
            draw them here.
    """
    summary = result.summary
    if pictures is None:
        pictures = {name: png_bytes(draw()) for name, draw in figures(result).items()}
    sections = [
        _side_by_side(result, beside) if beside else "",
        section("Summary", _summary_table(summary)),
        section("Plots", _figures(result, pictures)),
        section("Models", _model_table(summary)) if "by_model" in summary else "",
        section("Layers", _layer_table(summary["layers"])),
        _top_neurons(result),
        "" if result.explained is None else contexts_section(result.explained.records(result)),
        section("How it was computed", terms(definitions(summary))),
    ]
    return page("Universal neurons: " + ", ".join(summary["models"]), result.verdict(), sections)


def _side_by_side(
    result: CorrelationResult, beside: Sequence[tuple[str, CorrelationResult]]
) -> str:
    own = str(result.summary.get("title", result.summary["match"]))
    rows = [(title, one.summary) for title, one in [(own, result), *beside]]
    cells = table(
        ("result", "matching", *_COUNTS),
        ((text(title), text(s["match"]), *_counts(s)) for title, s in rows),
        ("result", "matching"),
    )
    pictures = [
        figure(png_bytes(figures(one)["excess"]()), f"Histogram of the excess: {title}", title)
        for title, one in beside
    ]
    return section("Side by side", "\n".join([cells, *pictures]))


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


def _counts(summary: dict[str, Any]) -> tuple[str, ...]:
    """The cells of `_COUNTS`."""
    return (
        whole(summary["universal"]),
        whole(summary["universal_partners"]),
        number(summary["universal_by_chance"], ",.1f"),
        number(summary["universal_by_control"], ",.1f"),
        whole(summary["learned"]),
        *_means(summary),
    )


def _means(numbers: dict[str, Any]) -> tuple[str, ...]:
    return tuple(number(numbers[f"mean_{of}"]) for of in ("correlation", "baseline", "excess"))


def _summary_table(summary: dict[str, Any]) -> str:
    rotation = summary["rotation"]
    neurons, universal = summary["neurons"], summary["universal"]
    live = neurons - summary["dead"]
    share = f" ({universal / live:.1%} of live neurons)" if live else ""
    significant = summary["q_below_0.05"]
    first, *others = summary["models"]
    correlation, baseline, excess = _means(summary)
    rows: list[tuple[str, object]] = [
        ("A", first),
        *(("B" if len(others) == 1 else "compared with", other) for other in others),
        ("matching", summary["match"]),
        ("tokens", f"{summary['tokens']:,}"),
        ("neurons of A", whole(neurons)),
        ("dead", whole(summary["dead"])),
        ("without a partner", whole(summary["unmatched"])),
        ("mutual matches", whole(summary["mutual"])),
        ("universal", f"{universal:,}{share}"),
        ("their distinct partners", whole(summary["universal_partners"])),
        ("of them in mutual pairs", whole(summary["universal_mutual"])),
        ("universal by chance", by_chance_in_words(summary) or _NEEDS_DRAWS),
        ("fdr (by chance / universal)", _fdr(summary)),
        ("q < 0.05", _NEEDS_DRAWS if significant is None else whole(significant)),
        *_by_control(summary),
        *_by_index(summary),
        ("mean correlation", correlation),
        ("mean baseline", baseline),
        ("mean excess", excess),
        ("threshold of the excess", f"{summary['threshold']:g}"),
        ("rotation", rotation["kind"]),
        ("draws", rotation["draws"]),
        ("seed", rotation["seed"]),
        ("device", summary["device"]),
        ("computed in", f"{number(summary['seconds'], '.2f')} s"),
        ("univfast", summary["univfast"]),
    ]
    # By index every neuron has its match, and with several models each has its own matches.
    absent = set() if _all_pairs(summary) else {"without a partner"}
    absent |= {"mutual matches"} if summary["mutual"] is None else set()
    absent |= {"of them in mutual pairs"} if summary["universal_mutual"] is None else set()
    return facts(row for row in rows if row[0] not in absent)


def _by_control(summary: dict[str, Any]) -> list[tuple[str, object]]:
    """What networks that learned nothing say."""
    controls = summary["controls"]
    if controls is None:
        return [("universal by control", "not compared with networks that learned nothing")]
    rows: list[tuple[str, object]] = [
        ("tokens of controls", f"{controls['tokens']:,}"),
        ("universal on these", whole(summary["universal_on_control_tokens"])),
        ("universal by control", f"{summary['universal_by_control']:,.1f}"),
        ("fdr by control", number(summary["fdr_control"], ".3f")),
    ]
    for side, name in (("b", "B"), ("a", "A"), ("both", "both")):
        if controls[f"flagged_{side}"]:
            counts = ", ".join(map(str, controls[f"flagged_{side}"]))
            rows.append((f"flagged with {name} untrained", counts))
    if controls["smallest_p"] is not None:
        rows.append(("smallest p that so few controls give", f"{controls['smallest_p']:.3g}"))
    by_control = number(summary["learned_by_control"], ",.1f")
    return [*rows, ("learned", f"{summary['learned']:,} (by control: {by_control})")]


def _by_index(summary: dict[str, Any]) -> list[tuple[str, object]]:
    """What neuron i with neuron i gives, where that was looked at too."""
    beside = summary.get("by_index")
    if beside is None:
        return []
    by_chance = by_chance_in_words(beside) or _NEEDS_DRAWS
    return [("by index, universal", f"{beside['universal']:,} (by chance {by_chance})")]


def _all_pairs(summary: dict[str, Any]) -> bool:
    return MATCHINGS[summary["match"]].all_pairs


def _fdr(summary: dict[str, Any]) -> str:
    if summary["universal_by_chance"] is None:
        return _NEEDS_DRAWS
    if summary["fdr"] is None:
        return "not defined (no neuron was flagged)"
    return number(summary["fdr"], ".3f")


def _figures(result: CorrelationResult, pictures: Mapping[str, bytes]) -> str:
    captions = {
        "correlation": ("Plot of correlation against baseline", _correlation_caption),
        "excess": ("Histogram of the excess", _excess_caption),
        "layers": ("Heat map of the layers that matches are in", _layers_caption),
        "models": ("Plot of the smallest against the largest correlation", _models_caption),
    }
    return "\n".join(
        figure(png, captions[name][0], captions[name][1](result)) for name, png in pictures.items()
    )


def _correlation_caption(result: CorrelationResult) -> str:
    summary = result.summary
    draws = summary["rotation"]["draws"]
    averaged = (
        f" The baseline is a mean over {draws} draws, which makes it narrower than the "
        "correlation even where the networks share nothing: compare where they are centred, and "
        "look for a tail to the right. The excess below is the fair comparison."
        if draws > 1
        else ""
    )
    return (
        "Actual against baseline. Left: a dot a neuron. On the solid line a neuron correlates with "
        f"{_other(summary)} as it would with a randomly rotated one; those above the dashed line, "
        f"more than {summary['threshold']:g} higher, are universal (green). Right: the same "
        f"numbers as two distributions.{averaged}"
    )


def _excess_caption(result: CorrelationResult) -> str:
    chance = (
        "The orange outline is the same distribution for random rotations of "
        f"{_other(result.summary)}, scaled to as many neurons: bars that stay inside it are what "
        "chance gives."
        if result.null_excess is not None
        else "There is no outline of what chance gives, as this result does not hold its draws."
    )
    return (
        "Excess: how much higher a neuron's correlation is than its baseline. Universal neurons, "
        f"right of the dashed line at {result.summary['threshold']:g}, are green. {chance}"
    )


def _layers_caption(result: CorrelationResult) -> str:
    models = len(result.summary["models"]) - 1
    panels = ", a panel a model" if models > 1 else ""
    some = f", of the first {MOST_PANELS} models" if models > MOST_PANELS else ""
    return (
        f"Where matches are{panels}{some}: how many live neurons of a layer of A (rows) have their "
        f"match in each layer of {_other(result.summary)} (columns), universal or not. Wider "
        "layers have more matches by chance too."
    )


def _models_caption(result: CorrelationResult) -> str:
    return (
        "Over the models: each neuron's smallest correlation against its largest. Near the "
        "diagonal it is about the same in all models; far below it, one of them has a neuron like "
        "it and another has none. Universal neurons (green) are so by the mean over the models."
    )


def _other(summary: dict[str, Any]) -> str:
    return "B" if len(summary["models"]) == 2 else "the other models"


def _model_table(summary: dict[str, Any]) -> str:
    # By index every neuron has its match, and none is mutual.
    own = ("dead", "unmatched", "mutual") if _all_pairs(summary) else ("dead",)
    names = {"unmatched": "without a partner"}
    head = ("compared with", *(names.get(name, name) for name in own), *_COUNTS)
    rows = (
        (text(one["model"]), *(whole(one[name]) for name in own), *_counts(one))
        for one in summary["by_model"]
    )
    note = (
        '<p class="note">Each model by itself. The other numbers on this page are of correlations '
        "averaged over the models.</p>"
    )
    return f"{note}\n{table(head, rows, ('compared with',))}"


def _layer_table(layers: list[dict[str, Any]]) -> str:
    counts = ("neurons", "dead", "universal")
    by = {"by chance": "universal_by_chance", "by control": "universal_by_control"}
    means = ("mean correlation", "mean baseline", "mean excess")
    head = ("layer", *counts, *by, "learned", *means)
    rows = (
        (
            text(layer["layer"]),
            *(whole(layer[name]) for name in counts),
            *(number(layer[name], ",.1f") for name in by.values()),
            whole(layer["learned"]),
            *_means(layer),
        )
        for layer in layers
    )
    return table(head, rows)


def _top_neurons(result: CorrelationResult) -> str:
    """The neurons that stand out most: by excess, or by correlation where there is no baseline."""
    by_excess = not bool(result.excess.isnan().all())
    key = result.excess if by_excess else result.correlation
    # A stable sort, so that ties keep the order of the neurons on every machine.
    order = key.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)[:_TOP].tolist()
    rows = [_neuron_row(result, i) for i in order if not math.isnan(float(key[i]))]
    title = f"Neurons with the largest {'excess' if by_excess else 'correlation'}"
    if not rows:
        return section(title, '<p class="note">None: no neuron has a correlation.</p>')
    several = result.correlation_min is not None
    note = (
        '<p class="note">The match is that in the model where r is highest.</p>\n'
        if several and _all_pairs(result.summary)
        else ""
    )
    cells = table(tuple(rows[0]), (tuple(row.values()) for row in rows), ("layer", "match layer"))
    return section(title, note + cells)


def _neuron_row(result: CorrelationResult, i: int) -> dict[str, str]:
    """The cells by the names of their columns."""
    row = {"layer": text(result.layer[i]), "neuron": str(int(result.neuron[i]))}
    if _all_pairs(result.summary):  # by index it is the same neuron
        row["match layer"] = text(result.match_layer[i])
        row["match"] = str(int(result.match_neuron[i]))
    row["correlation"] = number(float(result.correlation[i]))
    if result.correlation_min is not None and result.correlation_max is not None:
        row["smallest"] = number(float(result.correlation_min[i]))
        row["largest"] = number(float(result.correlation_max[i]))
    universal = '<span class="yes">yes</span>' if bool(result.universal[i]) else "no"
    return {
        **row,
        "baseline": number(float(result.baseline[i])),
        "\N{PLUS-MINUS SIGN} over draws": number(float(result.baseline_std[i]), ".3f"),
        "excess": number(float(result.excess[i])),
        "p": number(float(result.p_value[i]), ".2g"),
        "q": number(float(result.q_value[i]), ".2g"),
        "universal": universal,
        **_control_cells(result, i),
    }


def _control_cells(result: CorrelationResult, i: int) -> dict[str, str]:
    """What networks that learned nothing say of a neuron."""
    if result.excess_control is None or result.learned is None:
        return {}
    learned = '<span class="yes">yes</span>' if bool(result.learned[i]) else "no"
    return {
        "above controls": number(float(result.excess_control[i])),
        "learned": learned,
    }
