"""Pairs of neurons that are looked at alone, and how they are cut to be read from a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.torch_state import in_plain_state
from univfast.native.place import numbers

__all__ = ["PANEL_NEURONS", "Candidates", "Panel", "panels"]

# Neurons of B are taken so many at a time that a cache holds a block of them, 8 MB in float32, as
# pairs read them in no order: 131,072 neurons and 64 pairs of each took 1.9 times as long without.
# Asking for their rows ahead gained nothing then; halves of this took 10% longer, as A is read once
# a panel.
PANEL_NEURONS = 16_384


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
    def rows(self) -> Tensor:
        """The neuron of A of each pair, int64 ``[pairs]``."""
        return numbers(len(self.starts) - 1).repeat_interleave(self.starts.diff())

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


class Panel(NamedTuple):
    """Neurons of B that are taken together, and the pairs that they are in.

    Attributes:
        columns: the neurons.
        pairs: where their pairs stand in the sums.
        candidates: the pairs, B's neurons counted from the first of the panel.
    """

    columns: slice
    pairs: slice
    candidates: Candidates

    def neurons(self) -> tuple[Tensor, Tensor]:
        """Those of A and of B of each pair, int64 ``[pairs]``."""
        return self.candidates.rows(), self.candidates.places + self.columns.start


def panels(candidates: Candidates, neurons: int) -> Iterator[Panel]:
    """The candidates of one panel of B after another."""
    starts, places = candidates
    done = 0
    for first in range(0, neurons, PANEL_NEURONS):
        columns = slice(first, min(first + PANEL_NEURONS, neurons))
        among = (places >= columns.start) & (places < columns.stop)
        before = torch.cat([among.new_zeros(1, dtype=torch.int64), among.cumsum(dim=0)])
        own = Candidates(before[starts], places[among] - first)
        yield Panel(columns, slice(done, done + len(own.places)), own)
        done += len(own.places)
