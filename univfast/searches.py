"""All pairs of two models: what is asked, what it takes, and the answer from their co-moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from univfast.checks import as_integer, check_choice
from univfast.co_moments import CoMoments, chunk_tokens, streams, tile_bytes
from univfast.errors import InputError
from univfast.layout import Layout
from univfast.matching import Matches, Search, check_assignment
from univfast.result import CorrelationResult, make_result
from univfast.rotations import RotationOptions, draw_bytes
from univfast.states import check_tensor

__all__ = ["ALL_PAIRS", "PairOptions", "Searches", "check_same_neurons", "state_bytes"]

ALL_PAIRS = ("best", "one-to-one")

# Of each partner, from the search to the result: r and number while searching; then r, number in
# its layer, that layer and whether there is one; and r once more on the way.
_PARTNER_BYTES = 48


@dataclass(frozen=True)
class PairOptions:
    """How two models are searched for partners; `AllPairsCorrelation` says what each means."""

    rotation: RotationOptions
    top_k: int = 10
    exclude_self: bool = False
    reverse: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_k", as_integer("top_k", self.top_k, 1))


class Searches:
    """Both directions of a search, from the states of all layers of A, or of some after others.

    Args:
        a: all layers of A.
        b: all layers of B.
        match: ``"best"`` or ``"one-to-one"``, which needs all layers of A at once.
        options: of the search.
        threads: at most this many.
        device: where the states are.

    Raises:
        InputError: another match, or too many neurons for one-to-one.
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        match: str,
        options: PairOptions,
        threads: int,
        device: torch.device,
    ) -> None:
        check_choice("match", match, ALL_PAIRS)
        if match == "one-to-one":
            check_assignment(a, b)
        self._match, self._options, self._device = match, options, device
        self._tokens = 0
        self._layouts = (a, b)
        # An assignment of the rotated models takes the place of the search in them.
        none = RotationOptions("none", 0, options.rotation.seed)
        self._rotation = options.rotation
        searched = options.rotation if match == "best" else none
        names = ((a, b), (b, a)) if options.reverse else ((a, b),)
        self._searches = [
            Search(one, other, searched, options.top_k, options.exclude_self, threads, device)
            for one, other in names
        ]
        self._assigned: list[Matches] = []

    def add(self, state: CoMoments) -> None:
        """Takes in the state of some layers of A with all of B; layers in increasing order.

        Raises:
            InputError: it holds no tokens.
        """
        if state.tokens == 0:
            raise InputError("compute: no tokens were accumulated; call update first")
        self._tokens = state.tokens
        directions = ((state.cross, state.a, state.b), (state.cross.T, state.b, state.a))
        for search, direction in zip(self._searches, directions, strict=False):
            search.add(*direction)
            if self._match == "one-to-one":
                self._assigned.append(search.one_to_one(*direction, self._rotation))

    def state(self) -> dict[str, Any]:
        """What was found so far, as plain values and tensors, not copied; for `load`."""
        return {
            "tokens": self._tokens,
            "searches": [
                {name: tensor.cpu() for name, tensor in search.tensors().items()}
                for search in self._searches
            ],
            "assigned": [vars(matches) for matches in self._assigned],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._tokens = state["tokens"]
        for search, found in zip(self._searches, state["searches"], strict=True):
            for name, tensor in search.tensors().items():
                tensor.copy_(check_tensor(name, found.get(name), tensor.shape))
        self._assigned = [Matches(**matches) for matches in state["assigned"]]

    @property
    def measured(self) -> tuple[Layout, int]:
        """The layers of A, and the number of tokens."""
        return self._layouts[0], self._tokens

    def matches(self) -> list[Matches]:
        """Of A in B and, where that was asked for, of B in A."""
        return self._assigned or [search.best() for search in self._searches]

    def result(
        self, models: tuple[str, str], threshold: float, seconds: float | None = None
    ) -> CorrelationResult:
        """The result of these two models alone."""
        results = [
            make_result(
                layout,
                self._tokens,
                [found],
                models=names,
                match=self._match,
                rotation=self._rotation,
                threshold=threshold,
                device=str(self._device),
                seconds=seconds,
            )
            for found, layout, names in zip(
                self.matches(), self._layouts, (models, models[::-1]), strict=False
            )
        ]
        return results[0] if len(results) == 1 else replace(results[0], reverse=results[1])


def state_bytes(
    a: Layout,
    b: Layout,
    options: PairOptions,
    device: torch.device,
    group: Layout | None = None,
) -> int:
    """Of the state, of a chunk and a product beside it, of a rotation and of the partners found.

    Args:
        a: all layers of A.
        b: all layers of B.
        options: of the search.
        device: where the state is.
        group: the layers of A whose state is held at once; None for all.
    """
    held = a if group is None else group
    values = held.neurons * b.neurons
    rotation = options.rotation
    rotated = (*b.widths, *(held.widths if options.reverse else ())) if rotation.draws else ()
    for width in rotated:
        values += width * (5 + 2 * rotation.draws if streams(rotation, width) else width)
    partners = a.neurons * min(options.top_k, b.neurons)
    if options.reverse:
        partners += b.neurons * min(options.top_k, a.neurons)
    chunk = chunk_tokens(device) * (held.neurons + b.neurons)
    matrices = max((draw_bytes(rotation, width) for width in rotated), default=0)
    return 8 * (values + chunk) + tile_bytes(device) + matrices + _PARTNER_BYTES * partners


def check_same_neurons(a: Layout, b: Layout) -> None:
    """Refuses to leave out a neuron itself where there is none of its name.

    Raises:
        InputError: A and B have not the same layers of the same widths.
    """
    if a != b:
        raise InputError(
            "exclude_self: A and B have other layers or widths; it is for a model with itself"
        )
