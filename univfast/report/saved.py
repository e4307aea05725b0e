"""Results read back from the files that were written, each of their values checked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from torch import Tensor

from univfast.columns import COLUMNS, SCHEMA, columns_of
from univfast.contexts.records import stored_records
from univfast.errors import InputError
from univfast.inputs.formats import read_array
from univfast.machine.reading import damaged, open_file, parse_json
from univfast.machine.torch_state import in_plain_state
from univfast.report.saved_parts import with_contexts, with_matches, with_top
from univfast.report.summaries import check_summary
from univfast.report.tables import parsed, read_csv
from univfast.result import CorrelationResult

if TYPE_CHECKING:
    from univfast.summary import Summary

__all__ = ["COMMAND", "REVERSE", "load", "not_a_result"]

COMMAND = "command.txt"
"""What was typed, of a result of the command line."""

REVERSE = "reverse"
"""The directory inside that holds the result as it is seen from B."""

_AGAIN = "write it again with univfast correlate --out"
_GIVE = "give the directory that univfast correlate --out wrote"
_MOST_SUMMARY = 128 << 20  # bytes; of 1,000 layers against 1,000 it has 20 million
_NULL = "null_excess.npy"
_ROUNDING = 1e-5  # of a difference of two numbers of six digits, up to 2, and of means of such


@in_plain_state
def load(directory: str | os.PathLike[str]) -> CorrelationResult:
    """Reads back what `CorrelationResult.save`, or ``univfast correlate --out``, wrote.

    Numbers of tables have the six digits that are there. Of results by index beside a search, and
    of single models the draws and controls, only the summary tells. Results that were saved beside
    it are read by their own directory. What an earlier version did not write is None, and
    ``contexts.jsonl`` is read where it is asked for.

    Args:
        directory: as it was given to ``save``.

    Raises:
        InputError: a file is missing, is not of that form, or is of a later version; names it.
    """
    return _load(Path(directory), with_reverse=True)


def _load(folder: Path, with_reverse: bool) -> CorrelationResult:
    with _file(folder, "summary.json") as file:
        text = file.read(_MOST_SUMMARY + 1)
        if len(text) > _MOST_SUMMARY:
            raise ValueError(f"over {_MOST_SUMMARY >> 20} MiB")
        summary = parse_json(text)
        _check_schema(folder, summary)
        check_summary(summary)
    with _file(folder, "neurons.csv") as file:
        cells = read_csv(file)
        having = {column.only for name, column in COLUMNS.items() if name in cells}
        columns: dict[str, Any] = {
            column.name: parsed(column, cells)
            for column in columns_of("neurons", having)
            if column.value is None and (column.since == 1 or column.name in cells)
        }
        _check_columns(columns, summary)
    with _file(folder, _NULL):
        null_excess = _null_excess(folder, summary)
    result = CorrelationResult(
        **columns,
        null_excess=null_excess,
        summary=cast("Summary", summary),
        explained=stored_records(folder),
    )
    for name, add in (("matches.csv", with_matches), ("top.csv", with_top)):
        if (folder / name).exists():
            with _file(folder, name) as file:
                result = add(result, read_csv(file))
    if (folder / "contexts.npz").exists() and result.correlation_se is not None:
        with _file(folder, "contexts.npz") as file:
            result = with_contexts(result, file)
    if (folder / COMMAND).exists():
        with _file(folder, COMMAND) as file:
            result = replace(result, command=file.read(_MOST_SUMMARY).decode().strip() or None)
    reverse = folder / REVERSE
    if with_reverse and (reverse / "summary.json").is_file():
        result = replace(result, reverse=_load(reverse, with_reverse=False))
    return result


def _check_schema(folder: Path, summary: Mapping[str, Any]) -> None:
    schema = summary.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise InputError(
            f"{os.fsdecode(folder)}: was written by a later version of univfast (schema {schema},"
            f" this one reads up to {SCHEMA}); update univfast"
        )


def not_a_result(folder: str | os.PathLike[str], name: str, error: Exception) -> InputError:
    """The error that says which file of a directory is not what was written, and why."""
    said = str(damaged(name, error, _AGAIN)).removeprefix(f"{name}: is damaged or incomplete ")
    return InputError(f"{os.fsdecode(folder)}: does not hold a saved result, in {name} {said}")


@contextmanager
def _file(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A file of a result; whatever is wrong with its content becomes one line that names it."""
    with open_file(folder / name, _GIVE) as file:
        try:
            yield file
        except InputError:
            raise
        except Exception as error:
            raise not_a_result(folder, name, error) from error


def _check_columns(columns: dict[str, Any], summary: Mapping[str, Any]) -> None:
    """Raises ValueError where the table is of other neurons than the summary counts."""
    layers = summary["layers"]
    names = [row["layer"] for row in layers for _ in range(row["neurons"])]
    numbers = [i for row in layers for i in range(row["neurons"])]
    if columns["layer"] != names or columns["neuron"].tolist() != numbers:
        raise ValueError("its rows are not the neurons of the layers in summary.json")
    lost = int((columns["correlation"].isnan() & ~columns["dead"]).sum())
    found = {name: int(columns[name].sum()) for name in ("dead", "universal")}
    for name, count in {**found, "unmatched": lost}.items():
        if count != summary[name]:
            raise ValueError(f"{count} neurons are {name}, {summary[name]} in summary.json")
    excess = columns["correlation"] - columns["baseline"]
    if not torch.allclose(columns["excess"], excess, rtol=0, atol=_ROUNDING, equal_nan=True):
        raise ValueError("an excess is not correlation - baseline")
    margin = columns["excess"] - summary["threshold"]
    unsure = margin.abs() <= _ROUNDING
    if not bool((unsure | (columns["universal"] == (margin > 0))).all()):
        raise ValueError("universal is not an excess above the threshold in summary.json")
    for name in ("correlation", "baseline", "excess"):
        mean, said = float(columns[name].nanmean()), summary[f"mean_{name}"]
        if not math.isclose(math.nan if said is None else said, mean, abs_tol=_ROUNDING) and not (
            said is None and math.isnan(mean)
        ):
            raise ValueError(f"the mean {name} is {mean}, {said} in summary.json")
    if ("learned" in columns) != (summary["learned"] is not None):
        raise ValueError("learned is in one of it and summary.json only")
    several = len(summary["models"]) > 2
    if ("correlation_min" in columns) != several:
        raise ValueError("correlation_min and correlation_max are for several models")


def _null_excess(folder: Path, summary: Mapping[str, Any]) -> Tensor | None:
    stored = read_array(str(folder / _NULL), "r of chance")
    # Copied, for its file is replaced when the result is saved again.
    null: Tensor = stored.tensor().clone()
    if null.numel() == 0:
        return None
    # By index, chance is what wrong partners give; in results of before, what rotations give.
    shape = (summary.get("shifts") or summary["rotation"]["draws"], summary["neurons"])
    if tuple(null.shape) != shape or not null.is_floating_point():
        raise ValueError(f"has shape {list(null.shape)}, not {list(shape)}")
    if bool((null.abs() > 2).any()):
        raise ValueError("an excess is outside of -2 to 2")
    return null
