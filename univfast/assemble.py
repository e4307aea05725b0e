"""How a result is put together: from the matches in each model to numbers, counts and means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from univfast import __version__
from univfast.checks import as_number
from univfast.inputs.layout import Layout
from univfast.nulls.kinds import Baseline
from univfast.nulls.statistics import Statistics, statistics
from univfast.result import CorrelationResult, smallest_and_largest
from univfast.search.partners import Matches
from univfast.search.searches import Searches

__all__ = ["Question", "make_result", "result_of"]


@dataclass(frozen=True)
class Question:
    """What was asked, and where it was computed: what a summary says beside the numbers.

    Attributes:
        match: how neurons were matched.
        baseline: the rotations of the others.
        threshold: of the excess, above which a neuron is universal.
        device: that the moments were accumulated on.

    Raises:
        InputError: the threshold is not a finite number.
    """

    match: str
    baseline: Baseline
    threshold: float
    device: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", as_number("threshold", self.threshold))

    def summary(self, models: Sequence[str], tokens: int, shifts: int | None) -> dict[str, Any]:
        """What a summary begins with; where it was computed stands behind the numbers.

        ``shifts`` are the wrong partners of each neuron; None but by index.
        """
        return {
            "univfast": __version__,
            "models": list(models),
            "match": self.match,
            "rotation": self.baseline.summary(),
            "shifts": shifts,
            "threshold": self.threshold,
            "tokens": tokens,
        }


def result_of(
    searches: Searches, threshold: float, models: tuple[str, str], seconds: float | None = None
) -> CorrelationResult:
    """The result of two models whose neurons were all searched, and its reverse if there is one."""
    question = Question(searches.matching.name, searches.baseline, threshold, str(searches.device))
    results = [
        make_result(question, names, layout, searches.tokens, [found], seconds)
        for found, layout, names in zip(
            searches.matches(), searches.layouts, (models, models[::-1]), strict=False
        )
    ]
    return results[0] if len(results) == 1 else replace(results[0], reverse=results[1])


def make_result(
    question: Question,
    models: Sequence[str],
    layers: Layout,
    tokens: int,
    matches: Sequence[Matches],
    seconds: float | None = None,
) -> CorrelationResult:
    """Puts matches together and adds the statistics.

    Args:
        question: what was asked.
        models: the names of A and of the others.
        layers: of A.
        tokens: that it was measured on.
        matches: of A's neurons in each other model, at least one.
        seconds: that the computation took, for the summary.
    """
    correlations = torch.stack([m.correlation for m in matches])  # [models, neurons]
    correlation = correlations.nanmean(dim=0)
    rotated = torch.stack([m.rotated for m in matches])
    shifted = _shifted(matches)
    stats = statistics(correlations, rotated, layers.widths, question.threshold, shifted)
    match_layer, match_neuron = _highest(matches, correlations)
    result = CorrelationResult(
        layer=[n for n, w in zip(layers.names, layers.widths, strict=True) for _ in range(w)],
        neuron=torch.cat([torch.arange(width) for width in layers.widths]),
        match_layer=match_layer,
        match_neuron=match_neuron,
        correlation=correlation,
        baseline=stats.baseline,
        baseline_std=stats.baseline_std,
        excess=stats.excess,
        p_value=stats.p_value,
        q_value=stats.q_value,
        universal=stats.universal,
        dead=torch.stack([m.dead for m in matches]).all(dim=0),
        null_excess=stats.null_excess,
        summary=question.summary(models, tokens, None if shifted is None else shifted.shape[1]),
    )
    if len(matches) == 1:
        result = _with_partners(result, matches[0])
    else:
        low, high = smallest_and_largest(correlations)
        by_model = tuple(
            make_result(question, (models[0], name), layers, tokens, [one])
            for one, name in zip(matches, models[1:], strict=True)
        )
        result = replace(result, correlation_min=low, correlation_max=high, by_model=by_model)
    result.summary.update(_counts(result, stats))
    result.summary.update(_match_counts(result, layers, matches))
    result.summary.update(
        device=question.device, seconds=seconds, layers=_layer_rows(result, layers)
    )
    return result


def _shifted(matches: Sequence[Matches]) -> Tensor | None:
    """r with wrong partners, ``[models, shifts, neurons]``; None where there are none."""
    found = [m.shifted for m in matches if m.shifted is not None]
    return torch.stack(found) if found else None


def _highest(matches: Sequence[Matches], correlations: Tensor) -> tuple[list[str], Tensor]:
    """Layer names and numbers of the matches with the highest correlation of all models."""
    model = correlations.nan_to_num(nan=-2.0).argmax(dim=0)
    neurons = torch.arange(len(model))
    layer = torch.stack([m.match_layer for m in matches])[model, neurons].tolist()
    names = [
        "" if number < 0 else matches[which].layers[number]
        for which, number in zip(model.tolist(), layer, strict=True)
    ]
    return names, torch.stack([m.match_neuron for m in matches])[model, neurons]


def _with_partners(result: CorrelationResult, matches: Matches) -> CorrelationResult:
    """The result of one other model, with what else is known of its neurons."""
    if matches.top_layer is None:
        return result
    names = (*matches.layers, "")  # number -1 is the last
    return replace(
        result,
        mutual=matches.mutual,
        top_correlation=matches.top_correlation,
        top_layer=[[names[number] for number in row] for row in matches.top_layer.tolist()],
        top_neuron=matches.top_neuron,
    )


def _counts(result: CorrelationResult, stats: Statistics) -> dict[str, Any]:
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
        "universal_by_chance": by_chance,
        "chance_counts": chance,
        "fdr": by_chance / universal if universal and by_chance is not None else None,
        "q_below_0.05": None if chance is None else int((q < 0.05).sum()),
        **_means(result, slice(None)),
    }


_BY_MODEL = (
    "neurons",
    "dead",
    "unmatched",
    "universal",
    "universal_by_chance",
    "fdr",
    "q_below_0.05",
    "mean_correlation",
    "mean_baseline",
    "mean_excess",
    "mutual",
)


def _match_counts(
    result: CorrelationResult, layers: Layout, matches: Sequence[Matches]
) -> dict[str, Any]:
    """How many matches are mutual, and where they are; of each model, if there are several."""
    if result.by_model:
        rows = [
            {"model": one.summary["models"][1], **{name: one.summary[name] for name in _BY_MODEL}}
            for one in result.by_model
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


def _layer_rows(result: CorrelationResult, layers: Layout) -> list[dict[str, Any]]:
    return [
        {
            "layer": name,
            "neurons": width,
            "dead": int(result.dead[part].sum()),
            "universal": int(result.universal[part].sum()),
            **_means(result, part),
        }
        for name, width, part in zip(layers.names, layers.widths, layers.slices, strict=True)
    ]


def _means(result: CorrelationResult, part: slice) -> dict[str, float | None]:
    """Means over neurons with a match; None where there is nothing to average."""
    means = {}
    for name in ("correlation", "baseline", "excess"):
        mean = float(getattr(result, name)[part].nanmean())
        means[f"mean_{name}"] = None if mean != mean else mean
    return means
