"""The state of some pairs of neurons alone, and how a chunk of tokens is added to it.

As `univfast.sums.co_moments`, which has all pairs: sums about the mean, in float64, merged by the
pairwise update of Chan, Golub and LeVeque (1983); a chunk is standardised by its own mean and a
power of two. Products are summed in float32 within a block of a chunk, unless the activations are
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine.processes import Processes
from univfast.native.place import numbers
from univfast.sums.candidate_pairs import Candidates, panels

__all__ = ["BLOCK_TOKENS", "CandidateMoments"]

# Tokens of a block, which float32 sums: as few as make up for the sums that each pair reads, and
# adds to, once a block.
BLOCK_TOKENS = 128


class _Side(NamedTuple):
    """How the neurons of a model are standardised in a chunk."""

    name: str
    layout: Layout
    mean: Tensor  # float64 [neurons]
    scale: Tensor


class CandidateMoments:
    """Moments of two models' neurons, and the co-moments of some pairs between them.

    Attributes:
        tokens: how many were added.
        mean_a, m2_a, mean_b, m2_b: float64 ``[neurons]``.
        cross: float64 ``[pairs]``, those of one panel after another.
    """

    def __init__(self, a: Layout, b: Layout, candidates: Candidates, threads: int) -> None:
        self.tokens = 0
        self._a, self._b, self._threads = a, b, threads
        self.mean_a, self.m2_a = _zeros(2, a.neurons)
        self.mean_b, self.m2_b = _zeros(2, b.neurons)
        self.cross = _zeros(len(candidates.places))
        self._panels = list(panels(candidates, b.neurons))
        self._buffers: dict[str, Tensor] = {}

    def add(
        self, a: Sequence[Tensor], b: Sequence[Tensor], moments_a: Tensor, moments_b: Tensor
    ) -> None:
        """Takes in a chunk of tokens, as `CoMoments.add`."""
        tokens = len(a[0])
        narrow = all(x.dtype != torch.float64 for x in (*a, *b))
        dtype = torch.float32 if narrow else torch.float64
        weight = self.tokens * (tokens / (self.tokens + tokens))
        deltas = moments_a[0] - self.mean_a, moments_b[0] - self.mean_b
        (scale_a, unscale_a), (scale_b, unscale_b) = (
            _scales(m2, tokens) for m2 in (moments_a[1], moments_b[1])
        )
        side_a = _Side("a", self._a, moments_a[0], scale_a)
        side_b = _Side("b", self._b, moments_b[0], scale_b)
        # The means are moved once, with the first block.
        moved = weight * deltas[0], deltas[1]
        for first in range(0, tokens, BLOCK_TOKENS):
            part = slice(first, min(first + BLOCK_TOKENS, tokens))
            x = self._block(side_a, a, part, slice(0, self._a.neurons), dtype)
            for columns, pairs, candidates in self._panels:
                y = self._block(side_b, b, part, columns, dtype)
                native.candidate_products(
                    x,
                    y,
                    candidates,
                    (unscale_a, unscale_b[columns]),
                    (moved[0], moved[1][columns]),
                    self.cross[pairs],
                    self._threads,
                )
            moved = torch.zeros_like(moved[0]), torch.zeros_like(moved[1])
        for mean, m2, delta, own in (
            (self.mean_a, self.m2_a, deltas[0], moments_a[1]),
            (self.mean_b, self.m2_b, deltas[1], moments_b[1]),
        ):
            m2 += own + weight * delta * delta
            mean += delta * (tokens / (self.tokens + tokens))
        self.tokens += tokens

    def reset(self) -> None:
        """Forgets every token, but keeps the memory."""
        self.tokens = 0
        for tensor in self.tensors().values():
            tensor.zero_()

    def merge(self, other: CandidateMoments) -> None:
        """Takes in the tokens of other sums of the same pairs."""
        tokens = self.tokens + other.tokens
        if other.tokens == 0:
            return
        weight = self.tokens * (other.tokens / tokens)
        delta_a, delta_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        self.cross += other.cross
        self._move(weight * delta_a, delta_b)
        self.m2_a += other.m2_a + weight * delta_a * delta_a
        self.m2_b += other.m2_b + weight * delta_b * delta_b
        self.mean_a += delta_a * (other.tokens / tokens)
        self.mean_b += delta_b * (other.tokens / tokens)
        self.tokens = tokens

    def reduce(self, processes: Processes, total: int, dst: int | None) -> None:
        """Adds the sums of several processes, ``total`` tokens: in all of them, or in ``dst``."""
        if total == 0:
            return
        deltas = []
        for mean, m2 in ((self.mean_a, self.m2_a), (self.mean_b, self.m2_b)):
            common = self.tokens * mean
            processes.add(common)
            common /= total
            delta = mean - common
            m2 += self.tokens * delta * delta
            mean.copy_(common)
            deltas.append(delta)
        self._move(self.tokens * deltas[0], deltas[1])
        for tensor in (self.cross, self.m2_a, self.m2_b):
            processes.add(tensor, dst)
        self.tokens = total
        if dst is not None and processes.rank != dst:
            self.reset()

    def correlations(self) -> Tensor:
        """Pearson's r of each pair, float64 ``[pairs]``, in the order of the candidates.

        NaN where either neuron is constant.
        """
        r = torch.empty_like(self.cross)
        norms = [torch.where(m2 > 0, m2.sqrt(), torch.nan) for m2 in (self.m2_a, self.m2_b)]
        # Where the next pair of each neuron of A stands among the candidates.
        counts = [panel.candidates.starts.diff() for panel in self._panels]
        total = torch.stack(counts).sum(dim=0)
        following = total.cumsum(dim=0) - total
        for panel, count in zip(self._panels, counts, strict=True):
            i, j = panel.neurons()
            at = numbers(len(i)) + (following - panel.candidates.starts[:-1])[i]
            # Two square roots, because the product of two sums can leave the range of float64.
            r[at] = (self.cross[panel.pairs] / norms[0][i] / norms[1][j]).clamp(-1.0, 1.0)
            following += count
        return r

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state by name, not copied."""
        return {
            "cross": self.cross,
            "mean_a": self.mean_a,
            "m2_a": self.m2_a,
            "mean_b": self.mean_b,
            "m2_b": self.m2_b,
        }

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The neurons of A and of B of each sum of `cross`, int64 ``[pairs]``."""
        found = [panel.neurons() for panel in self._panels]
        return torch.cat([i for i, _ in found]), torch.cat([j for _, j in found])

    def _move(self, delta_a: Tensor, delta_b: Tensor) -> None:
        """``cross[i, j] += delta_a[i] * delta_b[j]``."""
        for panel in self._panels:
            i, j = panel.neurons()
            self.cross[panel.pairs] += delta_a[i] * delta_b[j]

    def _block(
        self,
        side: _Side,
        layers: Sequence[Tensor],
        part: slice,
        columns: slice,
        dtype: torch.dtype,
    ) -> Tensor:
        """Some tokens of some neurons, standardised: ``[neurons, tokens]``."""
        name, neurons = f"{side.name} {dtype}", columns.stop - columns.start
        if name not in self._buffers or len(self._buffers[name]) < neurons:
            self._buffers[name] = torch.empty(neurons, BLOCK_TOKENS, dtype=dtype, device="cpu")
        block = self._buffers[name][:neurons, : part.stop - part.start]
        for own, layer in zip(side.layout.slices, layers, strict=True):
            among = slice(max(own.start, columns.start), min(own.stop, columns.stop))
            if among.start >= among.stop:
                continue
            native.standardise_transposed(
                layer[part, among.start - own.start : among.stop - own.start],
                side.mean[among],
                side.scale[among],
                block[among.start - columns.start : among.stop - columns.start],
                self._threads,
            )
        return block


def _scales(m2: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """What brings neurons near a standard deviation of 1, powers of two; and what undoes it."""
    _, exponent = torch.frexp((m2 / tokens).sqrt())
    one = torch.ones_like(m2)
    return torch.ldexp(one, -exponent), torch.ldexp(one, exponent)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="cpu")
