"""The result of a correlation: tensors, a summary, a table, files and plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.checks import as_number
from univfast.errors import InputError
from univfast.statistics import LayerCorrelation, statistics
from univfast.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "CorrelationResult", "make_result"]

COLUMNS = (
    "layer",
    "neuron",
    "match_layer",
    "match_neuron",
    "correlation",
    "baseline",
    "baseline_std",
    "excess",
    "p_value",
    "q_value",
    "universal",
    "dead",
)


@dataclass(frozen=True)
class CorrelationResult:
    """How each neuron of A correlates with its match in B, against rotations of B.

    All neurons of all layers stand in one row each, layer after layer; tensors are on the CPU.

    Attributes:
        layer: name of each neuron's layer in A, ``[neurons]``.
        neuron: its number in that layer, int64 ``[neurons]``.
        match_layer: the layer of B that its match is in, ``[neurons]``.
        match_neuron: the number of its match there, int64 ``[neurons]``.
        correlation: Pearson's r with the match, float64 ``[neurons]``; NaN where dead.
        baseline: the mean of r with rotations of B, float64 ``[neurons]``; NaN without rotation.
        baseline_std: its standard deviation over draws; NaN with fewer than two draws.
        excess: correlation - baseline.
        p_value: share of null excesses of the layer at or above the neuron's own; NaN with fewer
            than two draws.
        q_value: Benjamini-Hochberg over all live neurons.
        universal: excess > threshold, bool ``[neurons]``.
        dead: zero variance in A or B, bool ``[neurons]``.
        null_excess: excess of each draw over the mean of the others, ``[draws, neurons]``; None
            with fewer than two draws.
        summary: what ``summary.json`` holds.
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

    def columns(self) -> dict[str, list[Any]]:
        """The table, as a list a column: `COLUMNS` in order."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {n: v if isinstance(v, list) else v.tolist() for n, v in values.items()}

    def to_pandas(self) -> pd.DataFrame:
        """The table, indexed by (layer, neuron).

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'univfast[pandas]'") from error
        return pd.DataFrame(self.columns()).set_index(["layer", "neuron"])

    def verdict(self) -> str:
        """What the counts mean, in a few sentences."""
        return verdict(self.summary)

    def plot(self, kind: str = "correlation") -> Figure:
        """One of the two pictures: ``"correlation"`` (actual against baseline) or ``"excess"``.

        Raises:
            InputError: another kind.
        """
        from univfast.plots import correlation_figure, excess_figure

        figures = {"correlation": correlation_figure, "excess": excess_figure}
        if kind not in figures:
            raise InputError(f"kind: got {kind!r}, expected 'correlation' or 'excess'")
        return figures[kind](self)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``neurons.csv``, ``summary.json``, both pictures and ``report.html``.

        ``null_excess.npy`` beside them is what ``univfast report`` draws chance from.

        Files of the same names are replaced, each whole or not at all.

        Raises:
            InputError: the directory cannot be written to.
        """
        from univfast.output import save_result

        save_result(self, directory)


def make_result(
    layers: Sequence[LayerCorrelation],
    *,
    models: Sequence[str],
    rotation: dict[str, Any],
    threshold: float,
    seconds: float | None = None,
) -> CorrelationResult:
    """Puts the layers together and adds the statistics.

    Args:
        layers: at least one, measured on the same tokens.
        models: the names of A and B.
        rotation: ``kind``, ``draws`` and ``seed``, for the summary.
        threshold: of the excess, above which a neuron is universal.
        seconds: that the computation took, for the summary.

    Raises:
        InputError: the threshold is not a finite number.
    """
    threshold = as_number("threshold", threshold)
    stats = statistics(list(layers), threshold)
    correlation = torch.cat([layer.correlation for layer in layers])
    rows = [layer for layer in layers for _ in range(len(layer.correlation))]  # [neurons]
    neuron = torch.cat([torch.arange(len(layer.correlation)) for layer in layers])
    result = CorrelationResult(
        layer=[row.layer for row in rows],
        neuron=neuron,
        match_layer=[row.match_layer for row in rows],
        match_neuron=neuron,
        correlation=correlation,
        baseline=stats.baseline,
        baseline_std=stats.baseline_std,
        excess=stats.excess,
        p_value=stats.p_value,
        q_value=stats.q_value,
        universal=stats.universal,
        dead=correlation.isnan(),
        null_excess=stats.null_excess,
        summary={
            "univfast": version("univfast"),
            "models": list(models),
            "match": "index",
            "rotation": rotation,
            "threshold": threshold,
            "tokens": layers[0].tokens,
        },
    )
    chance = None if stats.chance_counts is None else stats.chance_counts.tolist()
    result.summary.update(_counts(result, chance))
    result.summary.update(device="cpu", seconds=seconds, layers=_layer_rows(result, layers))
    return result


def _counts(result: CorrelationResult, chance: list[int] | None) -> dict[str, Any]:
    """The numbers of the summary. None stands for what was not, or cannot be, known."""
    universal = int(result.universal.sum())
    by_chance = None if chance is None else sum(chance) / len(chance)
    q = result.q_value
    return {
        "neurons": len(result.correlation),
        "dead": int(result.dead.sum()),
        "universal": universal,
        "universal_by_chance": by_chance,
        "chance_counts": chance,
        "fdr": by_chance / universal if universal and by_chance is not None else None,
        "q_below_0.05": None if chance is None else int((q < 0.05).sum()),
        **_means(result, slice(None)),
    }


def _layer_rows(
    result: CorrelationResult, layers: Sequence[LayerCorrelation]
) -> list[dict[str, Any]]:
    rows = []
    first = 0
    for layer in layers:
        part = slice(first, first + len(layer.correlation))
        rows.append(
            {
                "layer": layer.layer,
                "neurons": len(layer.correlation),
                "dead": int(result.dead[part].sum()),
                "universal": int(result.universal[part].sum()),
                **_means(result, part),
            }
        )
        first = part.stop
    return rows


def _means(result: CorrelationResult, part: slice) -> dict[str, float | None]:
    """Means over live neurons; None where there is nothing to average."""
    means = {}
    for name in ("correlation", "baseline", "excess"):
        mean = float(getattr(result, name)[part].nanmean())
        means[f"mean_{name}"] = None if mean != mean else mean
    return means
