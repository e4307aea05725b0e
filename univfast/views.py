"""What Python shows of results and accumulators, and parts of a result: a layer, its first neurons.

Nothing here computes: numbers are those of the result.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from univfast.errors import InputError
from univfast.machine.torch_state import in_plain_state

if TYPE_CHECKING:
    import pandas as pd

    from univfast.result import CorrelationResult

__all__ = [
    "LayerView",
    "NeuronRow",
    "NeuronTable",
    "Shown",
    "accumulator_facts",
    "equal",
    "result_facts",
    "top_neurons",
]

_LONGEST = 40  # characters of a name, which tell it from most others
_MOST = 8  # layers, or models, that are named


@dataclass(frozen=True)
class NeuronRow:
    """A neuron of A and its match; NaN and None for what is not known.

    Attributes:
        layer, neuron: of A.
        match_layer, match_neuron: of B; empty and -1 where it has no match.
        correlation, baseline, excess, q_value: as in the result.
        universal, learned: as in the result; ``learned`` is None without controls.
        partners: the highest r over all neurons of B, from the highest on, as (layer, neuron, r);
            empty by index, and of several models.
    """

    layer: str
    neuron: int
    match_layer: str
    match_neuron: int
    correlation: float
    baseline: float
    excess: float
    q_value: float
    universal: bool
    learned: bool | None
    partners: tuple[tuple[str, int, float], ...] = ()


class NeuronTable(Sequence[NeuronRow]):
    """Some neurons of a result, as a sequence of `NeuronRow`, and as a table to look at."""

    def __init__(self, rows: Sequence[NeuronRow]) -> None:
        self._rows = tuple(rows)

    def __getitem__(self, place: Any) -> Any:
        """A row, or a table of those of a slice."""
        found = self._rows[place]
        return NeuronTable(found) if isinstance(place, slice) else found

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronTable) and repr(self._rows) == repr(other._rows)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        head, *rows = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        words = {0, 1}
        lines = [
            "  ".join(
                cell.ljust(width) if place in words else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        return _table_html(head, rows)

    def to_pandas(self) -> pd.DataFrame:
        """The table, indexed by (layer, neuron).

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'univfast[pandas]'") from error
        names = [field.name for field in fields(NeuronRow)]
        columns = {name: [getattr(row, name) for row in self._rows] for name in names}
        return pd.DataFrame(columns).set_index(["layer", "neuron"])

    def _cells(self) -> list[list[str]]:
        """The head and a line a neuron."""
        learned = any(row.learned is not None for row in self._rows)
        head = ["neuron", "match", "r", "baseline", "excess", "universal"]
        table = [[*head, "learned"] if learned else head]
        for row in self._rows:
            match = f"{short(row.match_layer)}/{row.match_neuron}" if row.match_neuron >= 0 else "-"
            numbers = [_number(x) for x in (row.correlation, row.baseline, row.excess)]
            flags = [row.universal, row.learned] if learned else [row.universal]
            own = f"{short(row.layer)}/{row.neuron}"
            table.append([own, match, *numbers, *("yes" if flag else "no" for flag in flags)])
        return table


