"""An array of another library, in chunks or not, as a layer that is read slice by slice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.layers import Activations, check_layer, collect, fingerprint
from univfast.inputs.natural import natural_key
from univfast.stores.companions import IDS, MASKS, companion, flags_of, ids_of, other_masks

__all__ = ["Array", "Blocks", "Guard", "open_arrays"]

# Bytes of chunks that were decoded, which the next slices need too: of one array, and of all.
_MOST_BLOCK, _MOST_BLOCKS = 128 << 20, 256 << 20
_FLOATS = {8: torch.float64, 4: torch.float32, 2: torch.float16}

Guard = Callable[[], AbstractContextManager[None]]
"""What an array is read within: it makes one line of whatever goes wrong."""


class Array(Protocol):
    """What arrays of h5py and zarr have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunks(self) -> tuple[int, ...] | None: ...
    @property
    def attrs(self) -> Mapping[str, Any]: ...
    def __getitem__(self, index: Any) -> Any: ...


class Blocks:
    """Rows of arrays that were decoded last, up to a number of bytes. For several threads."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, name: str, number: int, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A block of an array by its number, which ``read`` gives where it is not there."""
        with self._lock:
            key = name, number
            if key not in self._blocks:
                block = read()
                self._blocks[key] = block
                self._bytes += block.nbytes
                while self._bytes > _MOST_BLOCKS:
                    _, old = self._blocks.popitem(last=False)
                    self._bytes -= old.nbytes
            self._blocks.move_to_end(key)
            return self._blocks[key]

    def drop(self, name: str, first: int) -> None:
        """Forgets the blocks of an array before this one, which are not read on from."""
        with self._lock:
            for key in [x for x in self._blocks if x[0] == name and x[1] < first]:
                self._bytes -= self._blocks.pop(key).nbytes


@dataclass(frozen=True)
class _Kept:
    """An array that is a layer, and what its values are."""

    array: Array
    dtype: torch.dtype


