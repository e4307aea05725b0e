"""Parquet: a file, or a directory of parts of one table, whose columns of lists are layers.

Rows are decoded as they are read, a few megabytes at a time, whatever the size of row groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.layers import Activations, Layer, collect
from univfast.inputs.natural import natural_key
from univfast.inputs.shards import OpenFiles
from univfast.machine.reading import check_folder, reading
from univfast.stores.companions import IDS, MASKS, companion, flags_of, ids_of, other_masks
from univfast.stores.parquet_rows import Column, ParquetLayer, Part, depth_of, dtype_of
from univfast.stores.parts import parts_in_order

__all__ = ["open_parquet", "open_parquet_directory"]


def open_parquet(file: SourceFile) -> Activations:
    """The table in a file: see `open_parquet_directory`."""
    return _open(file.path, [file.path])


def open_parquet_directory(path: str) -> Activations:
    """The table whose parts are the ``.parquet`` files of a directory, in natural order.

    A column of lists of float64, float32 or float16 is a layer, a row a token; one of lists of such
    lists too, a row a sequence of tokens, of any length. The column ``mask`` or ``attention_mask``
    (bool, 0 and 1) says which tokens count; ``tokens``, ``token_ids`` or ``input_ids`` which they
    are: each a value a row where a row is a token, a list a row where it is a sequence. Lists of
    other numbers cannot be activations; all else is passed over.

    Raises:
        InputError: names the file, and what is wrong.
    """
    check_folder(path)
    names = parts_in_order(path, [x for x in os.listdir(path) if x.endswith(".parquet")])
    return _open(path, [os.path.join(path, name) for name in names])


@dataclass
class _Table:
    """The columns of all parts, by what they are."""

    layers: dict[str, Column]
    unusable: dict[str, InputError]
    passed: list[str]


def _open(source: str, paths: list[str]) -> Activations:
    try:
        import pyarrow.parquet  # noqa: F401 - to say at once that it is missing
    except ImportError as error:
        raise InputError(
            f"{source}: is Parquet, which needs pyarrow to read; pip install 'univfast[datasets]'"
        ) from error
    files = OpenFiles()
    parts = []
    for path in paths:
        files.note(path)
        with reading(path):
            parts.append(Part.of(path, files))
    schema = parts[0].schema
    for part in parts[1:]:
        if part.schema != schema:
            raise InputError(
                f"{parts[0].path} and {part.path}: have other columns; give parts of one table"
            )
    table = _sorted(source, schema, parts, files)
    mask, ids = (companion(source, schema, names) for names in (MASKS, IDS))
    table.unusable |= other_masks(source, table.passed)
    for name in (mask, ids):
        table.unusable.pop(name or "", None)
    table.passed = [x for x in table.passed if x not in (mask, ids) and x not in table.unusable]
    lengths = _Lengths(source, parts, files, [name for name in (mask, ids) if name])

    def make(name: str, column: Column) -> Layer:
        with reading(column.parts[0].path):
            ends = lengths.of(column) if column.depth > 1 else None
            return ParquetLayer(column, source, ends)

    found = collect(source, table.layers, make, unusable=table.unusable)
    # Of layers of rows that are tokens, and of rows that are sequences, the latter have no ids.
    first = next(iter(found.layers.values()))
    depth = table.layers[first.name].depth
    lines = [_line(source, paths, schema, depth)]
    keep = None
    if mask is not None:
        values = lengths.values(mask, depth)
        keep = flags_of(values, first.shape[:-1], f"{source}: column {mask!r}")
        lines.append(f"column {mask!r}: the tokens that count, {int(keep.sum())} of {len(keep)}")
    known = places = None
    if ids is not None:
        values = lengths.values(ids, depth)
        known = ids_of(values, first.shape[:-1], f"{source}: column {ids!r}")
        lines.append(f"column {ids!r}: token ids")
        places = lengths.places(depth) if len(first.shape) == 2 else None
    if table.passed:
        lines.append(f"passed over: {', '.join(map(repr, table.passed))}")
    return replace(found, keep=keep, ids=known, places=places, reading=tuple(lines))


def _line(source: str, paths: list[str], schema: dict[str, Any], depth: int) -> str:
    where = f"{len(paths)} Parquet files, in natural order" if os.path.isdir(source) else "Parquet"
    row = "a token" if depth == 1 else "a sequence of tokens"
    return f"{where}: a column of lists is a layer, a row {row}"


def _sorted(source: str, schema: dict[str, Any], parts: list[Part], files: OpenFiles) -> _Table:
    table = _Table({}, {}, [])
    for name in sorted(schema, key=natural_key):
        kind = schema[name]
        depth, dtype = depth_of(kind), dtype_of(kind)
        if depth in (1, 2) and dtype is not None:
            table.layers[name] = Column(name, dtype, depth, parts, files)
        elif depth and dtype_of(kind, every=True) is not None:
            table.unusable[name] = InputError(
                f"{source}: column {name!r} holds {kind}; a column of activations holds lists of "
                "float64, float32 or float16, or lists of such lists"
            )
        else:
            table.passed.append(name)
    if not table.layers and not table.unusable:
        raise InputError(
            f"{source}: no column of activations, there are {', '.join(map(repr, schema))}; save "
            "one whose rows are lists of float32, a token each"
        )
    return table


class _Lengths:
    """The tokens of each row, and what stands beside them."""

    def __init__(self, source: str, parts: list[Part], files: OpenFiles, beside: list[str]) -> None:
        self._source, self._parts, self._files = source, parts, files
        # Lists of ids have the lengths of sequences, and are sooner read.
        schema = parts[0].schema
        self._short = next((name for name in beside if depth_of(schema[name]) == 1), None)
        self._ends: np.ndarray[Any, Any] | None = None

    def of(self, column: Column) -> np.ndarray[Any, Any]:
        """Where the tokens of each row end, int64 ``[rows]``."""
        if self._ends is None:
            name = self._short or column.name
            lengths = [_row_lengths(batch) for batch in self._batches(name)]
            self._ends = np.cumsum(np.concatenate([*lengths, np.zeros(0, np.int64)]))
        return self._ends

    def values(self, name: str, depth: int) -> np.ndarray[Any, Any]:
        """The values of a column beside layers of ``depth``, one a token."""
        kind = self._parts[0].schema[name]
        if depth_of(kind) != depth - 1:
            expected = "a value a row, as a row is one token" if depth == 1 else "a list a row"
            raise InputError(
                f"{self._source}: column {name!r} holds {kind}, expected {expected}; save it so, "
                "or leave it out"
            )
        found = []
        for array in self._batches(name):
            values = array.flatten() if depth > 1 else array
            if array.null_count or values.null_count:
                raise InputError(f"{self._source}: column {name!r} holds a null; fill it in")
            found.append(values.to_numpy(zero_copy_only=False))
        joined: np.ndarray[Any, Any] = np.concatenate(found)
        return joined

    def places(self, depth: int) -> torch.Tensor | None:
        """Sample and position of each token, where rows are sequences of different lengths."""
        if depth == 1 or self._ends is None:
            return None
        lengths = np.diff(self._ends, prepend=0)
        samples = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(len(samples)) - np.repeat(self._ends - lengths, lengths)
        return torch.from_numpy(np.stack([samples, positions], axis=1))

    def _batches(self, name: str) -> Iterator[Any]:
        for part in self._parts:
            with reading(part.path):
                for batch in part.opened(self._files).iter_batches(1 << 12, columns=[name]):
                    array = batch.column(0)
                    yield getattr(array, "storage", array)


def _row_lengths(array: Any) -> np.ndarray[Any, Any]:
    if array.null_count:
        raise ValueError("a row without a list")
    lengths: np.ndarray[Any, Any] = array.value_lengths().to_numpy().astype(np.int64)
    return lengths
