"""How a result is put together: from the matches in each model to numbers, counts and means."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from univfast import __version__
from univfast.checks import as_number
from univfast.columns import SCHEMA
from univfast.control_matches import ControlMatches, control_counts, shifted_of, with_controls
from univfast.counts import beside_counts, counts, layer_rows, match_counts
from univfast.details import details_of, details_summary
from univfast.inputs.layout import Layout
from univfast.method import Method, method_of
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.nulls.statistics import statistics
from univfast.result import CorrelationResult, smallest_and_largest
from univfast.search.matches import Matches
from univfast.search.searches import Searches
from univfast.sums.pair_statistics import PairStatistics

if TYPE_CHECKING:
    from univfast.summary import Summary

__all__ = ["Question", "make_result", "result_of"]


@dataclass(frozen=True)
class Question:
    """What was asked, and where it was computed: what a summary says beside the numbers.

    Attributes:
        match: how neurons were matched.
        baseline: the rotations of the others.
        threshold: of the excess, above which a neuron is universal.
        device: that the moments were accumulated on.
        method: how r was computed.

    Raises:
        InputError: the threshold is not a finite number.
    """

    match: str
    baseline: Baseline
    threshold: float
    device: str
    method: Method

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", as_number("threshold", self.threshold))

    def summary(self, models: Sequence[str], tokens: int, shifts: int | None) -> dict[str, Any]:
        """What a summary begins with; where it was computed stands behind the numbers.

        ``shifts`` are the wrong partners of each neuron; None but by index.
        """
        return {
            "univfast": __version__,
            "schema": SCHEMA,
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
            "models": list(models),
            "match": self.match,
            "rotation": self.baseline.summary(),
            "shifts": shifts,
            "threshold": self.threshold,
            "tokens": tokens,
            "warnings": _of_threshold(self.threshold),
        }


def _of_threshold(threshold: float) -> list[str]:
    if -1 <= threshold <= 2:
        return []
    says = "no neuron is" if threshold > 2 else "nearly every live neuron is"
    return [f"threshold: got {threshold:g}, and an excess lies between -2 and 2: {says} universal"]


def result_of(
    searches: Searches, threshold: float, models: tuple[str, str], seconds: float | None = None
) -> CorrelationResult:
    """The result of two models whose neurons were all searched, and its reverse if there is one."""
    question = Question(
        searches.matching.name,
        searches.baseline,
        threshold,
        str(searches.device),
        method_of([searches.multiplied], searches.device),
    )
    same_numbers = searches.by_index()
    beside: list[list[Matches]] = [[] if same_numbers is None else [same_numbers], []]
    results = [
        make_result(question, names, layout, searches.tokens, [found], seconds, by_index=same)
        for found, layout, names, same in zip(
            searches.matches(), searches.layouts, (models, models[::-1]), beside, strict=False
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
    controls: ControlMatches | None = None,
    by_index: Sequence[Matches] = (),
    details: Sequence[PairStatistics] = (),
) -> CorrelationResult:
    """Puts matches together and adds the statistics.

    Args:
        question: what was asked.
        models: the names of A and of the others.
        layers: of A.
        tokens: that it was measured on.
        matches: of A's neurons in each other model, at least one.
        seconds: that the computation took, for the summary.
        controls: what networks that learned nothing say; None without.
        by_index: beside a search, the matches by number in each other model; nothing where layers
            differ.
        details: of the matched pairs, of each other model; nothing where they were not asked for.
    """
    correlations = torch.stack([m.correlation for m in matches])  # [models, neurons]
    correlation = correlations.nanmean(dim=0)
    rotated = torch.stack([m.rotated for m in matches])
    shifted = shifted_of(matches)
    stats = statistics(correlations, rotated, layers.widths, question.threshold, shifted)
    model, match_layer, match_neuron = _highest(matches, correlations)
    # All that follows is added to it, as it comes.
    summary = question.summary(models, tokens, None if shifted is None else shifted.shape[1])
    result = CorrelationResult(
        layer=[n for n, w in zip(layers.names, layers.widths, strict=True) for _ in range(w)],
        neuron=torch.cat([numbers(width) for width in layers.widths]),
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
        summary=cast("Summary", summary),
    )
    if len(matches) == 1:
        result = _with_partners(result, matches[0])
        for found_of_pairs in details:
            draws = question.baseline.draws
            more = details_of(found_of_pairs, result.excess, result.baseline_std, draws)
            result = replace(result, **more)
    else:
        low, high = smallest_and_largest(correlations)
        by_model = tuple(
            make_result(
                question,
                (models[0], name),
                layers,
                tokens,
                [one],
                controls=None if controls is None else controls.of_model(i),
                details=details[i : i + 1],
            )
            for i, (one, name) in enumerate(zip(matches, models[1:], strict=True))
        )
        result = replace(result, correlation_min=low, correlation_max=high, by_model=by_model)
    trials = None
    if controls is not None:
        found, trials = controls.statistics(layers.widths, question.threshold, stats.universal)
        result = with_controls(result, found)
    summary.update(counts(result, stats, model))
    summary.update(control_counts(controls, None if trials is None else found, stats.universal))
    summary.update(match_counts(result, layers, matches))
    known = details[0] if len(details) == 1 else None
    summary["details"] = (
        None if known is None else details_summary(result, result.universal, known.blocks)
    )
    if by_index:
        asked = replace(question, match="index")
        beside = make_result(asked, models, layers, tokens, by_index)
        result = replace(result, by_index=beside)
    summary["by_index"] = beside_counts(result.by_index)
    summary.update(
        method=question.method,
        device=question.device,
        seconds=seconds,
        layers=layer_rows(result, layers, trials),
    )
    return result


def _highest(matches: Sequence[Matches], correlations: Tensor) -> tuple[Tensor, list[str], Tensor]:
    """Of the matches with the highest correlation of all models: model, layer name and number."""
    model = correlations.nan_to_num(nan=-2.0).argmax(dim=0)
    neurons = numbers(len(model))
    layer = torch.stack([m.match_layer for m in matches])[model, neurons].tolist()
    names = [
        "" if number < 0 else matches[which].layers[number]
        for which, number in zip(model.tolist(), layer, strict=True)
    ]
    return model, names, torch.stack([m.match_neuron for m in matches])[model, neurons]


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
