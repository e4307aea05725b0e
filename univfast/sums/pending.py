"""Tokens of two models on their way into sums: they wait until there are enough for a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.sums.batches import PairOrigin, bad_value

__all__ = ["Pending", "Sums"]


class Sums(Protocol):
    """What a chunk of two models' tokens can be added to."""

    tokens: int

    def add(
        self, a: Sequence[Tensor], b: Sequence[Tensor], moments_a: Tensor, moments_b: Tensor
    ) -> None: ...


class Pending:
    """Tokens that wait for a chunk to be full.

    Chunks end at the same tokens for any batches, so the bits of sums do not depend on how these
    are cut. What changes sums is done within ``wholly``, as the owner of both has it.

    Args:
        a, b: layouts of what is added.
        chunk: tokens of one.
        threads: at most this many.
        numbers: in each layer of A, of the neurons that are added of it; None for all.

    Attributes:
        tokens: that wait.
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        chunk: int,
        threads: int,
        numbers: Sequence[Tensor] | None = None,
    ) -> None:
        self.tokens = 0
        self._numbers = numbers
        self._a, self._b, self._chunk, self._threads = a, b, chunk, threads
        self._buffers: list[Tensor] = []

    def layers(self) -> list[Tensor]:
        """What waits, ``[tokens, width]`` of each layer of A, then of B; not copied."""
        return [buffer[: self.tokens] for buffer in self._buffers]

    def take(self, layers: Sequence[Tensor]) -> bool:
        """Copies tokens, no more than a chunk lacks; whether it is full then."""
        if self._dtypes() != [layer.dtype for layer in layers]:
            self._buffers = [layer.new_empty(self._chunk, layer.shape[1]) for layer in layers]
        stop = self.tokens + len(layers[0])
        for buffer, layer in zip(self._buffers, layers, strict=True):
            buffer[self.tokens : stop] = layer
        self.tokens = stop
        return stop == self._chunk

    def add(
        self,
        sums: Sums,
        layers: Sequence[Tensor],
        rows: Tensor | None,
        origin: PairOrigin,
        wholly: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Adds tokens ``[tokens, width]`` of each layer of A, then of B, chunk by chunk.

        Args:
            sums: what they are added to.
            layers: where the sums are.
            rows: their numbers in the batch; None for all of it.
            origin: names them in errors.
            wholly: the block that changes the sums.

        Raises:
            InputError: a NaN or infinity; nothing was added.
        """
        tokens = len(layers[0])
        if self.tokens and self._dtypes() != [x.dtype for x in layers]:
            self.flush(sums, wholly)
        ends = [*range(min(self._chunk - self.tokens, tokens), tokens, self._chunk), tokens]
        parts = [slice(i, j) for i, j in zip([0, *ends], ends, strict=False) if j > i]
        # All are looked at before any is added, so that a bad value leaves the sums as they were.
        moments = [self._moments(layers, part, rows, origin) for part in parts]
        with wholly():
            for part, measured in zip(parts, moments, strict=True):
                cut = [x[part] for x in layers]
                if self.tokens == 0 and part.stop - part.start == self._chunk:
                    sums.add(*self._sides(cut), *measured)
                elif self.take(cut):
                    self.flush(sums, wholly)

    def flush(self, sums: Sums, wholly: Callable[[], AbstractContextManager[None]]) -> None:
        """Adds the tokens that wait."""
        if self.tokens == 0:
            return
        layers = self.layers()
        moments = self._moments(layers, slice(0, self.tokens), None, PairOrigin())
        with wholly():
            sums.add(*self._sides(layers), *moments)
            self.tokens = 0

    def _dtypes(self) -> list[torch.dtype]:
        return [buffer.dtype for buffer in self._buffers]

    def _sides(self, layers: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        count = len(self._a.names)
        return layers[:count], layers[count:]

    def _moments(
        self, layers: Sequence[Tensor], part: slice, rows: Tensor | None, origin: PairOrigin
    ) -> list[Tensor]:
        """Mean and second moment of the neurons of A and of B, ``[2, neurons]`` each."""
        layouts, models = (self._a, self._b), (origin.a, origin.b)
        measured = []
        for side, own in enumerate(self._sides(layers)):
            found = []
            for i, x in enumerate(own):
                moments = native.neuron_moments(x[part], self._threads)
                if isinstance(moments, native.BadValue):
                    row = part.start + moments.token
                    token = origin.first_token + (row if rows is None else int(rows[row]))
                    if side == 0 and self._numbers is not None:
                        moments = moments._replace(neuron=int(self._numbers[i][moments.neuron]))
                    raise bad_value(moments, models[side], layouts[side].names[i], token)
                found.append(moments)
            measured.append(torch.cat(found, dim=1))
        return measured
