"""The columns of a result's tables: what each is called, holds and means."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from univfast.registry import Registry

__all__ = [
    "COLUMNS",
    "NAMES",
    "PUBLISHED",
    "SCHEMA",
    "WEIGHTS",
    "Column",
    "Dtype",
    "Only",
    "Table",
    "columns_of",
]

SCHEMA = 3
"""Of the files of a result: the third has it in ``summary.json``, and six digits in tables."""

NAMES = ("univfast", "published")
"""What columns can be called: as in `COLUMNS`, or as in `PUBLISHED`."""

Dtype = Literal["text", "integer", "number", "flag", "list"]
Table = Literal["neurons", "matches", "top"]
Only = Literal["always", "models", "controls", "details", "weights"]

_EVERYWHERE: tuple[Table, ...] = ("neurons", "matches", "top")
_MATCHED: tuple[Table, ...] = ("neurons", "matches")
# Limits of numbers. The last bits of means may be beyond.
_R = (-1 - 1e-9, 1 + 1e-9)
_OF_TWO = (-2 - 1e-9, 2 + 1e-9)  # the difference of two r
_P = (0.0, 1.0)
_NUMBER = (-1, 2**63 - 1)
_ANY = (-math.inf, math.inf)


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: as the header has it, and an attribute of `CorrelationResult` where it has no `value`.
        dtype: of its cells. Absent numbers are ``nan``, absent texts empty; a list is JSON.
        meaning: of its numbers, in a few words.
        tables: those that it stands in: ``neurons.csv``, ``matches.csv`` or ``top.csv``.
        only: it stands in tables alone for several other ``"models"``, or where there are
            ``"controls"``, ``"details"`` or ``"weights"``.
        since: the schema of the tables that brought it: a result that was saved before is read
            without it.
        value: of a `CorrelationResult`, ``[neurons]``: what follows from it is computed where it is
            asked for, and not read from files. None for what a result holds.
        limits: that its numbers lie between, unless somebody edited the table.
    """

    name: str
    dtype: Dtype
    meaning: str
    tables: tuple[Table, ...] = ("neurons",)
    only: Only = "always"
    since: int = 1
    value: Callable[[Any], Any] | None = None
    limits: tuple[float, float] = _ANY

    def of(self, result: Any) -> list[Any]:
        """Its cells of a `CorrelationResult`, a neuron each; absent ones where it has none."""
        values = getattr(result, self.name) if self.value is None else self.value(result)
        if values is None:
            return ["" if self.dtype in ("text", "flag") else math.nan] * len(result.layer)
        return values if isinstance(values, list) else list(values.tolist())


def _of_controls(
    name: str, dtype: Dtype, meaning: str, limits: tuple[float, float] = _ANY
) -> Column:
    return Column(name, dtype, meaning, only="controls", since=2, limits=limits)


_OF_A_NEURON = (
    ("active", "share of tokens above 0"),
    ("mean", "mean"),
    ("std", "standard deviation"),
    ("skew", "third standardised moment"),
    ("kurtosis", "fourth standardised moment, 3 for a normal variable"),
    ("max", "highest value"),
    ("token_r2", "share of variance between tokens of one id"),
    ("position_r2", "share of variance between positions of a sample"),
)


def _details() -> list[Column]:
    """What details add: of the pair, of its neuron in A, and of the match."""
    pair = (
        ("correlation_se", "standard error of r, leaving out one of 32 blocks at a time"),
        ("correlation_low", "lower end of the interval of 95% of r"),
        ("correlation_high", "upper end of it"),
        ("excess_low", "excess less the reach of its error"),
        ("tokens_effective", "how many tokens r rests on"),
        ("partial_r", "r beyond the means of tokens of one id, and of positions"),
    )
    of_match = ((f"match_{name}", f"{meaning}, of its match") for name, meaning in _OF_A_NEURON)
    return [
        Column(name, "number", meaning, _MATCHED, only="details", since=2)
        for name, meaning in (*pair, *_OF_A_NEURON, *of_match)
    ]


