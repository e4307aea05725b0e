"""Tables as CSV: every name is read back as it was, and no spreadsheet takes one for a formula."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from univfast.columns import COLUMNS, Column

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["DIGITS", "as_written", "csv_bytes", "parsed", "read_csv"]

DIGITS = 6
"""Significant digits of numbers in tables: more than r is known to."""

# What a spreadsheet takes for a formula begins so, also in wide forms and behind what cannot be
# seen. An apostrophe before it makes it a text. Names that begin so behind apostrophes of their own
# get one more, so that taking one away gives every name back.
_FORMULA = "=+-@"
# A text of these alone means itself in every program that reads CSV.
_PLAIN = re.compile(r"[\w.:/-]*", re.ASCII)


def csv_bytes(head: Sequence[str], parts: Iterable[Sequence[Sequence[object]]]) -> bytes:
    """A table in UTF-8, a line a row.

    Numbers have six significant digits, absent ones are ``nan``; flags are ``true`` and ``false``.
    A text stands in quotes unless it is plain, with an apostrophe before what would be a formula.

    Args:
        head: names of the columns.
        parts: columns of the same names, whose rows follow those of the part before.
    """
    text = io.StringIO(newline="")
    text.write(",".join(head) + "\n")
    known: dict[object, str] = {}
    for columns in parts:
        cells = [[_cell(value, known) for value in column] for column in columns]
        text.writelines(",".join(row) + "\n" for row in zip(*cells, strict=True))
    return text.getvalue().encode("utf-8", "replace")


def as_written(result: CorrelationResult) -> CorrelationResult:
    """A result with the numbers that its tables have, which is what pictures are drawn of.

    So they are the same where it was read back.
    """
    numbers = {c.name for c in COLUMNS.values() if c.dtype == "number" and c.value is None}
    numbers = {*numbers, "top_correlation"} & {x.name for x in fields(result)}
    found: dict[str, Any] = {name: getattr(result, name) for name in numbers}
    found = {name: _rounded(x) for name, x in found.items() if x is not None}
    return replace(result, **found, by_model=tuple(map(as_written, result.by_model)))


def _rounded(values: torch.Tensor) -> torch.Tensor:
    flat = [float(_cell(value, {})) for value in values.reshape(-1).tolist()]
    return torch.tensor(flat, dtype=values.dtype, device="cpu").reshape(values.shape)


def read_csv(file: BinaryIO) -> dict[str, list[str]]:
    """The cells of a table by column. Raises ValueError and csv.Error where it is none."""
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        head, *rows = csv.reader(text, strict=True)
    if len({*head}) < len(head):
        raise ValueError("two columns of one name")
    for number, row in enumerate(rows):
        if len(row) != len(head):
            raise ValueError(f"row {number} has {len(row)} cells, the head {len(head)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


def parsed(column: Column, cells: Mapping[str, list[str]]) -> Any:
    """The values of a column, from the cells of its table: a list of names, or a tensor.

    Raises:
        KeyError: the table has no such column.
        ValueError: a cell is not of its kind, or out of its range.
    """
    found = cells[column.name]
    if column.dtype == "text":
        known = {cell: _name(cell) for cell in {*found}}
        return [known[cell] for cell in found]
    if column.dtype == "flag":
        flags = {"true": True, "false": False}
        return torch.tensor([flags[cell] for cell in found], dtype=torch.bool, device="cpu")
    kind = int if column.dtype == "integer" else float
    numbers = [kind(cell) for cell in found]
    low, high = column.limits
    for number in numbers:
        if number < low or number > high:  # NaN is neither
            raise ValueError(f"{column.name} {number}")
    dtype = torch.int64 if column.dtype == "integer" else torch.float64
    return torch.tensor(numbers, dtype=dtype, device="cpu")


def _cell(value: object, known: dict[object, str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(value, f".{DIGITS}g")
    if not isinstance(value, str):
        return str(value)
    if value not in known:
        known[value] = _quoted(value)
    return known[value]


def _quoted(name: str) -> str:
    if _PLAIN.fullmatch(name) and not name.startswith("-"):
        return name
    text = f"'{name}" if _is_formula(name) else name
    return '"' + text.replace('"', '""') + '"'


def _name(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Whether it begins as one, or with what cannot be seen; behind any apostrophes."""
    first = text.lstrip("'")[:1]
    unseen = bool(first) and unicodedata.category(first)[0] in "ZC"
    return unseen or (bool(first) and unicodedata.normalize("NFKC", first)[0] in _FORMULA)
