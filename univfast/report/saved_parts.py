"""What stands beside the table of a saved result: partners, single models, contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from univfast.columns import COLUMNS, columns_of
from univfast.details import Contexts
from univfast.report.tables import parsed
from univfast.result import CorrelationResult
from univfast.sums.pair_statistics import TopContexts

if TYPE_CHECKING:
    from univfast.summary import Summary

__all__ = ["with_contexts", "with_matches", "with_top"]

Cells = Mapping[str, list[str]]


def with_matches(result: CorrelationResult, cells: Cells) -> CorrelationResult:
    """A result with what ``matches.csv`` says: what is mutual; each of several models by itself.

    Raises:
        KeyError, ValueError: the table is not that of the result.
    """
    parts = _of_each_model(result, cells, [True] * (len(result.summary["models"]) - 1))
    if len(parts) == 1:
        (part,) = parts
        _check_rows(result, part)
        mutual = parsed(COLUMNS["mutual"], part)
        if int(mutual.sum()) != result.summary["mutual"]:
            raise ValueError(f"{int(mutual.sum())} are mutual, another number in summary.json")
        return replace(result, mutual=mutual)
    return replace(
        result, by_model=tuple(_of_model(result, number, part) for number, part in enumerate(parts))
    )


def with_top(result: CorrelationResult, cells: Cells) -> CorrelationResult:
    """A result with the partners that ``top.csv`` has, also of each of several models.

    Raises:
        KeyError, ValueError: the table is not that of the result.
    """
    several = len(result.summary["models"]) > 2
    if several and not result.by_model:
        raise ValueError("there is no matches.csv, which has the models that it is of")
    models = result.by_model if several else (result,)
    # A model whose neurons, or all of A's, are constant has no partners.
    matched = [not bool(one.correlation.isnan().all()) for one in models]
    parts = _of_each_model(result, cells, matched)
    found = [_with_partners(*x) for x in zip(models, parts, strict=True)]
    if not several:
        return found[0]
    return replace(result, by_model=tuple(found))


def with_contexts(result: CorrelationResult, file: BinaryIO) -> CorrelationResult:
    """A result with the tokens where neurons and their matches are highest, of ``contexts.npz``.

    Raises:
        KeyError, ValueError: the arrays are not those of the result.
    """
    with np.load(file, allow_pickle=False) as arrays:
        sides = {
            side: TopContexts(
                *(torch.from_numpy(arrays[f"{side}_{name}"]) for name in TopContexts._fields)
            )
            for side in Contexts._fields
        }
    for side, found in sides.items():
        shapes = {x.shape for x in found}
        if len(shapes) != 1 or found.token.dim() != 2 or len(found.token) != len(result.layer):
            raise ValueError(f"{side} has shapes {[[*x.shape] for x in found]}")
        if found.token.dtype != torch.int64 or not found.value.is_floating_point():
            raise ValueError(f"{side} has dtypes {[str(x.dtype) for x in found]}")
    return replace(result, contexts=Contexts(**sides))


def _of_each_model(
    result: CorrelationResult, cells: Cells, has_rows: Sequence[bool]
) -> list[Cells]:
    """The table in parts, of each other model in their order; which of them have rows in it."""
    names = [name.encode("utf-8", "replace").decode() for name in result.summary["models"][1:]]
    rows, places = parsed(COLUMNS["model"], cells), _places(result, cells)
    ranks = cells.get("rank") or [""] * len(rows)
    # Two models may have one name: a part ends where the name changes, or neurons begin again.
    ends = [
        i
        for i in range(1, len(rows))
        if rows[i] != rows[i - 1]
        or places[i] < places[i - 1]
        or (places[i] == places[i - 1] and ranks[i] in ("", "1"))
    ]
    starts = [0, *ends] if rows else []
    parts = [slice(*pair) for pair in zip(starts, [*starts[1:], len(rows)], strict=False)]
    if [rows[part.start] for part in parts] != list(compress(names, has_rows)):
        raise ValueError("its models are not those of summary.json")
    following = iter(parts)
    own = [next(following) if has else slice(0) for has in has_rows]
    return [{name: column[part] for name, column in cells.items()} for part in own]


def _places(result: CorrelationResult, cells: Cells) -> list[int]:
    """Which neuron of the result each row is of."""
    own = zip(result.layer, result.neuron.tolist(), strict=True)
    numbers = {key: place for place, key in enumerate(own)}
    layers, neurons = (parsed(COLUMNS[name], cells) for name in ("layer", "neuron"))
    return [numbers[key] for key in zip(layers, neurons.tolist(), strict=True)]


def _check_rows(result: CorrelationResult, part: Cells) -> None:
    layers, neurons = (parsed(COLUMNS[name], part) for name in ("layer", "neuron"))
    if layers != result.layer or not torch.equal(neurons, result.neuron):
        raise ValueError("its rows are not the neurons of neurons.csv")


def _of_model(result: CorrelationResult, number: int, part: Cells) -> CorrelationResult:
    """A model by itself: what its matches, and its row in the summary, say."""
    _check_rows(result, part)
    having = {column.only for name, column in COLUMNS.items() if name in part}
    columns: dict[str, Any] = {
        column.name: parsed(column, part)
        for column in columns_of("matches", having)
        if column.value is None and column.name not in ("model", "mutual")
    }
    if any(part["mutual"]):
        columns["mutual"] = parsed(COLUMNS["mutual"], part)
    absent = columns["correlation"].isnan()
    by_index = "mutual" not in columns
    found = CorrelationResult(
        **columns,
        universal=columns["excess"] > result.summary["threshold"],
        dead=absent if by_index else absent & result.dead,
        null_excess=None,
        summary=result.summary,
    )
    summary = _summary_of_model(found, result.summary, number)
    return replace(found, summary=cast("Summary", summary))


_COMMON = ("univfast", "schema", "match", "rotation", "shifts", "threshold", "tokens", "device")


def _summary_of_model(
    result: CorrelationResult, whole: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """The summary of one of several models; None for what was not saved of it."""
    places, row = whole["match_layers"], dict(whole["by_model"][number])
    if row.setdefault("chance_counts") is None:  # of an earlier version
        row["universal_by_chance"] = None
    absent = ("by_index", "controls", "universal_on_control_tokens", "seconds")
    return {
        **{name: whole.get(name) for name in _COMMON},
        **({"method": whole["method"]} if "method" in whole else {}),
        "models": [whole["models"][0], whole["models"][1 + number]],
        **dict.fromkeys((*absent, "fdr_control", "learned_by_control")),
        "neurons": whole["neurons"],
        **{name: x for name, x in row.items() if name != "model"},
        "match_layers": places[number] if isinstance(places, list) else None,
        "layers": [_layer_row(result, row["layer"]) for row in whole["layers"]],
    }


def _layer_row(result: CorrelationResult, name: str) -> dict[str, Any]:
    own = torch.tensor([layer == name for layer in result.layer], dtype=torch.bool, device="cpu")
    return {
        "layer": name,
        "neurons": int(own.sum()),
        "dead": int(result.dead[own].sum()),
        "universal": int(result.universal[own].sum()),
        **dict.fromkeys(("universal_by_chance", "universal_by_control", "learned")),
        **{
            f"mean_{number}": _mean(getattr(result, number)[own])
            for number in ("correlation", "baseline", "excess")
        },
    }


def _mean(values: Tensor) -> float | None:
    mean = float(values.nanmean())
    return None if mean != mean else mean


def _with_partners(result: CorrelationResult, part: Cells) -> CorrelationResult:
    """The partners of each neuron, a row a rank, from the highest r on."""
    places = _places(result, part)
    names = parsed(COLUMNS["match_layer"], part)
    ranks = parsed(COLUMNS["rank"], part)
    neurons, most = len(result.layer), int(ranks.max()) if len(ranks) else 0
    if most > len(ranks):
        raise ValueError(f"a neuron has partner {most}, of {len(ranks)} in all")
    layers = [[""] * most for _ in range(neurons)]
    before = (-1, 0)
    for row, (place, rank) in enumerate(zip(places, ranks.tolist(), strict=True)):
        if rank < 1 or (place, rank) <= before:
            raise ValueError(f"row {row} is not the next partner")
        before = (place, rank)
        layers[place][rank - 1] = names[row]
    r = torch.full((neurons, most), torch.nan, dtype=torch.float64, device="cpu")
    match = torch.full((neurons, most), -1, dtype=torch.int64, device="cpu")
    at = torch.tensor(places, dtype=torch.int64, device="cpu"), ranks - 1
    r[at] = parsed(COLUMNS["correlation"], part)
    match[at] = parsed(COLUMNS["match_neuron"], part)
    return replace(result, top_correlation=r, top_layer=layers, top_neuron=match)
