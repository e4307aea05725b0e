"""What callers see of activations: layers that are read slice by slice, wherever they lie."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.arrays import check_dtype
from univfast.inputs.stored import Stored
from univfast.machine.digests import bytes_of
from univfast.native.place import numbers

__all__ = [
    "LONE_LAYER",
    "Activations",
    "Layer",
    "StoredLayer",
    "check_by_name",
    "check_layer",
    "collect",
    "fingerprint",
    "fingerprint_of",
]

T = TypeVar("T")

LONE_LAYER = "activations"
# Tokens that tell one set of activations from another: first, last and some between.
_SAMPLES = 16
# Bytes that tokens are spread over, for each of theirs, up to which all are brought ahead: of an
# array whose first axis is neurons, the tokens of a slice lie all over the file.
_SPREAD = 2
# What is stored beside the numbers of features, in an order of its own for each token.
_RANKS = re.compile(r"(.+[./_-])?top_?k?_(acts|activations|values|vals)")
# These numbers, or the rows of entries: converted to a dtype of activations they are none.
_NUMBERS = re.compile(r"(.+[./_-])?(indices|idx|inds|indptr|locations)")
# Characters of a layer's name: what reads CSV takes 131,072 in a cell, and a name is no text.
_LONGEST_NAME = 10_000


class Layer(Protocol):
    """One layer's activations ``[..., neurons]``, seen as ``[tokens, neurons]``.

    Attributes: ``name``; ``tokens`` and ``neurons``, both at least 1; ``dtype``; ``shape``, that
    of the array as it was found; ``device``, where they are.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def neurons(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Tokens ``start`` to ``stop``, ``[stop - start, neurons]``, neurons with stride 1.

        In place wherever the layout permits, else a copy of this slice alone. Never write to it:
        it may be the user's own memory, or a file that is mapped read-only.
        """

    def prepare(self, start: int, stop: int) -> None:
        """These tokens will be read next: begin to bring them, without waiting."""

    def release(self, start: int, stop: int) -> None:
        """The caller is done with these tokens: give back what memory they take.

        They can be read again, and slices of files read before stay valid.

        Raises:
            InputError: their file was written to in the meantime.
        """

    def fingerprint(self) -> bytes:
        """Tells these activations from others: a digest of name, shape, dtype and some values."""


class StoredLayer:
    """A `Layer` of an array in memory, or in place in a mapped file."""

    def __init__(self, name: str, stored: Stored, source: str) -> None:
        """Raises InputError, naming ``source`` and the layer, for what cannot be activations."""
        self.name = name
        self.dtype = stored.read_as
        self.shape = tuple(stored.data.shape)
        check_layer(name, self.dtype, self.shape, source)
        self.neurons = self.shape[-1]
        self.tokens = math.prod(self.shape[:-1])
        self._stored, self._source = stored, source
        self._data = _flat(stored.data)  # [tokens, neurons] where the strides allow it

    def along(self, axis: int) -> StoredLayer:
        """The same array, with neurons on another axis; not copied."""
        data = self._stored.data
        moved = (
            data.movedim(axis, -1)
            if isinstance(data, torch.Tensor)
            else np.moveaxis(data, axis, -1)
        )
        return StoredLayer(self.name, replace(self._stored, data=moved), self._source)

    @property
    def device(self) -> torch.device:
        """Where the activations are."""
        return self._data.device if isinstance(self._data, torch.Tensor) else torch.device("cpu")

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        if self._stored.mapped is not None:
            self._stored.mapped.check()
        rows = self._rows(start, stop)
        if not isinstance(rows, torch.Tensor):
            rows = self._stored.copy_rows(rows)
        if self._stored.quantiser is not None:
            return self._stored.quantiser.floats(rows)
        if rows.stride(1) != 1 and self.neurons == 1:
            rows = rows.as_strided((stop - start, 1), (rows.stride(0), 1))
        rows = rows.resolve_neg()
        return rows if rows.stride(1) == 1 else rows.contiguous()

    def prepare(self, start: int, stop: int) -> None:
        mapped = self._stored.mapped
        if mapped is not None and start < stop:
            first, last = self._addresses(start, stop)
            row = self.neurons * self.dtype.itemsize
            if last - first <= _SPREAD * (stop - start) * row:
                mapped.prepare(first, last)

    def release(self, start: int, stop: int) -> None:
        mapped = self._stored.mapped
        if mapped is not None and start < stop:
            mapped.check()  # or what was made of these tokens may be of two files
            mapped.release(*self._addresses(start, stop))

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _rows(self, start: int, stop: int) -> torch.Tensor | NDArray[Any]:
        data, leading = self._data, self._data.shape[:-1]
        if len(leading) == 1:
            return data[start:stop]
        if isinstance(data, torch.Tensor):
            tokens = numbers(start, stop, device=data.device)
            return data[torch.unravel_index(tokens, leading)]
        return data[np.unravel_index(np.arange(start, stop), leading)]

    def _addresses(self, start: int, stop: int) -> tuple[int, int]:
        """First and last byte address + 1 of these tokens, or a little around them."""
        inner = math.prod(self._data.shape[1:-1])
        part = self._data[start // inner : (stop - 1) // inner + 1]
        if isinstance(part, torch.Tensor):
            low, size = part.data_ptr(), part.element_size()
            strides = [stride * size for stride in part.stride()]
        else:
            low, size, strides = part.ctypes.data, part.itemsize, list(part.strides)
        last = sum((n - 1) * stride for n, stride in zip(part.shape, strides, strict=True))
        return low, low + last + size  # a file's strides are never negative


def fingerprint(layer: Layer) -> bytes:
    """What `Layer.fingerprint` is: of layers that can be read anywhere."""
    digest = hashlib.sha256(repr((layer.name, layer.shape, str(layer.dtype))).encode())
    for i in range(_SAMPLES):
        token = i * (layer.tokens - 1) // (_SAMPLES - 1)
        values = bytes_of(layer.read(token, token + 1).cpu())
        digest.update(values.numpy().tobytes())
        layer.release(token, token + 1)
    return digest.digest()


def fingerprint_of(model: Activations) -> str | None:
    """Tells activations from others, in 16 digits; None of a model that is running."""
    if model.about is not None:
        return None
    digest = hashlib.sha256()
    for layer in model.layers.values():
        digest.update(layer.fingerprint())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Activations:
    """The activations of one model, by layer name.

    Attributes:
        name: the file as the user named it, or the argument.
        layers: at least one.
        test_set: names the test set that a model file's activations were captured on; None for all
            other sources.
        unusable: arrays beside the layers that cannot be activations (token numbers, say), with the
            reason.
        window: slices to read begin at multiples of so many tokens.
        most: tokens to read at a time, at most; None where only memory bounds them.
        captured: what the directory of a capture says of the tokens that it holds (``text``, a
            digest of their windows; ``kept``, a digest of which are held; and the options that both
            follow from); None for all other sources.
        about: of a live model, its ``hooks`` and what it reads, as plain values to report; None for
            all that is stored.
        ids: of the tokens that a live model reads, int ``[tokens]``; None where they are not known.
        places: where tokens of the text are left out, the sample of each that is there and its
            position in it, int64 ``[tokens, 2]``; None where none is, or that is not known.
        text: what one of those ids stands for; None where that is not known.
        keep: of a store that has a mask of its own, the tokens that count, bool ``[tokens]``; None
            where all do.
        parts: which shards the files of a directory are, by their names; of all layers.
        by_pattern: whether the user's pattern of files says which layer each is.
        reading: why it is read as it is: lines for people.
        origin: of what was fetched from the hub, its name there and the commit; None else.
        made_of: arrays that a layer of sparse features is made of, by name: that of the layer.
        begin, end: called before and after tokens of the layers are read in a pass, by what is made
            to be read and then given back; None for what is there anyway.
    """

    name: str
    layers: dict[str, Layer]
    test_set: str | None = None
    unusable: dict[str, InputError] = field(default_factory=dict)
    window: int = 1
    most: int | None = None
    captured: Mapping[str, object] | None = None
    about: Mapping[str, object] | None = None
    ids: torch.Tensor | None = None
    places: torch.Tensor | None = None
    text: Callable[[int], str] | None = None
    keep: torch.Tensor | None = None
    parts: tuple[str, ...] = ()
    by_pattern: bool = False
    reading: tuple[str, ...] = ()
    origin: Mapping[str, object] | None = None
    made_of: Mapping[str, str] = field(default_factory=dict)
    begin: Callable[[], None] | None = None
    end: Callable[[], None] | None = None


def collect(
    name: str,
    found: Mapping[str, T | InputError],
    make: Callable[[str, T], Layer],
    test_set: str | None = None,
    unusable: Mapping[str, InputError] | None = None,
) -> Activations:
    """The activations ``name`` of whatever ``make`` makes a layer of.

    An error in the place of a layer, and what ``make`` refuses with one, joins ``unusable``. Raises
    the first of these errors where no layer is left.
    """
    layers: dict[str, Layer] = {}
    refused = dict(unusable or {})
    for layer, content in found.items():
        try:
            if isinstance(content, InputError):
                raise content
            layers[layer] = make(layer, content)
        except InputError as error:  # noqa: PERF203
            refused[layer] = error
    if not layers:
        if refused:
            raise next(iter(refused.values()))
        raise InputError(f"{name}: holds no layers; give at least one")
    return Activations(name, layers, test_set, refused)


def check_layer(name: str, dtype: torch.dtype, shape: tuple[int, ...], source: str) -> None:
    """Raises InputError, naming ``source`` and the layer, for what cannot be activations."""
    where = f"{source}: layer {name!r}"
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} has a name that is not Unicode; rename it") from None
    if len(name) > _LONGEST_NAME:
        raise InputError(
            f"{source}: layer {name[:40]!r}... has a name of {len(name)} characters; give it one "
            f"of {_LONGEST_NAME} at most"
        )
    check_by_name(name, where)
    check_dtype(dtype, where)
    if len(shape) < 2:
        raise InputError(
            f"{where} has shape {list(shape)}; expected [..., neurons] with at least 2 axes"
        )
    if shape[-1] == 0:
        raise InputError(f"{where} has shape {list(shape)}, so no neurons; give at least one")
    if 0 in shape:
        raise InputError(f"{where} has shape {list(shape)}, so no tokens; give at least one")


def check_by_name(name: str, where: str) -> None:
    """Raises InputError, which ``where`` begins, for what is no neurons by its name."""
    if _RANKS.fullmatch(name):
        raise InputError(
            f"{where} holds, by its name, the largest values of each token, so that a column is a"
            " rank and no neuron; save the numbers of their features beside, as top_indices in one"
            " file, or rename it"
        )
    if _NUMBERS.fullmatch(name):
        raise InputError(
            f"{where} holds, by its name, numbers of features or tokens, and no activations; save"
            " integers, int64 or narrower, beside the values that they belong to, as top_indices"
            " and top_acts in one file, or rename it"
        )


def _flat(data: torch.Tensor | NDArray[Any]) -> torch.Tensor | NDArray[Any]:
    """``[tokens, neurons]`` in place, or ``data`` where its strides do not allow that."""
    if isinstance(data, torch.Tensor):
        try:
            return data.view(-1, data.shape[-1])
        except RuntimeError:
            return data
    return data.reshape(-1, data.shape[-1]) if data.flags.c_contiguous else data
