"""How a result is put together: from the matches in each model to numbers, counts and means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from univfast import __version__
from univfast.checks import as_number
from univfast.columns import COLUMNS
from univfast.inputs.layout import Layout
from univfast.nulls.controls import ControlStatistics, Trial, Trials, control_statistics
from univfast.nulls.kinds import Baseline
from univfast.nulls.statistics import Statistics, statistics
from univfast.result import CorrelationResult, smallest_and_largest
from univfast.search.partners import Matches
from univfast.search.searches import Searches

__all__ = ["ControlMatches", "Question", "make_result", "result_of"]


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

    def summary(self, models: Sequence[str], tokens: int) -> dict[str, Any]:
        """What a summary begins with; where it was computed stands behind the numbers."""
        return {
            "univfast": __version__,
            "models": list(models),
            "match": self.match,
            "rotation": self.baseline.summary(),
            "threshold": self.threshold,
            "tokens": tokens,
        }


@dataclass(frozen=True)
class ControlMatches:
    """What neurons are matched with where networks that learned nothing take a side.

    Attributes:
        tokens: that all of it was measured on.
        margin: over controls, of a neuron that is learned.
        names_a: of the controls of A; empty where there are none.
        names_b: of each control of the others, one for each of them; so too.
        real: of A in each other model.
        a: of each control of A, in each other model.
        b: of A, in each control of the others.
        both: of each control of A, in that of each other model.
        activity: how active models and controls are, for the summary.
    """

    tokens: int
    margin: float
    names_a: Sequence[str]
    names_b: Sequence[Sequence[str]]
    real: Sequence[Matches]
    a: Sequence[Sequence[Matches]]
    b: Sequence[Sequence[Matches]]
    both: Sequence[Sequence[Matches]]
    activity: dict[str, Any]

    def swapped(self) -> ControlMatches:
        """As it is seen from B, whose controls come first then; of two models."""
        return replace(
            self,
            names_a=[names[0] for names in self.names_b],
            names_b=[[name] for name in self.names_a],
            a=self.b,
            b=self.a,
            activity=self._activity_of([1, 0]),
        )

    def of_model(self, i: int) -> ControlMatches:
        """Those of one of the other models."""

        def only(trials: Sequence[Sequence[Matches]]) -> list[list[Matches]]:
            return [[matches[i]] for matches in trials]

        return replace(
            self,
            names_b=[[names[i]] for names in self.names_b],
            real=[self.real[i]],
            a=only(self.a),
            b=only(self.b),
            both=only(self.both),
            activity=self._activity_of([0, i + 1]),
        )

    def _activity_of(self, models: Sequence[int]) -> dict[str, Any]:
        """How active some models and their controls are, in that order; all warnings."""
        names = ("active", "active_in_controls")
        chosen = {name: [self.activity[name][i] for i in models] for name in names}
        return {**self.activity, **chosen}

    def statistics(
        self, widths: Sequence[int], threshold: float, universal: Tensor
    ) -> tuple[ControlStatistics, Trials]:
        """What follows for neurons of layers of these widths, ``universal`` on all tokens."""

        def trial(matches: Sequence[Matches]) -> Trial:
            return _trial(matches, widths, threshold)

        trials = Trials(
            trial(self.real),
            [trial(matches) for matches in self.a],
            [trial(matches) for matches in self.b],
            [trial(matches) for matches in self.both],
        )
        return control_statistics(trials, universal, self.margin), trials


def _trial(matches: Sequence[Matches], widths: Sequence[int], threshold: float) -> Trial:
    """The matches of a network, real or not, and what follows of them."""
    correlations = torch.stack([m.correlation for m in matches])
    stats = statistics(correlations, torch.stack([m.rotated for m in matches]), widths, threshold)
    places = [m.place for m in matches if m.place is not None]
    backs = [m.back for m in matches if m.back is not None]
    return Trial(correlations, stats.baseline, stats.universal, torch.stack(places), backs)


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
    controls: ControlMatches | None = None,
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
    """
    correlations = torch.stack([m.correlation for m in matches])  # [models, neurons]
    correlation = correlations.nanmean(dim=0)
    rotated = torch.stack([m.rotated for m in matches])
    stats = statistics(correlations, rotated, layers.widths, question.threshold)
    model, match_layer, match_neuron = _highest(matches, correlations)
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
        summary=question.summary(models, tokens),
    )
    if len(matches) == 1:
        result = _with_partners(result, matches[0])
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
            )
            for i, (one, name) in enumerate(zip(matches, models[1:], strict=True))
        )
        result = replace(result, correlation_min=low, correlation_max=high, by_model=by_model)
    trials = None
    if controls is not None:
        found, trials = controls.statistics(layers.widths, question.threshold, stats.universal)
        result = _with_controls(result, found)
    result.summary.update(_counts(result, stats, model))
    result.summary.update(_control_counts(controls, None if trials is None else found))
    result.summary.update(_match_counts(result, layers, matches))
    result.summary.update(
        device=question.device, seconds=seconds, layers=_layer_rows(result, layers, trials)
    )
    return result


def _with_controls(result: CorrelationResult, found: ControlStatistics) -> CorrelationResult:
    names = [column.name for column in COLUMNS.values() if column.only == "controls"]
    return replace(result, **{name: getattr(found, name) for name in names})


def _control_counts(
    controls: ControlMatches | None, found: ControlStatistics | None
) -> dict[str, Any]:
    """What the summary says of networks that learned nothing."""
    if controls is None or found is None:
        absent = ("universal_on_control_tokens", "universal_by_control", "fdr_control")
        return dict.fromkeys([*absent, "learned", "learned_by_control", "controls"])
    counts = found.counts
    return {
        "universal_on_control_tokens": counts.real,
        "universal_by_control": counts.by_control,
        "fdr_control": counts.fdr,
        "learned": int(found.learned.sum()),
        "learned_by_control": found.learned_by_control,
        "controls": {
            "a": list(controls.names_a),
            "b": [list(names) for names in controls.names_b],
            "tokens": controls.tokens,
            "margin": controls.margin,
            "flagged_a": list(counts.a),
            "flagged_b": list(counts.b),
            "flagged_both": list(counts.both),
            "more_than_controls": counts.more,
            "smallest_p": None if counts.number < 2 else 1 / (1 + counts.number),
            **controls.activity,
        },
    }


def _highest(matches: Sequence[Matches], correlations: Tensor) -> tuple[Tensor, list[str], Tensor]:
    """Of the matches with the highest correlation of all models: model, layer name and number."""
    model = correlations.nan_to_num(nan=-2.0).argmax(dim=0)
    neurons = torch.arange(len(model))
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


def _counts(result: CorrelationResult, stats: Statistics, model: Tensor) -> dict[str, Any]:
    """The numbers of the summary. None stands for what was not, or cannot be, known."""
    universal = int(result.universal.sum())
    chance = None if stats.chance_counts is None else stats.chance_counts.tolist()
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
    "universal_by_control",
    "learned",
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


def _layer_rows(
    result: CorrelationResult, layers: Layout, trials: Trials | None
) -> list[dict[str, Any]]:
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
