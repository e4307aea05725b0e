"""Sparse features as layers: what is there of each token is made dense slice by slice.

A list of entries is one of three forms: the k largest of each token, compressed rows (CSR), or one
entry after the other (COO).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Layer, StoredLayer, check_layer, fingerprint
from univfast.inputs.stored import Stored
from univfast.native.place import numbers

__all__ = [
    "Coo",
    "Csr",
    "Entries",
    "Part",
    "Rows",
    "SparseLayer",
    "SparseStored",
    "TopK",
    "Unusable",
    "as_layer",
]

# Entries of a list that are looked at at a time, where all are: a megabyte or two.
_BLOCK = 1 << 16
# Entries that tell one list from another, at so many places.
_SAMPLES, _SAMPLED = 16, 256

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

    def take(self, start: int, stop: int) -> Found:
        """The entries of tokens ``start`` to ``stop``. Raises ValueError where they are none."""

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

    @property
    def tokens(self) -> int:
        return len(self.values)

    def take(self, start: int, stop: int) -> Found:
        feature = self._indices.read(start, stop).long()
        values = self.values.read(start, stop)
        token = numbers(stop - start, device=values.device)[:, None].expand_as(feature)
        there = (values != 0) | (feature >= 0) | (feature < -1)
        return token[there], feature[there], values[there]

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
        for axis, size in zip(self._axes, self._leading, strict=True):
            place = axis.read(low, high).long()
            if bool(((place < 0) | (place >= size)).any()):
                raise ValueError(f"an entry is of token {_outside(place, size)} of {size}")
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


@dataclass(frozen=True)
class SparseStored:
    """Sparse features as they were found; takes the place of a `Stored` where arrays are listed.

    Attributes:
        where: what it is, to begin an error: the file or argument, and the layer.
        entries: what is there.
        leading: the axes of its tokens.
        width: how many features there are; None where that is not said.
        said: where that is said, for errors.
        parts: the names of the arrays that it is made of, and of what says more of it.
        ids: of its tokens, integers of shape ``leading``; None where they are not known.
    """

    where: str
    entries: Entries
    leading: tuple[int, ...]
    width: int | None
    said: str = "its shape"
    parts: tuple[str, ...] = ()
    ids: Stored | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.entries.values.dtype

    def tensor(self) -> NoReturn:
        raise InputError(f"{self.where}: is of sparse features; give one plain array")

    def place(self) -> NoReturn:
        raise InputError(
            f"{self.where}: is of sparse features, which are not read from directories of files;"
            " give one file"
        )

    def of_width(self, width: int | None) -> SparseStored:
        """With the width that was given, or that it has.

        Raises:
            InputError: it has another, or none is known.
        """
        if width is None and self.width is None:
            raise InputError(
                f"width: {self.where} has the numbers of features, and not how many there are; give"
                f" that (the highest number is {self.entries.highest()})"
            )
        if None not in (width, self.width) and width != self.width:
            raise InputError(
                f"width: is {width}, and {self.where} has {self.width} features by {self.said};"
                " leave the one that is wrong out"
            )
        return replace(self, width=self.width if width is None else width)


@dataclass(frozen=True)
class Unusable:
    """What stands among arrays and is none that can be read, with the reason."""

    error: InputError
    dtype: torch.dtype = torch.bool

    def tensor(self) -> NoReturn:
        raise self.error

    def place(self) -> NoReturn:
        raise self.error


def as_layer(
    name: str, found: Stored | SparseStored | Unusable, source: str, width: int | None = None
) -> Layer:
    """A layer of what was found. Raises InputError, naming ``source``, for what cannot be one."""
    if isinstance(found, Unusable):
        raise found.error
    if isinstance(found, Stored):
        return StoredLayer(name, found, source)
    sparse = found.of_width(width)
    assert sparse.width is not None
    parts = [Part(sparse.entries, 0, sparse.width)]
    return SparseLayer(name, parts, sparse.leading, sparse.width, source)


@dataclass(frozen=True)
class Part:
    """Entries of ``width`` features, of which the first is number ``first`` of the layer."""

    entries: Entries
    first: int
    width: int


class SparseLayer:
    """A `Layer` of sparse features. A slice is dense, in the dtype of the values; a copy."""

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        leading: tuple[int, ...],
        width: int,
        source: str,
    ) -> None:
        """Raises InputError, naming ``source`` and the layer, for what cannot be activations."""
        self.name, self.neurons = name, width
        self.dtype = parts[0].entries.values.dtype
        self.shape = (*leading, width)
        self.tokens = prod(leading)
        self._parts, self._where = parts, f"{source}: layer {name!r}"
        check_layer(name, self.dtype, self.shape, source)

    @property
    def device(self) -> torch.device:
        return self._parts[0].entries.values.device

    def read(self, start: int, stop: int) -> Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        shape = stop - start, self.neurons
        dense = torch.zeros(shape, dtype=self.dtype, device=self.device)
        if start == stop:
            return dense
        for part in self._parts:
            try:
                token, feature, values = part.entries.take(start, stop)
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{self._where}: {_with_remedy(error)}") from error
            if bool(((feature < 0) | (feature >= part.width)).any()):
                at = int(torch.nonzero((feature < 0) | (feature >= part.width))[0])
                raise InputError(
                    f"{self._where} has feature {int(feature[at])} at token"
                    f" {start + int(token[at])}, and {part.width} features; mend it, or the width"
                )
            places = token * self.neurons + (feature + part.first)
            if not part.entries.sums:
                self._check_once(places[values != 0], start)
            dense.view(-1).index_add_(0, places, values)
        return dense

    def _check_once(self, places: Tensor, start: int) -> None:
        ordered = places.sort().values
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            token, feature = divmod(int(twice[0]), self.neurons)
            raise InputError(
                f"{self._where} has feature {feature} twice at token {start + token}; save each"
                " once"
            )

    def prepare(self, start: int, stop: int) -> None:
        """Nothing: entries are few bytes beside the slice that is made of them."""

    def release(self, start: int, stop: int) -> None:
        if start < stop:
            for part in self._parts:
                part.entries.release(start, stop)

    def fingerprint(self) -> bytes:
        digest = hashlib.sha256(fingerprint(self))
        for part in self._parts:  # few entries may be of the tokens that it looks at
            values = part.entries.values
            digest.update(repr((len(values), part.first, part.width)).encode())
            for i in range(_SAMPLES):
                low = i * max(len(values) - _SAMPLED, 0) // (_SAMPLES - 1)
                some = values.read(low, low + _SAMPLED).cpu().contiguous().view(torch.uint8)
                digest.update(some.numpy().tobytes())
        return digest.digest()


def _with_remedy(error: ValueError) -> str:
    text = str(error)
    return text if ";" in text else f"{text}; write it again"
