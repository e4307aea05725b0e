"""Layers of several stores joined one after another, as a pattern of files says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from univfast.errors import InputError
from univfast.inputs.file_names import FileName
from univfast.inputs.layers import LONE_LAYER, Activations, Layer, collect, fingerprint
from univfast.inputs.natural import natural_key
from univfast.inputs.numbering import check_layers_alike, check_numbers
from univfast.inputs.shards import pieces

__all__ = ["JoinedLayer", "open_joined"]


class JoinedLayer:
    """A `Layer` whose tokens are those of some layers, one after another."""

    def __init__(self, name: str, parts: Sequence[Layer], files: Sequence[str]) -> None:
        """Raises InputError, naming two files: parts of other widths or dtypes."""
        first = parts[0]
        for part, file in zip(parts, files, strict=True):
            if (part.neurons, part.dtype) != (first.neurons, first.dtype):
                raise InputError(
                    f"{files[0]} and {file}: layer {name!r} has {first.neurons} neurons of"
                    f" {first.dtype} and {part.neurons} of {part.dtype}; give parts of one layer"
                )
        self.name, self.dtype, self.neurons, self.device = (
            name,
            first.dtype,
            first.neurons,
            first.device,
        )
        self._parts = list(parts)
        self._ends = list(accumulate(part.tokens for part in parts))
        self.tokens = self._ends[-1]
        self.shape: tuple[int, ...] = (self.tokens, self.neurons)
        if len({part.shape[1:] for part in parts}) == 1:
            self.shape = (sum(part.shape[0] for part in parts), *first.shape[1:])

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        found = [part.read(low, high) for part, low, high in self._pieces(start, stop)]
        if not found:
            return torch.empty(0, self.neurons, dtype=self.dtype, device=self.device)
        return found[0] if len(found) == 1 else torch.cat(found)

    def prepare(self, start: int, stop: int) -> None:
        for part, low, high in self._pieces(start, stop):
            part.prepare(low, high)

    def release(self, start: int, stop: int) -> None:
        for part, low, high in self._pieces(start, stop):
            part.release(low, high)

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Layer, int, int]]:
        return pieces(self._parts, self._ends, start, stop)


def open_joined(
    path: str,
    names: Sequence[FileName],
    has_layer: bool,
    open_one: Callable[[str], Activations | None],
) -> Activations:
    """The layers of stores that a pattern of files names, each opened as it is by itself.

    Args:
        path: of the directory.
        names: what the pattern says of each file, in the order in which they are joined.
        has_layer: whether it says the layer of each.
        open_one: opens a file; None where it is no store.

    Raises:
        InputError: files of other kinds among them, several layers where the pattern says one, or
            shards, masks or token ids that some have and others not.
    """
    opened = {name.file: _store(name.file, open_one) for name in names}
    of_layer: defaultdict[str, list[FileName]] = defaultdict(list)
    parts: defaultdict[str, list[Layer]] = defaultdict(list)
    for name in names:
        layers = opened[name.file].layers
        if has_layer and len(layers) != 1:
            raise InputError(
                f"{name.file}: holds {len(layers)} layers ({', '.join(map(repr, [*layers][:3]))}),"
                " and files= says by {layer} which it is; put * for {layer}"
            )
        for own, layer in layers.items():
            called = (name.layer or LONE_LAYER) if has_layer else own
            parts[called].append(layer)
            of_layer[called].append(replace(name, layer=called))
    for called, own_names in of_layer.items():
        check_numbers(called, own_names, {}, lone=has_layer)
    check_layers_alike(path, of_layer)
    ordered = {name: parts[name] for name in sorted(parts, key=natural_key)}
    found = collect(
        path,
        ordered,
        lambda name, of: JoinedLayer(name, of, [x.file for x in of_layer[name]]),
    )
    keep, ids = (_joined(path, list(of_layer.values()), opened, what) for what in ("keep", "ids"))
    return replace(found, keep=keep, ids=ids)


def _store(file: str, open_one: Callable[[str], Activations | None]) -> Activations:
    found = open_one(file)
    if found is None:
        raise InputError(
            f"{file}: is no store as other files of the pattern are; have files= match one kind"
        )
    return found


def _joined(
    path: str, layers: Sequence[Sequence[FileName]], opened: dict[str, Activations], what: str
) -> torch.Tensor | None:
    """The masks, or token ids, of the stores one after another: the same for every layer.

    Raises:
        InputError: some stores have them, or they differ between layers.
    """
    every = [[getattr(opened[name.file], what) for name in names] for names in layers]
    if all(x is None for values in every for x in values):
        return None
    if any(x is None for values in every for x in values):
        kind = "a mask" if what == "keep" else "token ids"
        raise InputError(f"{path}: some files have {kind} and others not; have all of them alike")
    joined = [torch.cat(values) for values in every]
    if not all(x.equal(joined[0]) for x in joined):
        kind = "masks" if what == "keep" else "token ids"
        raise InputError(f"{path}: layers have other {kind}; choose layers of the same tokens")
    return joined[0]
