"""What the charts and the table of a result are drawn from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from univfast.columns import columns_of
from univfast.report.web.arrays import Packed, packed
from univfast.report.web.matches import match_counts_by_layer
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from univfast.result import CorrelationResult

    Floats = NDArray[np.float64]

__all__ = [
    "AXIS",
    "BIN",
    "MOST_DOTS",
    "MOST_LISTED",
    "listed",
    "outlines",
    "page_axis",
    "page_data",
    "thresholds",
]

AXIS = (-0.2, 1.0)
"""Of r, baseline and excess, so that two reports can be compared."""

BIN = 0.02
"""Width of a bar of a histogram."""

MOST_DOTS = 5_000
"""Drawn one by one; of more their density is drawn."""

MOST_LISTED = 5_000
"""Neurons in the table of the page."""

_STEP = 0.01  # of the threshold's slider
_SHOWN = frozenset({"correlation", "baseline", "excess", "correlation_min", "correlation_max"})


def page_data(result: CorrelationResult) -> dict[str, Any]:
    """All that `report.js` reads, as JSON; arrays as `packed` makes them.

    Of each neuron, layer after layer: r, baseline and excess, its match, and whether it is mutual.
    Of those that are listed, all numbers that the result has of them.
    """
    summary = result.summary
    controls = summary["controls"]
    axis = page_axis(result)
    places = {name: i for i, name in enumerate(dict.fromkeys(_match_layers(result)))}
    steps = thresholds(summary["threshold"])
    layers = summary["layers"]
    return {
        "threshold": summary["threshold"],
        "steps": steps,
        "chance": _chance(result, steps),
        "margin": None if controls is None else controls["margin"],
        "byControl": summary["universal_by_control"],
        "layers": [layer["layer"] for layer in layers],
        "widths": [layer["neurons"] for layer in layers],
        "layersByControl": [layer["universal_by_control"] for layer in layers],
        "matchLayers": list(places),
        "allPairs": MATCHINGS[summary["match"]].all_pairs,
        "axis": axis,
        "bin": BIN,
        "mostDots": MOST_DOTS,
        "r": packed(result.correlation, "f8"),
        "baseline": packed(result.baseline, "f8"),
        "excess": packed(result.excess, "f8"),
        "matchLayer": packed([places.get(name, -1) for name in result.match_layer], "i4"),
        "matchNeuron": packed(result.match_neuron, "i4"),
        "mutual": None if result.mutual is None else packed(result.mutual, "u1"),
        "aboveControls": _maybe(result.excess_control),
        "smallest": _maybe(result.correlation_min),
        "largest": _maybe(result.correlation_max),
        "nulls": outlines(result, axis),
        "listed": _of_listed(result, places),
        "heat": match_counts_by_layer(result),
    }


def thresholds(own: float) -> list[float]:
    """Where the slider stops: from 0 to 1 by 0.01, and at the result's own threshold."""
    return sorted({*(round(i * _STEP, 2) for i in range(round(1 / _STEP) + 1)), own})


def listed(result: CorrelationResult) -> list[int]:
    """Neurons of the table: by excess, or r where there is no baseline, the largest first."""
    key = result.correlation if bool(result.excess.isnan().all()) else result.excess
    # A stable sort, so that ties keep the order of the neurons on every machine.
    order = key.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)
    known = int((~key.isnan()).sum())
    found: list[int] = order[: min(known, MOST_LISTED)].tolist()
    return found


def _match_layers(result: CorrelationResult) -> list[str]:
    names = [name for name in result.match_layer if name]
    for layers in result.top_layer or ():
        names += filter(None, layers)
    for model in result.by_model:
        names += filter(None, model.match_layer)
    return names


def _maybe(values: Tensor | None) -> Packed | None:
    return None if values is None else packed(values, "f8")


def page_axis(result: CorrelationResult) -> list[float]:
    """The ends of all axes of r and of excess: `AXIS`, or wider where some neuron is outside."""
    values = [result.correlation, result.baseline, result.excess]
    found = np.concatenate([x.numpy()[~x.isnan().numpy()] for x in values])
    low, high = AXIS
    if found.size:
        low = min(low, math.floor(10 * float(found.min())) / 10)
        high = max(high, math.ceil(10 * (float(found.max()) - 1e-9)) / 10)
    return [low, high]