@in_plain_state
def top_neurons(result: CorrelationResult, number: int) -> NeuronTable:
    """The neurons with the largest excess, or correlation where there is no baseline."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"n: expected an int, got {type(number).__name__}")
    if number < 0:
        raise InputError(f"n: got {number}; give how many neurons to list")
    key = result.correlation if bool(result.excess.isnan().all()) else result.excess
    # A stable sort, so that ties keep the order of the neurons on every machine.
    order = key.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)[:number].tolist()
    return NeuronTable([_row(result, i) for i in order if not math.isnan(float(key[i]))])


def _row(result: CorrelationResult, i: int) -> NeuronRow:
    partners: list[tuple[str, int, float]] = []
    if result.top_correlation is not None and result.top_neuron is not None:
        layers = (result.top_layer or [])[i]
        numbers, r = result.top_neuron[i].tolist(), result.top_correlation[i].tolist()
        partners = [x for x in zip(layers, numbers, r, strict=True) if x[1] >= 0]
    return NeuronRow(
        layer=result.layer[i],
        neuron=int(result.neuron[i]),
        match_layer=result.match_layer[i],
        match_neuron=int(result.match_neuron[i]),
        correlation=float(result.correlation[i]),
        baseline=float(result.baseline[i]),
        excess=float(result.excess[i]),
        q_value=float(result.q_value[i]),
        universal=bool(result.universal[i]),
        learned=None if result.learned is None else bool(result.learned[i]),
        partners=tuple(partners),
    )


class Shown:
    """What has facts to show, one a line."""

    def _facts(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        (_, said), *rest = self._facts()
        name = type(self).__name__
        return "\n".join([f"{name}: {said}", *(f"  {name}: {text}" for name, text in rest)])

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{_escaped(name)}</th>"
            f"<td style='text-align:left'>{_escaped(text)}</td></tr>"
            for name, text in self._facts()
        )
        name = type(self).__name__
        return f"<div><strong>{name}</strong><table><tbody>{rows}</tbody></table></div>"


class LayerView:
    """One layer of A in a result: the same attributes, of its neurons alone.

    ``null_excess`` is ``[draws, neurons of the layer]``; ``summary`` is the layer's row in
    ``summary["layers"]``. p and q are those of the whole result.
    """

    def __init__(self, result: CorrelationResult, layer: str) -> None:
        """Raises KeyError: A has no layer of that name."""
        rows = [row for row in result.summary["layers"] if row["layer"] == layer]
        if not rows:
            known = ", ".join(repr(row["layer"]) for row in result.summary["layers"][:_MOST])
            raise KeyError(f"no layer {layer!r} in A; there are {known}")
        start = result.layer.index(layer) if rows[0]["neurons"] else 0
        self.name, self.summary = layer, rows[0]
        self._result, self._part = result, slice(start, start + rows[0]["neurons"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._result, name)
        if isinstance(value, Tensor):
            return value[:, self._part] if name == "null_excess" else value[self._part]
        if isinstance(value, list):
            return value[self._part]
        if value is None:
            return None
        raise AttributeError(f"a layer of a result has no {name!r}; the result has")

    def __len__(self) -> int:
        return int(self.summary["neurons"])

    def __repr__(self) -> str:
        row = self.summary
        return (
            f"LayerView({short(self.name)!r}): {row['neurons'] - row['dead']:,} live neurons,"
            f" {row['universal']:,} universal, mean r {_number(row['mean_correlation'])}, baseline"
            f" {_number(row['mean_baseline'])}, excess {_number(row['mean_excess'])}"
        )

    def top(self, n: int = 10) -> NeuronTable:
        """As `CorrelationResult.top`, of this layer."""
        found = top_neurons(self._result, len(self._result))
        return NeuronTable([row for row in found if row.layer == self.name][: max(n, 0)])

    def to_pandas(self) -> pd.DataFrame:
        """As `CorrelationResult.to_pandas`, of this layer."""
        return self._result.to_pandas().iloc[self._part]


@in_plain_state
def equal(one: object, other: object) -> bool:
    """Whether two values of results are the same; NaN is the same as NaN."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return False
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        same = one == other
        return bool((same | (one.isnan() & other.isnan())).all() if _floats(one) else same.all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(equal(x, y) for x, y in zip(one, other, strict=True))
    return bool(one == other)


def _floats(x: Tensor) -> bool:
    return x.is_floating_point()


def short(name: str) -> str:
    """A name in one line of not too many characters: the middle is left out."""
    clean = "".join(char if char.isprintable() else "?" for char in name)
    half = _LONGEST // 2
    return clean if len(clean) <= _LONGEST else f"{clean[: half - 1]}…{clean[-half:]}"


def result_facts(result: CorrelationResult) -> list[tuple[str, str]]:
    """What stands in six lines: what was compared, and what came out."""
    from univfast.report.verdict import by_chance_in_words, can_be_universal

    summary = result.summary
    live = summary["neurons"] - summary["dead"]
    share = f" ({summary['universal'] / live:.1%})" if live else ""
    first, *others = summary["models"]
    by_chance = by_chance_in_words(summary) or "unknown"
    by_control = summary["universal_by_control"]
    rotation = summary["rotation"]
    drawn = f"{rotation['kind']} x {rotation['draws']}" if rotation["draws"] else "rotation none"
    learned = "" if summary["learned"] is None else f", {summary['learned']:,} learned"
    mutual, partners = summary["universal_mutual"], summary["universal_partners"]
    more = "" if partners is None else f", {partners:,} partners"
    more += ("" if mutual is None else f", {mutual:,} mutual") + learned
    universal = f"{summary['universal']:,} of {live:,} live neurons{share}{more}"
    if not can_be_universal(summary):
        universal = f"unknown without a baseline, of {live:,} live neurons"
    screen = summary.get("screen")
    screened = f", screened on {screen['tokens']:,} tokens" if screen else ""
    return [
        ("models", f"{short(first)} with {_listed(others)}, {summary['tokens']:,} tokens"),
        (
            "settings",
            f"match {summary['match']}, {drawn}, threshold {summary['threshold']:g}{screened}",
        ),
        ("universal", universal),
        (
            "by nulls",
            f"by chance {by_chance}, "
            + ("no controls" if by_control is None else f"by control {by_control:.1f}"),
        ),
        (
            "means",
            f"r {_number(summary['mean_correlation'])},"
            f" baseline {_number(summary['mean_baseline'])},"
            f" excess {_number(summary['mean_excess'])}",
        ),
        (
            "layers",
            _listed([f"{row['layer']} ({row['neurons']:,})" for row in summary["layers"]]),
        ),
    ]


def accumulator_facts(of: Any, **own: object) -> list[tuple[str, str]]:
    """How much it has, what it is of, its baseline, and where it is."""
    values = {
        "has": f"{of.tokens:,} tokens",
        **own,
        "baseline": f"{of.baseline.kind} x {of.baseline.draws}, seed {of.baseline.seed}",
        "device": of.device or "that of the first batch",
    }
    return [(name.replace("_", " "), _in_words(value)) for name, value in values.items()]


def _in_words(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return _listed([f"{name} ({width:,})" for name, width in value.items()])
    return str(value)


def _table_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(short(name) for name in names[:_MOST])
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} more"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
