"""Large tables as Parquet too, which is a third of the size and read in a moment."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from itertools import chain
from typing import Any

from univfast.columns import Column, Dtype

__all__ = ["LARGE", "parquet_bytes"]

LARGE = 100_000
"""Rows, above which a table of matches or partners is written as Parquet beside the CSV."""

_TYPES: dict[Dtype, str] = {
    "text": "string",
    "integer": "int64",
    "number": "float64",
    "flag": "bool",
}


def parquet_bytes(
    columns: Sequence[Column], parts: Sequence[Sequence[Sequence[Any]]]
) -> bytes | None:
    """A table as a Parquet file, with all digits; None where it is small, or without pyarrow.

    Args:
        columns: what each column is.
        parts: columns of these, whose rows follow those of the part before.
    """
    rows = sum(len(part[0]) for part in parts)
    if rows <= LARGE or importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    import pyarrow.parquet

    arrays = [
        pyarrow.array(
            [_absent(cell) for cell in chain.from_iterable(part[i] for part in parts)],
            type=pyarrow.type_for_alias(_TYPES[column.dtype]),
        )
        for i, column in enumerate(columns)
    ]
    table = pyarrow.Table.from_arrays(arrays, names=[column.name for column in columns])
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def _absent(cell: Any) -> Any:
    """A cell as Parquet has it: an absent text or flag is null, and half characters are '?'."""
    if isinstance(cell, str):
        return cell.encode("utf-8", "replace").decode("utf-8") or None
    return cell
