"""Which pairs of a result are looked at."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.result import CorrelationResult

__all__ = ["MOST_PAIRS", "Chosen", "choose"]

MOST_PAIRS = 5000
"""Universal neurons that are looked at, at most: those of the highest excess."""


@dataclass(frozen=True)
class Chosen:
    """Pairs of a neuron of A and its match in B, in the order of a result.

    Attributes:
        rows: of the result, int64 ``[pairs]``.
        a, b: layer and number of each neuron, and of its match.
    """

    rows: Tensor
    a: list[tuple[str, int]]
    b: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.a)


def choose(
    result: CorrelationResult,
    universal: Tensor,
    names: Sequence[str] | None = None,
    most: int = MOST_PAIRS,
) -> Chosen:
    """Those that are universal, and those that are named.

    Args:
        result: of one other model.
        universal: bool ``[neurons]``.
        names: neurons of A to look at beside, as ``"mlp.0/17"``.
        most: universal ones, at most: those of the highest excess.

    Raises:
        InputError: there is no such neuron, or it has no match.
    """
    matched = result.match_neuron >= 0
    rows = (universal & matched).nonzero()[:, 0]
    if len(rows) > most:
        best = result.excess[rows].argsort(descending=True, stable=True)[:most]
        rows = rows[best]
    named = [_row(result, name) for name in names or ()]
    order = sorted({*rows.tolist(), *named})
    wanted = torch.tensor(order, dtype=torch.int64, device="cpu")
    numbers_a, numbers_b = result.neuron.tolist(), result.match_neuron.tolist()
    return Chosen(
        wanted,
        [(result.layer[i], numbers_a[i]) for i in order],
        [(result.match_layer[i], numbers_b[i]) for i in order],
    )


def _row(result: CorrelationResult, name: str) -> int:
    """The row of a neuron."""
    layer, slash, number = name.rpartition("/")
    rows = [i for i, other in enumerate(result.layer) if other == layer] if slash else []
    if not rows:
        layers = list(dict.fromkeys(result.layer))
        near = difflib.get_close_matches(layer or name, layers, 3, 0) or layers[:3]
        raise InputError(
            f"neurons: {name!r} names no neuron of A; give LAYER/NUMBER, of the layers"
            f" {', '.join(map(repr, near))}"
        )
    if not number.isdecimal() or len(number) > 18 or int(number) >= len(rows):
        raise InputError(
            f"neurons: {name!r} names no neuron of A; layer {layer!r} has 0 to {len(rows) - 1}"
        )
    row = rows[0] + int(number)
    if int(result.match_neuron[row]) < 0:
        raise InputError(f"neurons: {name!r} has no match, so there is no pair to look at")
    return row


def columns_by_layer(neurons: Sequence[tuple[str, int]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer, the places of its neurons among all, and their numbers: int64."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for place, (layer, number) in enumerate(neurons):
        places, own = found.setdefault(layer, ([], []))
        places.append(place)
        own.append(number)
    return {
        layer: (
            torch.tensor(places, dtype=torch.int64, device="cpu"),
            torch.tensor(own, dtype=torch.int64, device="cpu"),
        )
        for layer, (places, own) in found.items()
    }
