"""A layer that lies in many files, few of which are open at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from threading import Lock
from typing import TypeVar

import torch

from univfast.errors import InputError
from univfast.inputs.layers import StoredLayer, check_layer, fingerprint
from univfast.inputs.mapping import MappedFile
from univfast.inputs.stored import Place
from univfast.machine.reading import reason

__all__ = ["OpenFiles", "Shard", "ShardedLayer", "pieces"]

P = TypeVar("P")

# Files of a directory. Each takes a file descriptor, of which a process may have 1,024 or fewer;
# to map one anew takes some 50 microseconds, so that more layers than this, each with a file of
# its own, cost nothing that could be measured.
_OPEN = 16


class OpenFiles:
    """The files of a directory: those that were used last are mapped. For several threads.

    A tensor that lies in a file keeps it mapped, also when it is no longer among these.
    """

    def __init__(self) -> None:
        self._states: dict[str, tuple[int, int, int]] = {}
        self._mapped: OrderedDict[str, MappedFile] = OrderedDict()
        self._lock = Lock()

    def note(self, path: str) -> None:
        """Remembers what the file is now, before its header is read.

        Raises:
            InputError: there is no such file.
        """
        self._states[path] = _state(path)

    def map(self, path: str) -> MappedFile:
        """The file, which was noted.

        Raises:
            InputError: it cannot be opened, or is no longer the file that it was.
        """
        with self._lock:
            if path not in self._mapped:
                self._mapped[path] = self._open(path)
            self._mapped.move_to_end(path)
            if len(self._mapped) > _OPEN:
                self._mapped.popitem(last=False)
            return self._mapped[path]

    def mapped(self, path: str) -> MappedFile | None:
        """The file, if it is mapped now."""
        with self._lock:
            return self._mapped.get(path)

    def _open(self, path: str) -> MappedFile:
        if _state(path) != self._states[path]:
            raise InputError(
                f"{path}: changed since it was opened; let nothing write to the directory, and "
                "start again"
            )
        try:
            return MappedFile(path)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: {reason(error)}; check the file") from error


def _state(path: str) -> tuple[int, int, int]:
    """What tells a file from what it is once written again: so shapes and types need no look."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # such as of a NUL
        raise InputError(f"{path}: {reason(error)}; check the file") from error
    return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass(frozen=True, slots=True)
class Shard:
    """One array ``[..., neurons]`` of a layer, and the file that it is in."""

    path: str
    place: Place

    @property
    def tokens(self) -> int:
        return prod(self.place.shape[:-1])


class ShardedLayer:
    """A `Layer` of arrays in files, one after the other along their first axis.

    A slice within one array is read in place, a longer one copied. Beside the slices that were read
    and not released, it keeps no more in memory than the headers of the files that are open.
    """

    device = torch.device("cpu")

    def __init__(self, name: str, shards: Sequence[Shard], files: OpenFiles) -> None:
        """Raises InputError, naming the files, for what cannot be one layer's activations."""
        self.name = name
        for shard in shards:
            check_layer(name, shard.place.read_as, shard.place.shape, shard.path)
        first = shards[0].place
        for shard in shards:
            if _kind(shard) != _kind(shards[0]):
                raise InputError(
                    f"{shards[0].path} and {shard.path}: layer {name!r} is {_described(first)} in "
                    f"the one and {_described(shard.place)} in the other; give all shards one "
                    "width and dtype"
                )
        self.dtype = first.read_as
        self.neurons = first.shape[-1]
        self._shards = shards
        self._ends = list(accumulate(shard.tokens for shard in shards))
        self.tokens = self._ends[-1]
        self.shape: tuple[int, ...] = (self.tokens, self.neurons)
        if len({shard.place.shape[1:] for shard in shards}) == 1:
            self.shape = (sum(shard.place.shape[0] for shard in shards), *first.shape[1:])
        self._files = files

    def along(self, axis: int) -> ShardedLayer:
        """The same arrays, with neurons on another axis of each.

        Raises:
            InputError: on the first one, along which shards are joined.
        """
        parts = []
        for shard in self._shards:
            place = shard.place
            order = [x for x in range(len(place.shape)) if x != axis % len(place.shape)]
            order.append(axis % len(place.shape))
            if order[-1] == 0 and len(self._shards) > 1:
                raise InputError(
                    f"axis: is {axis}, the first of layer {self.name!r} {list(place.shape)}, along"
                    f" which its {len(self._shards)} files are joined; save neurons on another axis"
                )
            shape, strides = ([x[i] for i in order] for x in (place.shape, place.strides))
            parts.append(
                replace(shard, place=replace(place, shape=tuple(shape), strides=tuple(strides)))
            )
        return ShardedLayer(self.name, parts, self._files)

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            ((shard, low, high),) = pieces
            return self._layer(shard, self._files.map(shard.path)).read(low, high)
        copy = torch.empty(stop - start, self.neurons, dtype=self.dtype, device="cpu")
        row = 0
        # One piece at a time, as each keeps its file open.
        for shard, low, high in pieces:
            piece = self._layer(shard, self._files.map(shard.path)).read(low, high)
            copy[row : row + len(piece)] = piece
            row += len(piece)
        return copy

    def prepare(self, start: int, stop: int) -> None:
        for shard, low, high in self._pieces(start, stop):
            self._layer(shard, self._files.map(shard.path)).prepare(low, high)

    def release(self, start: int, stop: int) -> None:
        for shard, low, high in self._pieces(start, stop):
            # The pages of a file that is no longer mapped are given back.
            if mapped := self._files.mapped(shard.path):
                self._layer(shard, mapped).release(low, high)

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _layer(self, shard: Shard, mapped: MappedFile) -> StoredLayer:
        return StoredLayer(self.name, shard.place.map(mapped), shard.path)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        return pieces(self._shards, self._ends, start, stop)


def pieces(
    parts: Sequence[P], ends: Sequence[int], start: int, stop: int
) -> Iterator[tuple[P, int, int]]:
    """The parts that hold these tokens, and which of their own tokens these are.

    Args:
        parts: one after another.
        ends: of each, the tokens up to its end.
        start: the first of the tokens of all.
        stop: the one behind the last.
    """
    at = bisect_right(ends, start)
    while start < stop:
        begin = ends[at - 1] if at else 0
        yield parts[at], start - begin, min(stop, ends[at]) - begin
        start, at = ends[at], at + 1


def _kind(shard: Shard) -> tuple[torch.dtype, int]:
    return shard.place.read_as, shard.place.shape[-1]


def _described(place: Place) -> str:
    return f"{str(place.read_as).removeprefix('torch.')} {list(place.shape)}"