COLUMNS: Registry[Column] = Registry(
    "column",
    [
        Column("model", "text", "the other model", ("matches", "top")),
        Column("layer", "text", "the neuron's layer in A", _EVERYWHERE),
        Column(
            "neuron", "integer", "its number in that layer, from 0", _EVERYWHERE, limits=_NUMBER
        ),
        Column("rank", "integer", "1 for the partner with the highest r", ("top",)),
        Column(
            "match_layer",
            "text",
            "the layer of B that its match is in; empty where it has none; of several models, that "
            "of the match with the highest r",
            _EVERYWHERE,
        ),
        Column(
            "match_neuron",
            "integer",
            "its match's number there; -1 where it has none",
            _EVERYWHERE,
            limits=_NUMBER,
        ),
        Column("correlation", "number", "Pearson's r with the match", _EVERYWHERE, limits=_R),
        Column("baseline", "number", "the mean of r with rotations of B", _MATCHED, limits=_R),
        Column(
            "baseline_std",
            "number",
            "the standard deviation of r over draws",
            _MATCHED,
            limits=_OF_TWO,
        ),
        Column("excess", "number", "correlation - baseline", _MATCHED, limits=_OF_TWO),
        Column(
            "p_value",
            "number",
            "share of the layer's null excesses at or above its own",
            _MATCHED,
            limits=_P,
        ),
        Column(
            "q_value", "number", "Benjamini-Hochberg over all live neurons", _MATCHED, limits=_P
        ),
        Column("mutual", "flag", "each is the best of the other; empty by index", ("matches",)),
        Column("universal", "flag", "excess > threshold"),
        Column("dead", "flag", "zero variance in A (by index: in A or B)"),
        Column("correlation_min", "number", "smallest r over the models", only="models", limits=_R),
        Column("correlation_max", "number", "largest r over the models", only="models", limits=_R),
        _of_controls(
            "control_a",
            "number",
            "mean r of its match with networks that learned nothing, for A",
            limits=_R,
        ),
        _of_controls(
            "control_b",
            "number",
            "mean r with its match in networks that learned nothing, for B",
            limits=_R,
        ),
        _of_controls(
            "excess_control",
            "number",
            "r on the tokens of controls - highest of baseline, control_a, control_b there",
            limits=_OF_TWO,
        ),
        _of_controls("p_control_a", "number", "share of controls of A that reach its r", limits=_P),
        _of_controls("p_control_b", "number", "share of controls of B that reach its r", limits=_P),
        _of_controls("p_control", "number", "the larger of the two", limits=_P),
        _of_controls("learned", "flag", "universal, and excess_control above the margin"),
        *_details(),
    ],
)


def _over_models(number: str, which: int) -> Callable[[Any], Any]:
    """The smallest (0) or largest (1) of a number over the models of a result."""
    return lambda result: result.range_over_models(number)[which]


def _published(name: str, meaning: str, value: Callable[[Any], Any]) -> Column:
    return Column(name, "number", meaning, value=value)


def _of_weights(name: str, meaning: str, own: str) -> Column:
    """A column of what `CorrelationResult.with_weights` was given, called ``own`` there."""
    return Column(name, "number", meaning, only="weights", value=lambda x: x.weights[own])


def _of_activations(name: str, meaning: str, value: Callable[[Any], Any]) -> Column:
    """A column of details of A's neurons, which several models have in common."""

    def of_first(result: Any) -> Any:
        models = (result, *result.by_model)
        return value(next(model for model in models if model.correlation_se is not None))

    return Column(name, "number", meaning, only="details", value=of_first)


