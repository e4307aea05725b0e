"""Some neurons of A with every neuron of B: what a search among candidates is checked by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.threads import alone
from univfast.machine.torch_state import methods_in_plain_state
from univfast.native import Best
from univfast.native.place import numbers as count_from
from univfast.sums.batches import readable
from univfast.sums.chunked import ChunkedSums
from univfast.sums.co_moments import CoMoments, tile_bytes
from univfast.sums.pending import Pending
from univfast.sums.state_values import check_co_moments
from univfast.sums.states import StateFormat
from univfast.sums.token_facts import digest

__all__ = ["CheckedRows", "checked_bytes"]

# Tokens of a chunk, as few as of `CandidateSums` beside it: the state has few rows, so that adding
# to it costs little, while a chunk has all neurons of B.
_CHUNK_TOKENS = 1024


@methods_in_plain_state
class CheckedRows(ChunkedSums[CoMoments]):
    """Correlates some neurons of A with all neurons of B, over any number of tokens, on the CPU.

    By matrix products, as `AllPairsCorrelation`, to 1e-5, or 1e-12 for float64. Holds 8 bytes a
    pair, and of a chunk of 1,024 tokens what is multiplied and what waits (`checked_bytes`).

    Args:
        a: the layers of A.
        b: the layers of B.
        numbers: int64 ``[checked]``: those of the neurons, among all of A, each once.
        threads: at most this many; None for torch's number.

    Raises:
        InputError: the numbers are no neurons of A, none, or name one twice.
    """

    _format = StateFormat("univfast-checked", "CheckedRows", version=1)

    def __init__(
        self, a: Layout, b: Layout, numbers: Tensor, *, threads: int | None = None
    ) -> None:
        if numbers.dtype != torch.int64 or numbers.dim() != 1 or not len(numbers):
            raise InputError(
                "numbers: expected int64 [checked], got"
                f" {str(numbers.dtype).removeprefix('torch.')} {list(numbers.shape)}"
            )
        self.numbers = numbers.to(devices.CPU)
        ordered, self._order = self.numbers.sort()
        if int(ordered[0]) < 0 or int(ordered[-1]) >= a.neurons:
            raise InputError(f"numbers: expected 0 to {a.neurons - 1}, the neurons of A")
        if bool((ordered.diff() == 0).any()):
            raise InputError("numbers: name a neuron twice; give each once")
        # Of each layer of A that has some: its place among the layers, and their numbers in it.
        inside = [ordered[(ordered >= x.start) & (ordered < x.stop)] - x.start for x in a.slices]
        self._picked = [(i, found) for i, found in enumerate(inside) if len(found)]
        checked = Layout(
            tuple(a.names[i] for i, _ in self._picked), tuple(len(x) for _, x in self._picked)
        )
        self._whole = a
        threads = devices.thread_count(threads)
        inside = [found for _, found in self._picked]
        pending = Pending(checked, b, _CHUNK_TOKENS, threads, inside)
        super().__init__(checked, b, CoMoments(checked, b, None, None, threads), pending, threads)

    @alone
    def best(self, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
        """The highest r of each checked neuron, and the neuron of B that has it.

        Args:
            exclude_self: without the neuron of the same number.

        Returns:
            float64 and int64 ``[checked]``; NaN and -1 for one that is constant, or where all of B
            are.
        """
        self._flush()
        state = self._state
        skip = self.numbers[self._order] if exclude_self else None
        best = Best.none(len(self.numbers), 1)
        native.best_pairs(
            state.cross,
            (state.a.inverse_norm, state.b.inverse_norm),
            (0, 0),
            best,
            None,
            skip,
            self._threads,
        )
        r, place = (self._as_given(x[:, 0]) for x in best)
        return torch.where(place >= 0, r, torch.nan), place

    @alone
    def at(self, places: Tensor) -> Tensor:
        """r of each checked neuron with one neuron of B, float64 ``[checked]``.

        ``places`` is int64 ``[checked]``, -1 for none, where r is NaN; as it is where either neuron
        is constant.
        """
        self._flush()
        state, known = self._state, places >= 0
        own = places.clamp(min=0)[self._order]
        rows = count_from(len(own))
        r = state.cross[rows, own] * state.a.inverse_norm * state.b.inverse_norm[own]
        return torch.where(known, self._as_given(r.clamp(-1.0, 1.0)), torch.nan)

    def _as_given(self, ordered: Tensor) -> Tensor:
        """What is in the order of the sums, in the order of `numbers`."""
        return torch.empty_like(ordered).scatter_(0, self._order, ordered)

    def _read_a(self, a: Sequence[Tensor]) -> list[Tensor]:
        return [
            readable(a[i].detach()[:, inside.to(a[i].device)], devices.CPU)
            for i, inside in self._picked
        ]

    def _plain_options(self) -> dict[str, Any]:
        checked = {"layers_a": self._whole.by_name(), "numbers": digest(self.numbers)}
        return {**super()._plain_options(), **checked}

    def _check_values(self, tensors: Mapping[str, Tensor], tokens: int) -> None:
        check_co_moments(tensors, tokens, {"a": self._a, "b": self._b}, 0)


def checked_bytes(checked: int, b: Layout, dtype: torch.dtype) -> int:
    """What `CheckedRows` of so many neurons and layers of a dtype take."""
    rows, wide = checked + b.neurons, max(4, dtype.itemsize)
    chunk = rows * _CHUNK_TOKENS * (wide + dtype.itemsize)
    return 8 * checked * b.neurons + 32 * rows + chunk + tile_bytes(devices.CPU)
