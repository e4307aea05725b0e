"""The result of a correlation: tensors, a summary, a table, files and plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast import __version__
from univfast.checks import as_number, check_choice
from univfast.columns import PUBLISHED, columns_of
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.nulls.rotations import Baseline
from univfast.nulls.statistics import Statistics, statistics
from univfast.search.partners import Matches
from univfast.search.searches import Searches

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["CorrelationResult", "Question", "make_result", "result_of"]


@dataclass(frozen=True)
class CorrelationResult:
    """How each neuron of A correlates with its match in B, against rotations of B.

    All neurons of all layers stand in one row each, layer after layer; tensors are on the CPU. With
    several other models, numbers are means over those in which a neuron has a match: excess is the
    mean of its excess in each of them.

    Attributes:
        layer: name of each neuron's layer in A, ``[neurons]``.
        neuron: its number in that layer, int64 ``[neurons]``.
        match_layer: the layer of B that its match is in, ``[neurons]``; empty where it has none.
            With several models, of the match with the highest correlation.
        match_neuron: the number of its match there, int64 ``[neurons]``; -1 where it has none.
        correlation: Pearson's r with the match, float64 ``[neurons]``; NaN where it has none.
        baseline: the mean of r with rotations of B, float64 ``[neurons]``; NaN without rotation.
            That of its layer's neurons, where a neuron with a match has none in any rotation.
        baseline_std: the standard deviation of r over draws; NaN with fewer than two of them.
        excess: correlation - baseline.
        p_value: share of null excesses of the layer at or above the neuron's own; NaN with fewer
            than two draws.
        q_value: Benjamini-Hochberg over all live neurons.
        universal: excess > threshold, bool ``[neurons]``.
        dead: zero variance in A (by index: in A or B), bool ``[neurons]``.
        null_excess: excess of each draw over the mean of the others, ``[draws, neurons]``; NaN
            where a neuron has no match in the draw; None with fewer than two draws.
        summary: what ``summary.json`` holds.
        correlation_min, correlation_max: over the models; None with one other model.
        mutual: the match is the neuron's best and the neuron is the best of its match, bool; None
            by index and with several models.
        top_correlation: the highest r, float64 ``[neurons, top_k]``, NaN where there are fewer;
            None where ``mutual`` is.
        top_layer: the layer that each of them is in, ``[neurons][top_k]``.
        top_neuron: its number there, int64 ``[neurons, top_k]``, -1 where there are fewer.
        by_model: with several other models, the result of each by itself.
        reverse: how each neuron of B correlates with its match in A, where that was asked for.
    """

    layer: list[str]
    neuron: Tensor
    match_layer: list[str]
    match_neuron: Tensor
    correlation: Tensor
    baseline: Tensor
    baseline_std: Tensor
    excess: Tensor
    p_value: Tensor
    q_value: Tensor
    universal: Tensor
    dead: Tensor
    null_excess: Tensor | None
    summary: dict[str, Any]
    correlation_min: Tensor | None = None
    correlation_max: Tensor | None = None
    mutual: Tensor | None = None
    top_correlation: Tensor | None = None
    top_layer: list[list[str]] | None = None
    top_neuron: Tensor | None = None
    by_model: tuple[CorrelationResult, ...] = ()
    reverse: CorrelationResult | None = None

    def columns(self) -> dict[str, list[Any]]:
        """The table ``neurons.csv``, as a list a column; `univfast.columns` says what each is."""
        several = self.correlation_min is not None
        return {column.name: column.of(self) for column in columns_of("neurons", several)}

    def published_columns(self) -> dict[str, list[Any]]:
        """The table under the column names of the data published with Gurnee et al. 2024.

        There a neuron's correlation is its highest with any neuron of a model (match ``best``), and
        max, min and mean are over the models, here over those in which it has a match; so too for
        the baseline.

        Raises:
            InputError: a result of several models that was read back from files, which do not have
                the baseline of each.
        """
        if len(self.summary["models"]) > 2 and not self.by_model:
            raise InputError(
                "columns: this result was read back without its single models; save it with"
                " columns='published' when it is computed"
            )
        models = self.by_model or (self,)
        r = torch.stack([model.correlation for model in models])
        baseline = torch.stack([model.baseline for model in models])
        low, high = _range(r)
        low_baseline, high_baseline = _range(baseline)
        columns: dict[str, Any] = {
            "layer": self.layer,
            "neuron": self.neuron,
            "max_corr": high,
            "mean_corr": self.correlation,
            "min_corr": low,
            "max_baseline": high_baseline,
            "min_baseline": low_baseline,
            "mean_baseline": self.baseline,
            "excess_corr": self.excess,
        }
        lists = {n: v if isinstance(v, list) else v.tolist() for n, v in columns.items()}
        return {name: lists[name] for name in PUBLISHED}

    def to_pandas(self, columns: str = "univfast") -> pd.DataFrame:
        """The table, indexed by (layer, neuron).

        Args:
            columns: ``"univfast"``, or ``"published"`` for the names that `published_columns` has.

        Raises:
            ImportError: pandas is not installed.
            InputError: other columns.
        """
        check_choice("columns", columns, ("univfast", "published"))
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'univfast[pandas]'") from error
        table = self.columns() if columns == "univfast" else self.published_columns()
        return pd.DataFrame(table).set_index(["layer", "neuron"])

    def verdict(self) -> str:
        """What the counts mean, in a few sentences."""
        from univfast.report.verdict import verdict

        return verdict(self.summary)

    def plot(self, kind: str = "correlation") -> Figure:
        """One of the pictures.

        Args:
            kind: ``"correlation"`` (actual against baseline), ``"excess"`` (its distribution),
                ``"layers"`` (where matches are; not by index) or ``"models"`` (smallest against
                largest correlation; with several models).

        Raises:
            InputError: another kind, or one that this result has not.
        """
        from univfast.report.plots import figures

        found = figures(self)
        if kind not in found:
            kinds = ", ".join(repr(name) for name in found)
            raise InputError(f"kind: got {kind!r}, this result has {kinds}")
        return found[kind]()

    def save(self, directory: str | os.PathLike[str], columns: str = "univfast") -> None:
        """Writes the tables, ``summary.json``, the pictures and ``report.html``.

        ``null_excess.npy`` beside them is what ``univfast report`` draws chance from. Files of the
        same names are replaced, each whole or not at all.

        Args:
            directory: made if it is not there.
            columns: ``"published"`` for ``published.csv`` too, which has `published_columns`.

        Raises:
            InputError: the directory cannot be written to, or other columns.
        """
        from univfast.report.files import save_result

        check_choice("columns", columns, ("univfast", "published"))
        save_result(self, directory, published=columns == "published")


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
    stats = statistics(
        correlations,
        torch.stack([m.rotated for m in matches]),
        layers.widths,
        question.threshold,
    )
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
        summary={
            "univfast": __version__,
            "models": list(models),
            "match": question.match,
            "rotation": question.baseline.summary(),
            "threshold": question.threshold,
            "tokens": tokens,
        },
    )
    if len(matches) == 1:
        result = _with_partners(result, matches[0])
    else:
        low, high = _range(correlations)
        by_model = [
            make_result(question, (models[0], name), layers, tokens, [one])
            for one, name in zip(matches, models[1:], strict=True)
        ]
        result = replace(
            result,
            correlation_min=low,
            correlation_max=high,
            by_model=tuple(by_model),
        )
    result.summary.update(_counts(result, stats))
    result.summary.update(_match_counts(result, layers, matches))
    result.summary.update(
        device=question.device, seconds=seconds, layers=_layer_rows(result, layers)
    )
    return result


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest over the models ``[models, neurons]``; NaN where all are."""
    absent = values.isnan().all(dim=0)
    low = values.nan_to_num(nan=torch.inf).amin(dim=0)
    high = values.nan_to_num(nan=-torch.inf).amax(dim=0)
    return torch.where(absent, torch.nan, low), torch.where(absent, torch.nan, high)


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
    chance = None if stats.chance_counts is None else stats.chance_counts.tolist()
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