def _chance(result: CorrelationResult, steps: list[float]) -> Packed | None:
    """What chance flags in each layer, the mean over its draws, ``[steps, layers]``."""
    if result.null_excess is None:
        return None
    null = result.null_excess.double().numpy()
    counts: Floats = np.zeros((len(steps), len(result.summary["layers"])), dtype=np.float64)
    first = 0
    for i, layer in enumerate(result.summary["layers"]):
        width = layer["neurons"]
        own = null[:, first : first + width]
        first += width
        # By index a layer has no more wrong partners than it has other neurons.
        draws = min(len(null), width - 1) if result.summary.get("shifts") else len(null)
        if draws > 1:
            found = np.sort(own[~np.isnan(own)])
            counts[:, i] = (len(found) - np.searchsorted(found, steps, side="right")) / draws
    return packed(counts, "f8")


def outlines(result: CorrelationResult, axis: list[float]) -> list[dict[str, Any]]:
    """Distributions beside that of the excess, scaled to as many neurons; ``[bars]`` each."""
    live = int((~result.excess.isnan()).sum())
    if not live:
        return []
    b = "B" if len(result.summary["models"]) == 2 else "the other models"
    chance = "wrong partners" if result.summary.get("shifts") else f"rotations of {b}"
    found: list[tuple[str, str, Tensor | None]] = [("chance", chance, result.null_excess)]
    sides = (("control", "A", result.control_a), ("control2", b, result.control_b))
    for tone, side, control in sides:
        if control is not None:
            label = f"untrained {side} in its place, mean r \N{MINUS SIGN} baseline"
            found.append((tone, label, control - result.baseline))
    edges = np.round(np.arange(round((axis[1] - axis[0]) / BIN) + 1) * BIN + axis[0], 9)
    lines = []
    for tone, label, values in found:
        there = np.empty(0) if values is None else values.numpy()[~torch.isnan(values).numpy()]
        if there.size:
            bars = np.histogram(there, edges)[0] * (live / there.size)
            outside = int((there < edges[0]).sum() + (there > edges[-1]).sum())
            lines.append(
                {
                    "tone": tone,
                    "label": label,
                    "bars": bars.tolist(),
                    "outside": outside / there.size,
                }
            )
    return lines


def _of_listed(result: CorrelationResult, places: dict[str, int]) -> dict[str, Any]:
    rows = listed(result)
    columns = [
        {"name": column.name, "meaning": column.meaning, "values": packed(values, "f4")}
        for column in columns_of("neurons", result.having)
        if column.dtype == "number" and column.name not in _SHOWN
        if (values := _numbers(column.of(result), rows)) is not None
    ]
    tops = None
    if result.top_neuron is not None:
        assert result.top_layer is not None
        assert result.top_correlation is not None
        layers = [[places.get(name, -1) for name in result.top_layer[i]] for i in rows]
        tops = {
            "width": result.top_neuron.shape[1],
            "layer": packed(layers, "i4"),
            "neuron": packed(result.top_neuron[rows], "i4"),
            "r": packed(result.top_correlation[rows], "f4"),
        }
    models = [
        {
            "model": model.summary["models"][1],
            "matchLayer": packed([places.get(model.match_layer[i], -1) for i in rows], "i4"),
            "matchNeuron": packed(model.match_neuron[rows], "i4"),
            "r": packed(model.correlation[rows], "f4"),
            "excess": packed(model.excess[rows], "f4"),
        }
        for model in result.by_model
    ]
    return {"neuron": packed(rows, "i4"), "columns": columns, "tops": tops, "models": models}


def _numbers(values: list[Any], rows: list[int]) -> Floats | None:
    """The values of the rows; None where none of them is known."""
    found = np.asarray(values, dtype=np.float64)[rows]
    return None if bool(np.isnan(found).all()) else found
