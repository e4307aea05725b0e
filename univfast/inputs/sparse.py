"""Sparse features as layers: slices of what is there of each token, as entries or made dense."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import NoReturn

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Activations, Layer, StoredLayer, check_layer, fingerprint
from univfast.inputs.sparse_entries import Entries
from univfast.inputs.stored import Stored
from univfast.machine.digests import bytes_of
from univfast.native.sparse import EntryList, repeated_entry

__all__ = ["Part", "SparseLayer", "SparseStored", "as_layer", "check_width", "in_sparse_layers"]

# Entries that tell one list from another, at so many places.
_SAMPLES, _SAMPLED = 16, 256
_MOST_FEATURES = 2**31 - 1  # numbers of 32 bits


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


def as_layer(
    name: str, found: Stored | SparseStored, source: str, width: int | None = None
) -> Layer:
    """A layer of what was found. Raises InputError, naming ``source``, for what cannot be one."""
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
    """A `Layer` of sparse features. A slice that is read is dense, in the dtype of the values."""

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
        if width > _MOST_FEATURES:
            raise InputError(
                f"{self._where} has {width} features; those of at most {_MOST_FEATURES} are read"
            )

    @property
    def device(self) -> torch.device:
        return self._parts[0].entries.values.device

    def read(self, start: int, stop: int) -> Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        shape = stop - start, self.neurons
        dense = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for sums, token, feature, value in self._found(start, stop):
            if not sums:
                self._check_once(EntryList(token, feature, value).where(value != 0), start)
            dense.view(-1).index_add_(0, token * self.neurons + feature, value)
        return dense

    @property
    def stored(self) -> int:
        """How many entries there are, those that are 0 too."""
        return self.count(0, self.tokens)

    def count(self, start: int, stop: int) -> int:
        """How many entries stand there for tokens ``start`` to ``stop``, those that are 0 too.

        Raises:
            InputError: they are damaged.
        """
        with self._blamed():
            return sum(part.entries.count(start, stop) for part in self._parts)

    def entries(self, start: int, stop: int) -> EntryList:
        """What is there of tokens ``start`` to ``stop``, on the CPU; nothing is 0, or stands twice.

        Tokens are counted from the first of these. Values have the dtype that they are stored in;
        those of one token and feature that are added are so in that dtype, as in `read`.

        Raises:
            InputError: they are damaged.
        """
        lists = []
        for sums, token, feature, value in self._found(start, stop):
            found = EntryList(token.int(), feature.int(), value)
            found = EntryList(*(x.cpu().contiguous() for x in found))
            there = found.value != 0
            found = found if bool(there.all()) else found.where(there)
            if not sums:
                self._check_once(found, start)
            elif self._repeated(found) is not None:
                found = self._added(found)
            lists.append(found)
        return EntryList.joined(lists)

    def _found(self, start: int, stop: int) -> Iterator[tuple[bool, Tensor, Tensor, Tensor]]:
        """Of each part: whether entries are added; token here, feature of the layer, and value."""
        for part in self._parts:
            with self._blamed():
                token, feature, value = part.entries.take(start, stop)
            if bool(((feature < 0) | (feature >= part.width)).any()):
                at = int(torch.nonzero((feature < 0) | (feature >= part.width))[0])
                raise InputError(
                    f"{self._where} has feature {int(feature[at])} at token"
                    f" {start + int(token[at])}, and {part.width} features; mend it, or the width"
                )
            yield part.entries.sums, token, feature + part.first, value

    def _repeated(self, entries: EntryList) -> int | None:
        return repeated_entry(entries, self.neurons)

    def _check_once(self, entries: EntryList, start: int) -> None:
        found = EntryList(*(x.cpu().contiguous() for x in entries))
        found = EntryList(found.token.int(), found.feature.int(), found.value)
        at = self._repeated(found)
        if at is not None:
            raise InputError(
                f"{self._where} has feature {int(found.feature[at])} twice at token"
                f" {start + int(found.token[at])}; save each once"
            )

    def _added(self, entries: EntryList) -> EntryList:
        """Those of one token and feature added, in the order of tokens and features."""
        places = entries.token.long() * self.neurons + entries.feature
        there, number = torch.unique(places, return_inverse=True)
        value = torch.zeros(len(there), dtype=self.dtype, device="cpu")
        value.index_add_(0, number, entries.value)
        kept = value != 0
        there, value = there[kept], value[kept]
        return EntryList((there // self.neurons).int(), (there % self.neurons).int(), value)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """A block that reads what is stored: what it finds damaged is named."""
        try:
            yield
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self._where}: {_with_remedy(error)}") from error

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
                some = bytes_of(values.read(low, low + _SAMPLED).cpu())
                digest.update(some.numpy().tobytes())
        return digest.digest()


def check_width(width: int | None, models: Sequence[Activations]) -> None:
    """Refuses a number of features where no model has layers of sparse features.

    Raises:
        InputError: so it is.
    """
    layers = (layer for model in models for layer in model.layers.values())
    if width is not None and not any(isinstance(layer, SparseLayer) for layer in layers):
        raise InputError("width: is for sparse features, and none were given; leave it out")


def in_sparse_layers(layers: Sequence[Layer]) -> list[SparseLayer] | None:
    """The layers, where all are of sparse features; None where one is not."""
    sparse = [layer for layer in layers if isinstance(layer, SparseLayer)]
    return sparse if len(sparse) == len(layers) else None


def _with_remedy(error: ValueError) -> str:
    text = str(error)
    return text if ";" in text else f"{text}; write it again"
