"""Exact sums of some pairs of neurons alone, over any number of tokens.

As `univfast.sums.co_moments`, which has all pairs: sums about the mean, in float64, merged by the
pairwise update of Chan, Golub and LeVeque (1983); a chunk is standardised by its own mean and a
power of two. Products are summed in float32 within a block of a chunk, unless the activations are
float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from univfast import native
from univfast.checks import check_options
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.processes import Processes
from univfast.machine.threads import alone, together
from univfast.machine.torch_state import in_plain_state, methods_in_plain_state
from univfast.native.place import numbers
from univfast.sums.chunked import ChunkedSums
from univfast.sums.state_values import check_candidates
from univfast.sums.states import StateFormat, check_total
from univfast.sums.token_facts import digest

__all__ = ["CandidateMoments", "CandidateSums", "Candidates", "candidate_bytes"]

# Tokens of a chunk: reading the sums of a pair, which does not depend on them, costs little beside
# reading its neurons, and a chunk of the widest models fits beside the state.
_CHUNK_TOKENS = 1024
# Tokens of a block, which float32 sums: as many as the most, or as few as a cache of this size
# holds of B. Rows of B come from anywhere, and from a cache they come faster.
_MOST_TOKENS = 256
_LEAST_TOKENS = 64
_CACHE_BYTES = 16 << 20
# Pairs that are made correlations of at a time: bounds memory.
_PART = 1 << 22


class Candidates(NamedTuple):
    """Pairs of neurons, as rows: of each neuron of A those of B.

    Attributes:
        starts: int64 ``[neurons of A + 1]``: where the pairs of each neuron of A begin, and the
            last end.
        places: int64 ``[pairs]``: numbers among all neurons of B, increasing within a row.
    """

    starts: Tensor
    places: Tensor

    @staticmethod
    @in_plain_state
    def of(forward: Tensor, backward: Tensor) -> Candidates:
        """The pairs that either direction names, each once.

        Args:
            forward: int64 ``[neurons of A, k]``, numbers of neurons of B; -1 for none.
            backward: int64 ``[neurons of B, k]``, numbers of neurons of A; -1 for none.
        """
        for name, own, other in (("forward", forward, backward), ("backward", backward, forward)):
            if own.dtype != torch.int64 or own.dim() != 2:
                raise InputError(
                    f"{name}: expected int64 [neurons, candidates], got"
                    f" {str(own.dtype).removeprefix('torch.')} {list(own.shape)}"
                )
            if own.numel() and not -1 <= int(own.min()) <= int(own.max()) < len(other):
                raise InputError(f"{name}: expected numbers from -1 to {len(other) - 1}")
        neurons, width = len(forward), max(len(backward), 1)
        from_a = numbers(neurons)[:, None] * width + forward
        from_b = backward * width + numbers(len(backward))[:, None]
        named = torch.cat([from_a[forward >= 0], from_b[backward >= 0]])
        pairs: Tensor = torch.unique(named)
        starts = torch.searchsorted(pairs, numbers(neurons + 1) * width)
        return Candidates(starts, pairs % width)

    @in_plain_state
    def rows(self, first: int = 0, end: int | None = None) -> Tensor:
        """The neuron of A of each pair, or of some of them: int64 ``[pairs]``."""
        pairs = numbers(first, len(self.places) if end is None else end)
        return torch.searchsorted(self.starts, pairs, right=True) - 1

    def check(self, a: Layout, b: Layout) -> None:
        """Refuses what are no pairs of these models.

        Raises:
            InputError: they are not.
        """
        starts, places = self
        whole = (
            all(x.dtype == torch.int64 and x.dim() == 1 for x in self)
            and len(starts) == a.neurons + 1
            and (int(starts[0]), int(starts[-1])) == (0, len(places))
            and bool((starts.diff() >= 0).all())
            and (not len(places) or 0 <= int(places.min()) <= int(places.max()) < b.neurons)
        )
        if whole and len(places):
            within = torch.ones(len(places), dtype=torch.bool, device="cpu")
            within[starts[starts < len(places)]] = False
            whole = bool((places.diff() > 0)[within[1:]].all())
        if not whole:
            raise InputError(
                f"candidates: expected rows of increasing numbers of {b.neurons} neurons of B for"
                f" each of {a.neurons} neurons of A; make them by Candidates.of"
            )


class CandidateMoments:
    """Moments of two models' neurons, and the co-moments of some pairs between them.

    Attributes:
        tokens: how many were added.
        mean_a, m2_a, mean_b, m2_b: float64 ``[neurons]``.
        cross: float64 ``[pairs]``.
    """

    def __init__(self, a: Layout, b: Layout, candidates: Candidates, threads: int) -> None:
        self.tokens = 0
        self.candidates = candidates
        self._a, self._b, self._threads = a, b, threads
        self.mean_a, self.m2_a = _zeros(2, a.neurons)
        self.mean_b, self.m2_b = _zeros(2, b.neurons)
        self.cross = _zeros(len(candidates.places))
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
        scales_a, scales_b = (_scales(m2, tokens) for m2 in (moments_a[1], moments_b[1]))
        # The means are moved once, with the first block.
        moved = weight * deltas[0], deltas[1]
        step = _block_tokens(self._b, dtype)
        for first in range(0, tokens, step):
            part = slice(first, min(first + step, tokens))
            x = self._block("a", self._a, a, part, moments_a[0], scales_a[0], dtype, step)
            y = self._block("b", self._b, b, part, moments_b[0], scales_b[0], dtype, step)
            native.candidate_products(
                x, y, self.candidates, (scales_a[1], scales_b[1]), moved, self.cross, self._threads
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
        """Pearson's r of each pair, float64 ``[pairs]``; NaN where either neuron is constant."""
        r = torch.empty_like(self.cross)
        norms = [torch.where(m2 > 0, m2.sqrt(), torch.nan) for m2 in (self.m2_a, self.m2_b)]
        for part, i, j in self._parts():
            # Two square roots, because the product of two sums can leave the range of float64.
            r[part] = (self.cross[part] / norms[0][i] / norms[1][j]).clamp(-1.0, 1.0)
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

    def _move(self, delta_a: Tensor, delta_b: Tensor) -> None:
        """``cross[i, j] += delta_a[i] * delta_b[j]``."""
        for part, i, j in self._parts():
            self.cross[part] += delta_a[i] * delta_b[j]

    def _parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some pairs at a time, and their neurons of A and of B."""
        places = self.candidates.places
        for first in range(0, len(places), _PART):
            part = slice(first, min(first + _PART, len(places)))
            yield part, self.candidates.rows(part.start, part.stop), places[part]

    def _block(
        self,
        name: str,
        layout: Layout,
        layers: Sequence[Tensor],
        part: slice,
        mean: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        step: int,
    ) -> Tensor:
        """A block of a chunk, standardised: ``[neurons, tokens]``."""
        name = f"{name} {dtype}"
        if name not in self._buffers:
            self._buffers[name] = torch.empty(layout.neurons, step, dtype=dtype, device="cpu")
        block = self._buffers[name][:, : part.stop - part.start]
        for own, layer in zip(layout.slices, layers, strict=True):
            native.standardise_transposed(
                layer[part], mean[own], scale[own], block[own], self._threads
            )
        return block


@methods_in_plain_state
class CandidateSums(ChunkedSums[CandidateMoments]):
    """Correlates some pairs of neurons exactly, over any number of tokens, on the CPU.

    Holds 8 bytes a pair and 16 a neuron, and of a chunk of 1,024 tokens what waits for it to be
    full (`candidate_bytes`). Products are summed in float32 within at most 256 tokens and in
    float64 between, or in float64 throughout where a layer is float64: r is exact to 1e-6, or
    1e-12. The bits depend neither on the threads nor on how batches are cut.

    Args:
        a: the layers of A.
        b: the layers of B.
        candidates: the pairs.
        threads: at most this many; None for torch's number.

    Raises:
        InputError: the candidates are no pairs of these layers.
    """

    _format = StateFormat("univfast-candidates", "CandidateSums", version=1)

    def __init__(
        self, a: Layout, b: Layout, candidates: Candidates, *, threads: int | None = None
    ) -> None:
        candidates = Candidates(*(x.to(devices.CPU).contiguous() for x in candidates))
        candidates.check(a, b)
        self.candidates = candidates
        self._digests = {name: digest(x) for name, x in candidates._asdict().items()}
        count = devices.thread_count(threads)
        super().__init__(a, b, CandidateMoments(a, b, candidates, count), _CHUNK_TOKENS, count)

    @alone
    def moments(self) -> CandidateMoments:
        """The sums, with every token that was given."""
        self._flush()
        return self._state

    @alone
    def correlations(self) -> Tensor:
        """Pearson's r of each pair, float64 ``[pairs]``; NaN where either neuron is constant."""
        return self.moments().correlations()

    @property
    @alone
    def dead_a(self) -> Tensor:
        """Which neurons of A are constant, bool ``[neurons]``."""
        dead: Tensor = self.moments().m2_a == 0
        return dead

    @property
    @alone
    def dead_b(self) -> Tensor:
        """Which neurons of B are constant, bool ``[neurons]``."""
        dead: Tensor = self.moments().m2_b == 0
        return dead

    @alone
    def merge(self, other: CandidateSums) -> None:
        """Takes in the tokens of other sums, of the same layers and pairs.

        Raises:
            InputError: they differ.
        """
        check_options(other._plain_options(), self._plain_options(), "merge")
        with together(self, other):
            check_total("merge", self.tokens + other.tokens)
            more, own = other.moments(), self.moments()
            with self.wholly():
                own.merge(more)

    def _plain_options(self) -> dict[str, Any]:
        return {**super()._plain_options(), **self._digests}

    def _check_values(self, tensors: Mapping[str, Tensor], tokens: int) -> None:
        check_candidates(tensors, tokens, self.candidates.rows(), self.candidates.places)


def candidate_bytes(a: Layout, b: Layout, pairs: int, dtype: torch.dtype) -> int:
    """What `CandidateSums` of layers of a dtype take, and their candidates."""
    neurons = a.neurons + b.neurons
    wide = max(4, dtype.itemsize)
    block = neurons * wide * _block_tokens(b, torch.float64 if wide == 8 else torch.float32)
    return 24 * pairs + 80 * neurons + neurons * _CHUNK_TOKENS * dtype.itemsize + block


def _scales(m2: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """What brings neurons near a standard deviation of 1, powers of two; and what undoes it."""
    _, exponent = torch.frexp((m2 / tokens).sqrt())
    exponent = torch.where(m2 > 0, exponent, 0)
    one = torch.ones_like(m2)
    return torch.ldexp(one, -exponent), torch.ldexp(one, exponent)


def _block_tokens(b: Layout, dtype: torch.dtype) -> int:
    held = _CACHE_BYTES // (b.neurons * dtype.itemsize)
    return max(_LEAST_TOKENS, min(_MOST_TOKENS, held // _LEAST_TOKENS * _LEAST_TOKENS))


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="cpu")
