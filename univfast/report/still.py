"""What a report shows without JavaScript, and on paper: pictures, and the first neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from univfast.report.facts import all_pairs
from univfast.report.page import figure, named, number, table
from univfast.report.pictures.layers import MOST_PANELS
from univfast.report.web.data import listed

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["still_pictures", "top_neurons"]

_TOP = 20  # neurons listed by name


def still_pictures(result: CorrelationResult, pictures: Mapping[str, bytes]) -> str:
    """Each picture of the result, with what it shows."""
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


def _other(summary: Mapping[str, Any]) -> str:
    return "B" if len(summary["models"]) == 2 else "the other models"


def top_neurons(result: CorrelationResult) -> str:
    """The neurons that stand out most, without what opens them."""
    by_excess = not bool(result.excess.isnan().all())
    rows = [_row(result, i) for i in listed(result)[:_TOP]]
    title = f"Neurons with the largest {'excess' if by_excess else 'correlation'}"
    if not rows:
        return '<p class="still note">None: no neuron has a correlation.</p>'
    several = result.correlation_min is not None
    note = (
        '<p class="note">The match is that in the model where r is highest.</p>\n'
        if several and all_pairs(result.summary)
        else ""
    )
    cells = table(tuple(rows[0]), (tuple(row.values()) for row in rows), ("layer", "match layer"))
    return f'<div class="still">\n<h3>{title}</h3>\n{note}{cells}\n</div>'


def _row(result: CorrelationResult, i: int) -> dict[str, str]:
    """The cells by the names of their columns."""
    row = {"layer": named(result.layer[i]), "neuron": str(int(result.neuron[i]))}
    if all_pairs(result.summary):  # by index it is the same neuron
        row["match layer"] = named(result.match_layer[i])
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
