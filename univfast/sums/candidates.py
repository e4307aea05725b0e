"""Exact correlations of some pairs of neurons alone, over any number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from univfast.checks import check_options
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.threads import alone, together
from univfast.machine.torch_state import methods_in_plain_state
from univfast.sums.candidate_moments import BLOCK_TOKENS, CandidateMoments
from univfast.sums.candidate_pairs import PANEL_NEURONS, Candidates
from univfast.sums.chunked import ChunkedSums
from univfast.sums.pending import Pending
from univfast.sums.state_values import check_candidates
from univfast.sums.states import StateFormat, check_total
from univfast.sums.token_facts import digest

__all__ = ["CandidateSums", "Candidates", "candidate_bytes"]

# Tokens of a chunk: its means and the scales that follow cost little, and a chunk of the widest
# models fits beside the state.
_CHUNK_TOKENS = 1024


@methods_in_plain_state
class CandidateSums(ChunkedSums[CandidateMoments]):
    """Correlates some pairs of neurons exactly, over any number of tokens, on the CPU.

    Holds 8 bytes a pair and 16 a neuron, and of a chunk of 1,024 tokens what waits for it to be
    full (`candidate_bytes`). Products are summed in float32 within 128 tokens and in
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
        pending = Pending(a, b, _CHUNK_TOKENS, count)
        super().__init__(a, b, CandidateMoments(a, b, candidates, count), pending, count)

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
        check_candidates(tensors, tokens, *self._state.pairs())


def candidate_bytes(a: Layout, b: Layout, pairs: int, dtype: torch.dtype) -> int:
    """What `CandidateSums` of layers of a dtype take, and their candidates."""
    neurons, wide = a.neurons + b.neurons, max(4, dtype.itemsize)
    panels = -(-b.neurons // PANEL_NEURONS)
    # One panel's pairs are looked at together, as are those of a state that is loaded.
    pair_bytes, starts = 24 + 24, 8 * a.neurons * panels
    waiting, block = neurons * _CHUNK_TOKENS * dtype.itemsize, a.neurons * wide * BLOCK_TOKENS
    return (
        pair_bytes * pairs
        + starts
        + 96 * neurons
        + waiting
        + block
        + wide * BLOCK_TOKENS * PANEL_NEURONS
    )
