"""The result of a correlation: tensors, a summary, a table, files and plots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import torch
from torch import Tensor

from univfast.checks import as_size, check_choice
from univfast.columns import NAMES, PUBLISHED, WEIGHTS, Only, columns_of
from univfast.details import Details
from univfast.errors import InputError
from univfast.machine.torch_state import methods_in_plain_state
from univfast.summary import Summary
from univfast.views import (
    LayerView,
    NeuronTable,
    Shown,
    equal,
    result_facts,
    top_neurons,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from univfast.neuron_weights.weight_table import WeightTable

__all__ = ["CorrelationResult", "smallest_and_largest"]


class Records(Protocol):
    """What neurons do, a record a pair: as it was found, or where it is stored."""

    def records(self, result: Any) -> Iterator[Any]:
        """A `PairRecord` of each pair, in the order of the result that they are of."""

    def write(self, file: BinaryIO, result: Any) -> None:
        """Writes ``contexts.jsonl``."""


@dataclass(frozen=True, eq=False, repr=False)
@methods_in_plain_state
class CorrelationResult(Shown, Details):
    """How each neuron of A correlates with its match in B, against rotations of B.

    All neurons of all layers stand in one row each, layer after layer; tensors are on the CPU. With
    several other models, numbers are means over those in which a neuron has a match: excess is the
    mean of its excess in each of them.

    What details add, `Details` has. ``len(result)`` is the number of neurons, ``result["mlp.0"]`` a
    `LayerView` of one layer. Two results are equal if all their numbers are (NaN as NaN), and what
    the summary says but for the seconds; what `explained` has is not compared.

    Attributes:
        layer: name of each neuron's layer in A, ``[neurons]``.
        neuron: its number in that layer, int64 ``[neurons]``.
        match_layer: the layer of B that its match is in, ``[neurons]``; empty where it has none.
            With several models, of the match with the highest correlation.
        match_neuron: the number of its match there, int64 ``[neurons]``; -1 where it has none.
        correlation: Pearson's r with the match, float64 ``[neurons]``; NaN where it has none.
        baseline: the mean of r with rotations of B, float64 ``[neurons]``; that of its layer's
            neurons, where a neuron with a match has none in any rotation. Without rotation NaN, or
            0 by index with shifts.
        baseline_std: the standard deviation of r over draws; NaN with fewer than two of them.
        excess: correlation - baseline.
        p_value: share of null excesses of the layer at or above the neuron's own; NaN with fewer
            than two draws (by index: shifts).
        q_value: Benjamini-Hochberg over all live neurons.
        universal: excess > threshold, bool ``[neurons]``.
        dead: zero variance in A (by index: in A or B), bool ``[neurons]``.
        null_excess: excess of each draw over the mean of the others, ``[draws, neurons]``; by index
            that of each wrong partner over the neuron's baseline, ``[shifts, neurons]``. NaN where
            a neuron has no match in the draw; None with fewer than two draws.
        summary: what ``summary.json`` holds.
        correlation_min, correlation_max: over the models; None with one other model.
        mutual: the match is the neuron's best and the neuron is the best of its match, bool; None
            by index and with several models.
        top_correlation: the highest r, float64 ``[neurons, top_k]``, NaN where there are fewer;
            None where ``mutual`` is.
        top_layer: the layer that each of them is in, ``[neurons][top_k]``.
        top_neuron: its number there, int64 ``[neurons, top_k]``, -1 where there are fewer.
        control_a, control_b: r of the match with networks that learned nothing in A's place, and
            with its match in such in B's, means over them, float64 ``[neurons]``; NaN where it has
            none, or that side has no controls. They and all below are on the first
            ``control_tokens`` tokens; None without controls.
        excess_control: r - the highest of baseline, ``control_a`` and ``control_b``.
        p_control_a, p_control_b: share of controls that reach r: (1 + hits) / (1 + controls); NaN
            with fewer than two.
        p_control: the larger of the two.
        learned: universal, and ``excess_control`` above the margin, bool ``[neurons]``.
        weights: what `with_weights` was given, float64 ``[neurons]`` by the names of `WeightTable`;
            NaN for what the model does not have. None without; not saved but in ``published.csv``.
        by_model: with several other models, the result of each by itself.
        by_index: of a search through all neurons, the result of neuron i with neuron i, where names
            and widths of layers agree.
        explained: what neurons and their matches do, where details were asked for and token ids are
            known; `univfast.explain` adds it.
        command: what was typed, of a result of the command line; it is not compared.
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
    summary: Summary
    correlation_min: Tensor | None = None
    correlation_max: Tensor | None = None
    mutual: Tensor | None = None
    top_correlation: Tensor | None = None
    top_layer: list[list[str]] | None = None
    top_neuron: Tensor | None = None
    control_a: Tensor | None = None
    control_b: Tensor | None = None
    excess_control: Tensor | None = None
    p_control_a: Tensor | None = None
    p_control_b: Tensor | None = None
    p_control: Tensor | None = None
    learned: Tensor | None = None
    weights: dict[str, Tensor] | None = None
    by_model: tuple[CorrelationResult, ...] = ()
    by_index: CorrelationResult | None = None
    explained: Records | None = None
    command: str | None = None
    reverse: CorrelationResult | None = None

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, layer: str) -> LayerView:
        if not isinstance(layer, str):
            kind = type(layer).__name__
            raise TypeError(f"layer: expected the name of a layer of A, got {kind}")
        return LayerView(self, layer)

    def __contains__(self, layer: object) -> bool:
        return any(row["layer"] == layer for row in self.summary["layers"])

    __iter__ = None  # of what? layers have names, and neurons stand in `top` and `to_pandas`

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CorrelationResult):
            return NotImplemented
        names = [x.name for x in fields(self) if x.name not in ("summary", "explained", "command")]
        one, two = ({**x.summary, "seconds": None} for x in (self, other))
        return equal(one, two) and all(equal(getattr(self, x), getattr(other, x)) for x in names)

    __hash__ = None  # type: ignore[assignment]

    def _facts(self) -> list[tuple[str, str]]:
        return result_facts(self)

    def _repr_html_(self) -> str:
        """The facts, and the first ten neurons, for notebooks."""
        return super()._repr_html_() + self.top(10)._repr_html_()

    def top(self, n: int = 10) -> NeuronTable:
        """The ``n`` neurons with the largest excess, or correlation where there is no baseline.

        A `NeuronTable`: a sequence of rows with each neuron's match and partners, which prints as a
        table and has ``to_pandas()``. Neurons without a correlation are left out.

        Raises:
            InputError: ``n`` is negative.
            TypeError: it is no int.
        """
        return top_neurons(self, n)

    def columns(self) -> dict[str, list[Any]]:
        """The table ``neurons.csv``, as a list a column; `univfast.columns` says what each is."""
        return {column.name: column.of(self) for column in columns_of("neurons", self.having)}

    @property
    def having(self) -> set[Only]:
        """What it has, of what not every result has."""
        found: dict[Only, object] = {
            "models": self.correlation_min,
            "controls": self.learned,
            "details": self.correlation_se,
            "weights": self.weights,
        }
        return {name for name, value in found.items() if value is not None}

    def published_columns(self) -> dict[str, list[Any]]:
        """The table under the column names of the data published with Gurnee et al. 2024.

        There a neuron's correlation is its highest with any neuron of a model (match ``best``), and
        max, min and mean are over the models, here over those in which it has a match; so too for
        the baseline. Columns of activations are there with details, those of weights after
        `with_weights`. Where definitions differ, ``docs/weights.md`` says.

        Raises:
            InputError: a result of several models that was read back from files, which do not have
                the baseline of each.
        """
        if len(self.summary["models"]) > 2 and not self.by_model:
            raise InputError(
                "columns: this result was read back without its single models; save it with"
                " columns='published' when it is computed"
            )
        having = {name for model in (self, *self.by_model) for name in model.having}
        return {
            column.name: column.of(self)
            for column in PUBLISHED.values()
            if column.only == "always" or column.only in having
        }

    def with_weights(self, table: WeightTable) -> CorrelationResult:
        """The result, with what the weights of A say of its neurons, for the published table.

        Args:
            table: what `univfast.weights` gave for A, with the same hooks.

        Raises:
            InputError: it lacks a layer of A, or has another number of neurons of it.
            TypeError: ``table`` is no `WeightTable`.
        """
        from univfast.neuron_weights.weight_table import WeightTable

        if not isinstance(table, WeightTable):
            kind = type(table).__name__
            raise TypeError(f"table: expected a WeightTable of univfast.weights, got {kind}")
        rows = table.rows_of(self.layer)
        numbers = {column.name for column in WEIGHTS.values() if column.dtype == "number"}
        values = {name: getattr(table, name) for name in numbers}
        absent = torch.full((len(rows),), torch.nan, dtype=torch.float64, device="cpu")
        found = {name: absent if x is None else x[rows] for name, x in values.items()}
        return replace(self, weights=found)

    def range_over_models(self, number: str) -> tuple[Tensor, Tensor]:
        """Smallest and largest of ``"correlation"`` or ``"baseline"`` over the other models.

        Over those in which a neuron has a match; float64 ``[neurons]``.
        """
        models = self.by_model or (self,)
        return smallest_and_largest(torch.stack([getattr(model, number) for model in models]))

    def to_pandas(self, columns: Literal["univfast", "published"] = "univfast") -> pd.DataFrame:
        """The table, indexed by (layer, neuron).

        Args:
            columns: ``"univfast"``, or ``"published"`` for the names that `published_columns` has.

        Raises:
            ImportError: pandas is not installed.
            InputError: other columns.
        """
        check_choice("columns", columns, NAMES)
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

    def plot(
        self,
        kind: Literal["correlation", "excess", "layers", "models"] = "correlation",
        *,
        size: tuple[float, float] | None = None,
        scale: Literal["linear", "log"] | None = None,
    ) -> Figure:
        """One of the pictures, a Matplotlib figure.

        Axes of r and of the excess run from -0.2 to 1, or further where a number lies beyond, and
        bins are 0.02 wide, so that figures of two results can be compared.

        Args:
            kind: ``"correlation"`` (actual against baseline), ``"excess"`` (its distribution),
                ``"layers"`` (where matches are; not by index) or ``"models"`` (smallest against
                largest correlation; with several models).
            size: width and height in inches; None for what suits the kind.
            scale: of counts, for ``"correlation"`` and ``"excess"``; None for ``"log"`` above 5,000
                neurons, which the axis says.

        Raises:
            InputError: another kind, one that this result has not, or a size or scale that cannot
                be.
        """
        from univfast.report.plots import figures

        found = figures(self)
        if kind not in found:
            kinds = ", ".join(repr(name) for name in found)
            raise InputError(f"kind: got {kind!r}, this result has {kinds}")
        style: dict[str, Any] = {"size": as_size("size", size)}
        if scale is not None:
            check_choice("scale", scale, ("linear", "log"))
            if kind not in ("correlation", "excess"):
                raise InputError(f"scale: is for counts, which {kind!r} has none of; leave it out")
            style["scale"] = scale
        return found[kind](**style)

    def save(
        self,
        directory: str | os.PathLike[str],
        columns: Literal["univfast", "published"] = "univfast",
        *,
        figures: Sequence[Literal["png", "svg", "pdf"]] = ("png",),
    ) -> None:
        """Writes the tables, ``summary.json``, the pictures and ``report.html``.

        ``null_excess.npy`` beside them is what ``univfast report`` draws chance from. Files of the
        same names are replaced, each whole or not at all. Numbers of tables have six digits, those
        of ``summary.json`` all. `univfast.load` reads it back.

        Args:
            directory: made if it is not there.
            columns: ``"published"`` for ``published.csv`` too, which has `published_columns`.
            figures: formats of the pictures: of ``"png"``, ``"svg"`` and ``"pdf"``.

        Raises:
            InputError: the directory cannot be written to, or other columns or formats.
        """
        from univfast.report.files import save_result
        from univfast.report.plots import as_formats

        check_choice("columns", columns, NAMES)
        formats = as_formats("figures", figures)
        save_result(self, directory, published=columns == "published", formats=formats)


def smallest_and_largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest over the models ``[models, neurons]``; NaN where all are."""
    absent = values.isnan().all(dim=0)
    low = values.nan_to_num(nan=torch.inf).amin(dim=0)
    high = values.nan_to_num(nan=-torch.inf).amax(dim=0)
    return torch.where(absent, torch.nan, low), torch.where(absent, torch.nan, high)
