"""What is there of each token, as sparse features are stored: in one of three forms.

The k largest of each token, compressed rows (CSR), or one entry after the other (COO).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from univfast.inputs.stored import Stored
from univfast.native.place import numbers

__all__ = ["Coo", "Csr", "Entries", "Rows", "TopK", "column"]

# Entries of a list that are looked at at a time, where all are: a megabyte or two.
_BLOCK = 1 << 16

Found = tuple[Tensor, Tensor, Tensor]
"""Of some tokens: the number of the token among them, that of the feature (int64 both), a value."""


class Rows:
    """An array of numbers in memory or in a mapped file, ``[rows, ...]``, read by rows."""

    def __init__(self, stored: Stored, inner: int = 0) -> None:
        """``inner``: axes of a row; those before are merged into one."""
        data: Any = stored.data
        own = data.shape[len(data.shape) - inner :]
        self._data = data if len(data.shape) == inner + 1 else data.reshape(-1, *own)
        self._stored = stored
        self.dtype = stored.dtype

    def __len__(self) -> int:
        return len(self._data)

    @property
    def device(self) -> torch.device:
        return self._data.device if isinstance(self._data, Tensor) else torch.device("cpu")

    def read(self, start: int, stop: int) -> Tensor:
        """Some rows, in place where that can be."""
        if self._stored.mapped is not None:
            self._stored.mapped.check()
        part = self._data[start:stop]
        return part if isinstance(part, Tensor) else self._stored.copy_rows(part)

    def release(self, start: int, stop: int) -> None:
        """Gives back the memory of rows, which can be read again."""
        mapped, part = self._stored.mapped, self._data[start:stop]
        if mapped is None or not len(part):
            return
        mapped.check()
        if isinstance(part, Tensor):
            low, size = part.data_ptr(), part.element_size() * part.numel()
            whole = part.is_contiguous()
        else:
            low, size, whole = part.ctypes.data, part.nbytes, part.flags.c_contiguous
        if whole:
            mapped.release(low, low + size)


def column(stored: Stored, at: int) -> Rows:
    """A column of ``[rows, columns]`` as an array of its own."""
    return Rows(Stored(stored.data[:, at], stored.dtype, stored.mapped))


class Entries(Protocol):
    """What is there of each token; all else is 0.

    Attributes: ``values``, of the entries in their order; ``tokens``; ``sums``, whether entries of
    one token and feature are added, and not refused.
    """

    sums: bool

    @property
    def values(self) -> Rows: ...
    @property
    def tokens(self) -> int: ...

    def count(self, start: int, stop: int) -> int:
        """How many entries stand there for tokens ``start`` to ``stop``.

        Raises:
            ValueError: they are none.
        """

    def take(self, start: int, stop: int) -> Found:
        """The entries of tokens ``start`` to ``stop``, in order of tokens.

        Raises:
            ValueError: they are none.
        """

    def release(self, start: int, stop: int) -> None:
        """Gives back the memory that the entries of these tokens take."""

    def highest(self) -> int:
        """The highest number of a feature, -1 where there are no entries; reads all."""


class TopK:
    """The k largest features of each token: their numbers and their values, ``[..., k]``.

    A value of 0 is nothing, also where its feature stands twice, or is -1, as what pads a row.
    """

    sums = False

    def __init__(self, indices: Stored, values: Stored) -> None:
        self._indices, self.values = Rows(indices, 1), Rows(values, 1)
        self._k = values.data.shape[-1]

    @property
    def tokens(self) -> int:
        return len(self.values)

    def count(self, start: int, stop: int) -> int:
        return (stop - start) * self._k

    def take(self, start: int, stop: int) -> Found:
        feature = self._indices.read(start, stop).long()
        values = self.values.read(start, stop)
        feature, values = feature.flatten(), values.flatten()
        there = ((values != 0) | (feature != -1)).nonzero()[:, 0]
        if len(there) < len(values):
            feature, values = feature[there], values[there]
        return there // max(self._k, 1), feature, values

    def release(self, start: int, stop: int) -> None:
        self._indices.release(start, stop)
        self.values.release(start, stop)

    def highest(self) -> int:
        return _highest(self._indices)


class Csr:
    """Compressed rows: where each token's entries begin, ``[tokens + 1]``, and the entries."""

    sums = True

    def __init__(self, starts: Stored, features: Stored, values: Stored) -> None:
        self._starts, self._features, self.values = Rows(starts), Rows(features), Rows(values)

    @property
    def tokens(self) -> int:
        return len(self._starts) - 1

    def count(self, start: int, stop: int) -> int:
        first, last = (int(self._starts.read(i, i + 1)[0]) for i in (start, stop))
        return last - first

    def take(self, start: int, stop: int) -> Found:
        starts = self._starts.read(start, stop + 1).long()
        low, high = int(starts[0]), int(starts[-1])
        counts = starts.diff()
        if bool((counts < 0).any()) or not 0 <= low <= high <= len(self.values):
            raise ValueError("the beginnings of its rows do not follow each other")
        if (start == 0 and low) or (stop == self.tokens and high != len(self.values)):
            raise ValueError("its rows are not all of its entries")
        token = torch.repeat_interleave(counts)
        return token, self._features.read(low, high).long(), self.values.read(low, high)

    def release(self, start: int, stop: int) -> None:
        starts = self._starts.read(start, stop + 1).long()
        self._features.release(int(starts[0]), int(starts[-1]))
        self.values.release(int(starts[0]), int(starts[-1]))

    def highest(self) -> int:
        return _highest(self._features)