class ChunkedLayer:
    """A `Layer` of an array ``[..., neurons]``.

    Blocks of whole chunks are kept while slices of them are read, where they are small enough.
    """

    device = torch.device("cpu")

    def __init__(self, name: str, kept: _Kept, source: str, blocks: Blocks, guard: Guard) -> None:
        """Raises InputError, naming ``source`` and the array, for what cannot be activations."""
        self.name, self.dtype = name, kept.dtype
        self.shape = tuple(int(n) for n in kept.array.shape)
        check_layer(name, self.dtype, self.shape, source)
        self.neurons = self.shape[-1]
        self.tokens = prod(self.shape[:-1])
        self._array, self._blocks, self._guard = kept.array, blocks, guard
        chunks = kept.array.chunks
        self._block = 0 if chunks is None else int(chunks[0]) * prod(self.shape[1:-1])
        if self._block * self.neurons * self.dtype.itemsize > _MOST_BLOCK:
            self._block = 0

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        with self._guard():
            if not self._block:
                return self._rows(start, stop)
            parts = [torch.empty(0, self.neurons, dtype=self.dtype, device="cpu")]
            while start < stop:
                number, low = divmod(start, self._block)
                begin = number * self._block
                high = min(stop - begin, self._block)
                end = min(begin + self._block, self.tokens)

                def read(begin: int = begin, end: int = end) -> torch.Tensor:
                    return self._rows(begin, end)

                parts.append(self._blocks.get(self.name, number, read)[low:high])
                start = begin + high
            return parts[1] if len(parts) == 2 else torch.cat(parts)

    def prepare(self, start: int, stop: int) -> None:
        pass

    def release(self, start: int, stop: int) -> None:
        with self._guard():
            if self._block:
                self._blocks.drop(self.name, stop // self._block)

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        found = torch.empty(stop - start, self.neurons, dtype=self.dtype, device="cpu")
        at = 0
        for piece in self._pieces((), self.shape[:-1], start, stop):
            rows = piece.reshape(-1, self.neurons)
            native = rows.astype(rows.dtype.newbyteorder("="), order="C")
            if self.dtype == torch.bfloat16:
                native = native.view(np.int16)
            found[at : at + len(rows)] = torch.from_numpy(native).view(self.dtype)
            at += len(rows)
        return found

    def _pieces(
        self, prefix: tuple[int, ...], leading: tuple[int, ...], start: int, stop: int
    ) -> Iterator[NDArray[Any]]:
        """The tokens of the part at ``prefix``, nothing else read, in as few parts as may be."""
        if len(leading) == 1:
            yield self._part((*prefix, slice(start, stop)))
            return
        inner = prod(leading[1:])
        (first, low), (last, high) = divmod(start, inner), divmod(stop, inner)
        if low:
            end = min(stop - first * inner, inner)
            yield from self._pieces((*prefix, first), leading[1:], low, end)
            first += 1
        if first < last:
            yield self._part((*prefix, slice(first, last)))
        if high and first <= last:
            yield from self._pieces((*prefix, last), leading[1:], 0, high)

    def _part(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self._array[index])


def open_arrays(source: str, arrays: Mapping[str, Array], guard: Guard, what: str) -> Activations:
    """The arrays of a file or a directory by path, in natural order.

    Arrays of float64, float32 or float16 with two axes or more are layers; so are the bits of
    bfloat16, 16-bit integers whose attribute ``dtype`` says so. ``mask`` or ``attention_mask`` says
    which tokens count, ``tokens``, ``token_ids`` or ``input_ids`` which they are. Other numbers
    with two axes or more cannot be activations; all else is passed over.

    Args:
        source: what begins errors.
        arrays: by path.
        guard: what they are read within.
        what: they are of, for `Activations.reading`.

    Raises:
        InputError: there are no activations, or they do not go together.
    """
    mask, ids = (companion(source, arrays, names) for names in (MASKS, IDS))
    blocks = Blocks()
    layers: dict[str, _Kept] = {}
    unusable: dict[str, InputError] = {}
    passed = []
    for name in sorted(arrays, key=natural_key):
        array = arrays[name]
        if name in (mask, ids):
            continue
        dtype = _dtype(array)
        if len(array.shape) < 2 or array.dtype.kind not in "fiu":
            passed.append(name)
        elif dtype is None:
            unusable[name] = _unusable(source, name, array)
        else:
            layers[name] = _Kept(array, dtype)
    unusable |= other_masks(source, passed)
    passed = [name for name in passed if name not in unusable]
    if not layers and not unusable:
        raise InputError(
            f"{source}: holds no arrays [..., neurons]; there are {', '.join(arrays) or 'none'}"
            "; save activations as such"
        )
    found = collect(
        source,
        layers,
        lambda name, kept: ChunkedLayer(name, kept, source, blocks, guard),
        unusable=unusable,
    )
    shape = next(iter(found.layers.values())).shape[:-1]
    lines = [f"{what}: {len(found.layers)} of {len(arrays)} arrays are layers, by path"]
    keep = known = None
    with guard():
        if mask is not None:
            keep = flags_of(np.asarray(arrays[mask][()]), shape, f"{source}: {mask!r}")
            lines.append(f"{mask!r}: the tokens that count, {int(keep.sum())} of {len(keep)}")
        if ids is not None:
            known = ids_of(np.asarray(arrays[ids][()]), shape, f"{source}: {ids!r}")
            lines.append(f"{ids!r}: token ids")
    if passed:
        lines.append(f"passed over: {', '.join(map(repr, passed))}")
    return replace(found, keep=keep, ids=known, reading=tuple(lines))


def _dtype(array: Array) -> torch.dtype | None:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        return _FLOATS.get(size)
    return torch.bfloat16 if kind in "iu" and size == 2 and _is_bfloat16(array) else None


def _is_bfloat16(array: Array) -> bool:
    said = array.attrs.get("dtype")
    said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return isinstance(said, str) and said.removeprefix("torch.") == "bfloat16"


def _unusable(source: str, name: str, array: Array) -> InputError:
    remedy = "convert it to float32"
    if array.dtype.itemsize == 2:
        remedy += ", or if these are the bits of bfloat16, set its attribute dtype to 'bfloat16'"
    return InputError(f"{source}: {name!r} has dtype {array.dtype}; {remedy}")
