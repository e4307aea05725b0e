"""Sparse features as layers: what is there of each token is made dense slice by slice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NoReturn

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Layer, StoredLayer, check_layer, fingerprint
from univfast.inputs.sparse_entries import Entries
from univfast.inputs.stored import Stored

__all__ = ["Part", "SparseLayer", "SparseStored", "as_layer"]

# Entries that tell one list from another, at so many places.
_SAMPLES, _SAMPLED = 16, 256


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
