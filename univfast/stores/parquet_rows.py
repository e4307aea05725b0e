"""A column of Parquet files as a layer whose rows are decoded as they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
import torch

from univfast.errors import InputError
from univfast.inputs.layers import check_layer, fingerprint
from univfast.inputs.shards import OpenFiles
from univfast.machine.reading import reading

__all__ = ["Column", "ParquetLayer", "Part", "depth_of", "dtype_of"]

_BATCH = 4 << 20  # bytes of values to decode at a time
_FLOATS = {"double": torch.float64, "float": torch.float32, "halffloat": torch.float16}
_LISTS = ("list", "large_list", "fixed_size_list")


@dataclass(frozen=True)
class Part:
    """A file of a table: its columns by name with their types, and the rows of its row groups."""

    path: str
    schema: dict[str, Any]
    groups: tuple[int, ...]
    values: dict[str, int]  # of each column of lists, by its path in the file

    @classmethod
    def of(cls, path: str, files: OpenFiles) -> Part:
        """Raises ValueError where two columns have one name."""
        opened = _opened(path, files)
        schema = {field.name: _storage(field.type) for field in opened.schema_arrow}
        if len(schema) < len(opened.schema_arrow.names):
            raise ValueError("two columns of one name")
        groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        values: dict[str, int] = {}
        for group in groups:
            for i in range(group.num_columns):
                column = group.column(i)
                name = column.path_in_schema.split(".list.")[0]
                values[name] = values.get(name, 0) + column.num_values
        return cls(path, schema, tuple(group.num_rows for group in groups), values)

    def opened(self, files: OpenFiles) -> Any:
        """The file, mapped, as pyarrow reads it."""
        return _opened(self.path, files)


def _opened(path: str, files: OpenFiles) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    mapped = files.map(path)
    mapped.check()
    return pq.ParquetFile(pa.BufferReader(pa.py_buffer(mapped.bytes)), pre_buffer=False)


@dataclass(frozen=True)
class Column:
    """A column of lists of floats (``depth`` 1, a row a token) or of lists of these (2)."""

    name: str
    dtype: torch.dtype
    depth: int
    parts: Sequence[Part]
    files: OpenFiles


class ParquetLayer:
    """A `Layer` that is a column. For several threads, which take turns."""

    device = torch.device("cpu")

    def __init__(
        self, column: Column, source: str, ends: np.ndarray[Any, Any] | None = None
    ) -> None:
        """``ends``: where the tokens of each row end, int64 ``[rows]``, where rows are sequences.

        Raises InputError, naming source and column, for what cannot be activations.
        """
        self.name, self.dtype = column.name, column.dtype
        self._column, self._ends = column, ends
        self._where = f"{source}: column {column.name!r}"
        # Of each row group: its part, its number in it, and the row that it begins with.
        self._groups = [(part, i) for part in column.parts for i in range(len(part.groups))]
        counts = [part.groups[i] for part, i in self._groups]
        self._starts = [0, *accumulate(counts)]
        rows = self._starts[-1]
        if ends is not None and len(ends) != rows:
            raise ValueError(f"{len(ends)} rows, not {rows}")
        self.tokens = rows if ends is None else int(ends[-1] if rows else 0)
        if not self.tokens:
            raise InputError(f"{self._where}: holds no tokens; give at least one")
        self._lock = Lock()
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._next = self._begin = 0
        self._rows = 1
        self.neurons = self._width()
        self.shape: tuple[int, ...] = (self.tokens, self.neurons)
        if ends is not None and (np.diff(ends, prepend=0) == ends[0]).all():
            self.shape = (rows, int(ends[0]), self.neurons)
        check_layer(self.name, self.dtype, self.shape, source)
        per_row = max(1, self.tokens // rows) * self.neurons * self.dtype.itemsize
        self._rows = max(1, _BATCH // per_row)
        self._check_values(rows)

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        found = torch.empty(stop - start, self.neurons, dtype=self.dtype, device="cpu")
        if start == stop:
            return found
        with self._lock:
            at = 0
            for rows, first, row in self._tokens_of(start, stop):
                low, high = max(start - first, 0), min(stop - first, len(rows))
                piece = self._values(rows.slice(low, high - low), row, low)
                found[at : at + len(piece)] = torch.from_numpy(piece)
                at += len(piece)
        if at != len(found):
            raise InputError(f"{self._where}: has fewer tokens than before; start again")
        return found

    def prepare(self, start: int, stop: int) -> None:
        pass

    def release(self, start: int, stop: int) -> None:
        for part in self._column.parts:
            if mapped := self._column.files.mapped(part.path):
                mapped.check()
                mapped.release(mapped.address, mapped.address + len(mapped.bytes))

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _width(self) -> int:
        first = 0 if self._ends is None else int(np.argmax(self._ends > 0))
        for array in self._read_rows(first, first + 1):
            tokens = array if self._ends is None else array.flatten()
            return int(_lengths(tokens)[0]) if tokens.null_count == 0 else 0
        return 0

    def _check_values(self, rows: int) -> None:
        """Refuses tokens of several widths: by their number at once, which names the first."""
        values = [part.values.get(self.name) for part in self._column.parts]
        if sum(x or 0 for x in values) == self.tokens * self.neurons or None in values:
            return
        for start in range(0, self.tokens, 1 << 12):
            self.read(start, min(start + (1 << 12), self.tokens))

    def _tokens_of(self, start: int, stop: int) -> Iterator[tuple[Any, int, int]]:
        """Arrays of tokens, with the number of the first token and of the first row of each."""
        if self._ends is None:
            row = start
            for array in self._read_rows(start, stop):
                yield array, row, row
                row += len(array)
            return
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        row = first
        for array in self._read_rows(first, last + 1):
            tokens = array.flatten()
            begin = int(self._ends[row - 1]) if row else 0
            if array.null_count or begin + len(tokens) != self._ends[row + len(array) - 1]:
                raise InputError(
                    f"{self._where}: from row {row} on, sequences have other lengths than their "
                    "ids or mask; give every token one"
                )
            yield tokens, begin, row
            row += len(array)

    def _values(self, tokens: Any, row: int, skipped: int) -> np.ndarray[Any, Any]:
        values = tokens.flatten()
        lengths = _lengths(tokens)
        if tokens.null_count or values.null_count or (lengths != self.neurons).any():
            named = f"row {row + skipped}" if self._ends is None else f"the rows from {row} on"
            for i in range(len(tokens)):
                one = tokens.slice(i, 1)
                null = one.null_count or one.flatten().null_count
                if null or lengths[i] != self.neurons:
                    at = f"row {row + skipped + i}" if self._ends is None else named
                    what = "a null" if null else f"a token of {lengths[i]} neurons"
                    raise InputError(
                        f"{self._where}, {at}: holds {what}, the first token has {self.neurons}; "
                        "give all tokens one width"
                    )
        found: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False)
        copy: np.ndarray[Any, Any] = found.reshape(len(tokens), self.neurons).copy()
        return copy

    def _read_rows(self, start: int, stop: int) -> Iterator[Any]:
        """The rows ``start`` to ``stop``, in arrays as they were decoded: on from the last ones."""
        at = bisect_right(self._starts, start) - 1
        # Forward within a row group, or where the batches come to next; else from its beginning.
        here = self._batch is not None and self._begin <= start
        if not here or (start >= self._next and self._starts[at] > self._next):
            self._batches, self._batch = self._decode(at), None
            self._begin = self._next = self._starts[at]
        while start < stop:
            while self._batch is None or start >= self._next:
                with reading(self._column.parts[0].path):
                    self._batch = next(self._batches)
                self._begin, self._next = self._next, self._next + len(self._batch)
            end = min(stop, self._next)
            yield self._batch.slice(start - self._begin, end - start)
            start = end

    def _decode(self, group: int) -> Iterator[Any]:
        for part, i in self._groups[group:]:
            with reading(part.path):
                opened = part.opened(self._column.files)
                batches = opened.iter_batches(
                    self._rows, row_groups=[i], columns=[self.name], use_threads=False
                )
                for batch in batches:
                    yield _array(batch.column(0))


def depth_of(kind: Any) -> int:
    """How many lists lie in each other."""
    return 1 + depth_of(kind.value_type) if _is_list(kind) else 0


def dtype_of(kind: Any, every: bool = False) -> torch.dtype | None:
    """That of the values in lists; None where they are no floats (``every``: no numbers)."""
    import pyarrow as pa

    while _is_list(kind):
        kind = kind.value_type
    if every and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return _FLOATS.get(str(kind), torch.int64)
    return _FLOATS.get(str(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return any(getattr(pa.types, f"is_{name}")(kind) for name in _LISTS)


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def _array(array: Any) -> Any:
    return getattr(array, "storage", array)


def _lengths(tokens: Any) -> np.ndarray[Any, Any]:
    if hasattr(tokens.type, "list_size"):
        return np.full(len(tokens), tokens.type.list_size)
    lengths: np.ndarray[Any, Any] = tokens.value_lengths().fill_null(-1).to_numpy()
    return lengths
