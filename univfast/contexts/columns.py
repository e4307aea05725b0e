"""The activations of chosen pairs: their columns alone, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from univfast.contexts.chosen import Chosen, columns_by_layer
from univfast.errors import InputError
from univfast.inputs.layers import LONE_LAYER, Activations, Layer
from univfast.runs.passes import READ_BYTES, opened, prepare

__all__ = ["ROW", "Columns", "PairColumns", "Slice", "StoredColumns"]

_LEAST_TOKENS = 1024  # of a slice
ROW = 64
"""Tokens that stand for a sample, where samples are not known."""


@dataclass(frozen=True)
class Slice:
    """Some tokens of a run.

    Attributes:
        start: the number of the first.
        keep: bool ``[tokens]``, true for those that count; None for all.
        a, b: activations of each pair, ``[tokens, pairs]``, contiguous; float64 where a layer is,
            else float32.
    """

    start: int
    keep: Tensor | None
    a: Tensor
    b: Tensor


class Columns:
    """The neurons of one side of pairs.

    Args:
        activations: of the model.
        neurons: layer and number of each.
        side: what to call the argument in errors.

    Raises:
        InputError: there is no such neuron.
    """

    def __init__(
        self, activations: Activations, neurons: Sequence[tuple[str, int]], side: str
    ) -> None:
        self._count = len(neurons)
        self._parts: list[tuple[Layer, Tensor, Tensor]] = []
        for name, (places, own) in columns_by_layer(neurons).items():
            layer = _named(activations, name, side)
            if int(own.max()) >= layer.neurons:
                raise InputError(
                    f"{side}: layer {name!r} has {layer.neurons} neurons, and the result one of"
                    f" number {int(own.max())}; give the activations that the result is of"
                )
            self._parts.append((layer, places, own.to(layer.device)))
        self.layers = [layer for layer, _, _ in self._parts]
        wide = any(layer.dtype == torch.float64 for layer in self.layers)
        self._dtype = torch.float64 if wide else torch.float32

    def read(self, start: int, stop: int) -> Tensor:
        """``[stop - start, neurons]``."""
        found = torch.empty(stop - start, self._count, dtype=self._dtype, device="cpu")
        for layer, places, own in self._parts:
            rows = layer.read(start, stop)
            found[:, places] = rows.index_select(1, own).to(device="cpu", dtype=self._dtype)
        for layer in self.layers:
            layer.release(start, stop)
        return found


class PairColumns(Protocol):
    """Activations of chosen pairs, which can be gone through several times.

    Attributes:
        tokens: of the run.
        sample: tokens of a sample, or of what stands for one; slices are of whole samples, but for
            the last.
    """

    @property
    def tokens(self) -> int: ...
    @property
    def sample(self) -> int: ...

    def slices(self, progress: Callable[[int], None]) -> Iterator[Slice]:
        """All tokens, in order; ``progress`` is called with how many are done."""


class StoredColumns:
    """The `PairColumns` of layers.

    Args:
        a, b: activations of both models.
        chosen: the pairs, at least one.
        keep: bool ``[tokens]``, true for the tokens that count; None for all.
        window: tokens of a sample; 1 where it is not known.

    Raises:
        InputError: there are no such neurons.
    """

    def __init__(
        self, a: Activations, b: Activations, chosen: Chosen, keep: Tensor | None, window: int
    ) -> None:
        self._models = (a, b)
        self._sides = (Columns(a, chosen.a, "a"), Columns(b, chosen.b, "b"))
        self._keep = keep
        self._layers = [layer for side in self._sides for layer in side.layers]
        self.tokens = self._layers[0].tokens
        row = max(sum(x.neurons * x.dtype.itemsize for x in side.layers) for side in self._sides)
        most = min((x.most for x in self._models if x.most is not None), default=self.tokens)
        tokens = min(max(_LEAST_TOKENS, READ_BYTES // max(row, 16 * len(chosen))), most)
        self.sample = window if window > 1 else ROW
        self._step = max(1, tokens // self.sample) * self.sample

    def slices(self, progress: Callable[[int], None]) -> Iterator[Slice]:
        """All tokens, in order; ``progress`` is called with how many are done."""
        with opened(self._models):
            for start in range(0, self.tokens, self._step):
                stop = min(start + self._step, self.tokens)
                if stop < self.tokens:
                    prepare(self._layers, (stop, min(stop + self._step, self.tokens)))
                keep = None if self._keep is None else self._keep[start:stop].cpu()
                a, b = (side.read(start, stop) for side in self._sides)
                yield Slice(start, keep, a, b)
                progress(stop)


def _named(activations: Activations, name: str, side: str) -> Layer:
    """A layer; a lone one without a name of its own is the only one."""
    found = activations.layers.get(name)
    if found is None and len(activations.layers) == 1:
        (only,) = activations.layers.values()
        found = only if LONE_LAYER in (name, only.name) else None
    if found is None:
        raise InputError(
            f"{side}: {activations.name} has no layer {name!r}, as the result has; give the"
            " activations that the result is of"
        )
    return found