class Coo:
    """Entries one after the other, sorted by token; those of one token in any order.

    All numbers of tokens are looked at when the first slice is read.
    """

    def __init__(
        self,
        axes: Sequence[Rows],
        leading: tuple[int, ...],
        features: Rows,
        values: Rows,
        sums: bool,
    ) -> None:
        """``axes``: of each entry its place along each of the axes ``leading`` of the tokens.

        A row of one of these, or of ``features``, is a number, or a row of ``[rows, axes]``.
        """
        self._axes, self._leading, self._features = axes, leading, features
        self.values, self.sums = values, sums

    @property
    def tokens(self) -> int:
        return prod(self._leading)

    def count(self, start: int, stop: int) -> int:
        return self._find(stop) - self._find(start)

    def take(self, start: int, stop: int) -> Found:
        low, high = self._find(start), self._find(stop)
        token = self._rows(low, high) - start
        return token, self._features.read(low, high).long(), self.values.read(low, high)

    def release(self, start: int, stop: int) -> None:
        low, high = self._find(start), self._find(stop)
        for rows in (*self._axes, self._features, self.values):
            rows.release(low, high)

    def highest(self) -> int:
        return _highest(self._features)

    @cached_property
    def _marks(self) -> Tensor:
        """The token of the first entry of each block of entries."""
        marks, last = [], 0
        for low in range(0, len(self.values), _BLOCK):
            high = min(low + _BLOCK, len(self.values))
            rows = self._rows(low, high)
            if int(rows[0]) < last or bool((rows.diff() < 0).any()):
                raise ValueError(
                    "its entries are not sorted by token; sort them, or .coalesce() the tensor"
                )
            last = int(rows[-1])
            marks.append(int(rows[0]))
            for axis in self._axes:
                axis.release(low, high)
        return torch.tensor(marks, dtype=torch.int64, device="cpu")

    def _find(self, token: int) -> int:
        """The first entry of a token, or of the first behind it that has any."""
        block = max(int(torch.searchsorted(self._marks, token)) - 1, 0)
        low = block * _BLOCK
        rows = self._rows(low, min(low + _BLOCK, len(self.values)))
        return low + int(torch.searchsorted(rows, token))

    def _rows(self, low: int, high: int) -> Tensor:
        """The tokens of some entries."""
        token = numbers(high - low, device=self.values.device) * 0
        for i, (axis, size) in enumerate(zip(self._axes, self._leading, strict=True)):
            place = axis.read(low, high).long()
            if bool(((place < 0) | (place >= size)).any()):
                number = _outside(place, size)
                if len(self._leading) == 1:
                    raise ValueError(f"an entry is of token {number} of {size}")
                raise ValueError(f"an entry has number {number} along axis {i}, of {size}")
            token = token * size + place
        return token


def _outside(numbers: Tensor, count: int) -> int:
    """The first number that is not one of 0 to ``count``."""
    return int(numbers[(numbers < 0) | (numbers >= count)][0])


def _highest(features: Rows) -> int:
    highest = -1
    for low in range(0, len(features), _BLOCK):
        high = min(low + _BLOCK, len(features))
        part = features.read(low, high).long()
        highest = max(highest, int(part.max()) if part.numel() else -1)
        features.release(low, high)
    return highest
