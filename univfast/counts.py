"""The numbers of a summary: counts and means over all neurons, a layer, a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.nulls.controls import Trials
from univfast.nulls.statistics import Statistics
from univfast.result import CorrelationResult
from univfast.search.matches import Matches

__all__ = ["beside_counts", "counts", "layer_rows", "match_counts"]


def counts(result: CorrelationResult, stats: Statistics, model: Tensor) -> dict[str, Any]:
    """The numbers of the summary. None stands for what was not, or cannot be, known."""
    universal = int(result.universal.sum())
    chance = None
    if stats.chance_counts is not None:
        chance = [int(x) if x == int(x) else x for x in stats.chance_counts.tolist()]
    by_chance = None if chance is None else sum(chance) / len(chance)
    q = result.q_value
    return {
        "neurons": len(result.correlation),
        "dead": int(result.dead.sum()),
        "unmatched": int((result.correlation.isnan() & ~result.dead).sum()),
        "universal": universal,
        "universal_partners": _partners(result, model),
        "universal_mutual": _mutual(result),
        "universal_by_chance": by_chance,
        "chance_counts": chance,
        "fdr": by_chance / universal if universal and by_chance is not None else None,
        "q_below_0.05": None if chance is None else int((q < 0.05).sum()),
        **_means(result, slice(None)),
    }


def _partners(result: CorrelationResult, model: Tensor) -> int:
    """Different matches of universal neurons (with several models, of those with the highest r)."""
    matches = zip(model.tolist(), result.match_layer, result.match_neuron.tolist(), strict=True)
    flags = result.universal.tolist()
    return len({match for match, universal in zip(matches, flags, strict=True) if universal})


def _mutual(result: CorrelationResult) -> int | None:
    """Universal neurons whose match is mutual; None where that is not known."""
    return None if result.mutual is None else int((result.mutual & result.universal).sum())


_BY_MODEL = (
    "neurons",
    "dead",
    "unmatched",
    "universal",
    "universal_partners",
    "universal_mutual",
    "universal_by_chance",
    "chance_counts",
    "universal_by_control",
    "learned",
    "details",
    "fdr",
    "q_below_0.05",
    "mean_correlation",
    "mean_baseline",
    "mean_excess",
    "mutual",
)


def match_counts(
    result: CorrelationResult, layers: Layout, matches: Sequence[Matches]
) -> dict[str, Any]:
    """How many matches are mutual, and where they are; of each model, if there are several."""
    if result.by_model:
        of_each: list[Mapping[str, Any]] = [one.summary for one in result.by_model]
        rows = [
            {"model": own["models"][1], **{name: own[name] for name in _BY_MODEL}}
            for own in of_each
        ]
        places = [one.summary["match_layers"] for one in result.by_model]
        return {"by_model": rows, "mutual": None, "match_layers": places}
    mutual = None if result.mutual is None else int(result.mutual.sum())
    return {"mutual": mutual, "match_layers": _match_layers(layers, matches[0])}


def _match_layers(layers: Layout, matches: Matches) -> dict[str, Any] | None:
    """How many neurons of each layer of A have their match in each layer of B; None by index."""
    if matches.mutual is None:
        return None
    counts = [
        torch.bincount(own[own >= 0], minlength=len(matches.layers)).tolist()
        for own in torch.split(matches.match_layer, list(layers.widths))
    ]
    return {"rows": list(layers.names), "columns": list(matches.layers), "counts": counts}


def beside_counts(result: CorrelationResult | None) -> dict[str, Any] | None:
    """Of a result beside another one, by index, what the summary of the other says."""
    names = ("universal", "universal_by_chance", "chance_counts", "fdr", "mean_correlation")
    if result is None:
        return None
    summary: Mapping[str, Any] = result.summary
    return {name: summary[name] for name in names}


def layer_rows(
    result: CorrelationResult, layers: Layout, trials: Trials | None
) -> list[dict[str, Any]]:
    """A row a layer of A, as the summary has them."""
    return [
        {
            "layer": name,
            "neurons": width,
            "dead": int(result.dead[part].sum()),
            "universal": int(result.universal[part].sum()),
            "universal_by_chance": _by_chance(result, part),
            "universal_by_control": None if trials is None else trials.counts(part).by_control,
            "learned": None if result.learned is None else int(result.learned[part].sum()),
            **_means(result, part),
        }
        for name, width, part in zip(layers.names, layers.widths, layers.slices, strict=True)
    ]


def _by_chance(result: CorrelationResult, part: slice) -> float | None:
    """How many of some neurons rotations flag, or shifted partners, the mean over draws."""
    if result.null_excess is None:
        return None
    null = result.null_excess[:, part]
    draws = int((~null.isnan()).any(dim=1).sum())
    return float((null > result.summary["threshold"]).sum()) / draws if draws > 1 else None


def _means(result: CorrelationResult, part: slice) -> dict[str, float | None]:
    """Means over neurons with a match; None where there is nothing to average."""
    means = {}
    for name in ("correlation", "baseline", "excess"):
        mean = float(getattr(result, name)[part].nanmean())
        means[f"mean_{name}"] = None if mean != mean else mean
    return means