PUBLISHED: Registry[Column] = Registry(
    "column",
    [
        Column("layer", "text", "the neuron's layer in A"),
        Column("neuron", "integer", "its number in that layer, from 0"),
        _published(
            "max_corr", "largest correlation over the models", _over_models("correlation", 1)
        ),
        _published("mean_corr", "mean correlation over the models", lambda x: x.correlation),
        _published(
            "min_corr", "smallest correlation over the models", _over_models("correlation", 0)
        ),
        _published("max_baseline", "largest baseline over the models", _over_models("baseline", 1)),
        _published(
            "min_baseline", "smallest baseline over the models", _over_models("baseline", 0)
        ),
        _published("mean_baseline", "mean baseline over the models", lambda x: x.baseline),
        _of_weights("w_in_norm", "norm of its input weights", "input_norm"),
        _of_weights("input_bias", "its bias", "input_bias"),
        _of_weights("w_out_norm", "norm of its output weights", "output_norm"),
        _of_weights("in_out_sim", "cosine between these weights", "in_out_cosine"),
        Column(
            "l2_penalty",
            "number",
            "sum of the squares of both norms",
            only="weights",
            value=lambda x: x.weights["input_norm"] ** 2 + x.weights["output_norm"] ** 2,
        ),
        _of_activations("mean", "mean of its activations", lambda x: x.mean),
        _of_activations("var", "their variance", lambda x: x.std**2),
        _of_activations("skew", "their third standardised moment", lambda x: x.skew),
        _of_activations("kurt", "their fourth standardised moment", lambda x: x.kurtosis),
        _of_weights(
            "vocab_mean", "mean cosine of its output weights with the unembedding", "cosine_mean"
        ),
        _of_weights("vocab_var", "variance of these cosines", "cosine_variance"),
        _of_weights("vocab_skew", "their third standardised moment", "cosine_skew"),
        _of_weights("vocab_kurt", "their fourth standardised moment", "cosine_kurtosis"),
        _of_activations("sparsity", "share of tokens where it is above 0", lambda x: x.active),
        _published("excess_corr", "mean excess over the models", lambda x: x.excess),
    ],
)
"""Of ``published.csv``: the names of the data published with Gurnee et al. 2024, in their order."""


def _weights() -> list[Column]:
    """Of the weights of a model; `WeightTable` defines them."""
    of_gate = "; of a gated MLP, of the gate"
    of_up = ", of what the gate is multiplied with"
    row = "its row of W_out W_U, over the vocabulary"
    of_cosines = "cosines of its output weights with the columns of W_U"
    numbers = (
        ("input_norm", f"norm of its input weights{of_gate}"),
        ("input_bias", "its bias"),
        ("output_norm", "norm of its output weights"),
        ("in_out_cosine", "cosine between its input and output weights"),
        ("up_norm", f"norm of its input weights{of_up}"),
        ("up_bias", f"its bias{of_up}"),
        ("up_out_cosine", f"cosine of these with its output weights{of_up}"),
        ("logit_mean", f"mean of {row}"),
        ("logit_variance", f"variance of {row}"),
        ("logit_skew", f"third standardised moment of {row}"),
        ("logit_kurtosis", f"fourth standardised moment of {row}, 3 for normal numbers"),
        ("cosine_mean", f"mean of {of_cosines}"),
        ("cosine_variance", f"variance of {of_cosines}"),
        ("cosine_skew", f"third standardised moment of {of_cosines}"),
        ("cosine_kurtosis", f"fourth standardised moment of {of_cosines}"),
    )
    ends = (("top", "raises"), ("bottom", "lowers"))
    lists = (
        ("tokens", "ids of the tokens that it {} most"),
        ("logits", "their entries of the row"),
        ("texts", "their texts"),
    )
    return [
        Column("layer", "text", "the neuron's layer"),
        Column("neuron", "integer", "its number in that layer, from 0"),
        *(Column(name, "number", meaning) for name, meaning in numbers),
        *(
            Column(f"{end}_{name}", "list", meaning.format(does))
            for end, does in ends
            for name, meaning in lists
        ),
    ]


WEIGHTS: Registry[Column] = Registry("column", _weights())
"""Of the table that ``univfast weights`` writes; those that a model does not have are left out."""


def columns_of(table: Table, having: Collection[Only] = ()) -> list[Column]:
    """The columns of a table, in order.

    Args:
        table: which.
        having: what the result has, beside what every one has.
    """
    return [
        column
        for column in COLUMNS.values()
        if table in column.tables and (column.only == "always" or column.only in having)
    ]
