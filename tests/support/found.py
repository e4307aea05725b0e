"""Searches of dealt layers, and one that searched all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from support.pairs import Layers, accumulated, models
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.option import select
from univfast.options import AllPairsOptions, SumsOptions, complete
from univfast.search.searches import Searches

WIDTHS = (12, 7, 9, 12)


def tied(itself: bool) -> tuple[Layers, Layers]:
    """Models in which several neurons of A are the same, in other layers, and so is one of B."""
    a, b = models(200, WIDTHS, (8, 11))
    a["a3"][:, :6] = a["a0"][:, :6]
    a["a2"][:, 2] = a["a1"][:, 2]
    b["b1"][:, 3] = b["b0"][:, 3] = a["a1"][:, 2]
    return a, (a if itself else b)


def options(itself: bool, top_k: int = 3, reverse: bool = True) -> AllPairsOptions:
    given = {"top_k": top_k, "draws": 3, "reverse": reverse}
    return complete(AllPairsOptions, {**given, "exclude_self": itself}, "AllPairsCorrelation")


def searches_of(a: Layers, b: Layers, asked: AllPairsOptions) -> Searches:
    layouts = (
        Layout(tuple(layers), tuple(x.shape[1] for x in layers.values())) for layers in (a, b)
    )
    return Searches(*layouts, "best", asked, devices.CPU)


def search(into: Searches, a: Layers, b: Layers, names: str, asked: AllPairsOptions) -> None:
    """Searches some neighbouring layers of A, with spaces between their names."""
    some = {name: a[name] for name in names.split()}
    into.add(accumulated(some, b, **select(SumsOptions, asked)).co_moments())


def check_same_found(one: Searches, other: Searches) -> None:
    assert one.tokens == other.tokens
    for mine, theirs in zip(one.found(), other.found(), strict=True):
        assert mine.keys() == theirs.keys()
        for name, x in mine.items():
            assert torch.equal(_comparable(x), _comparable(theirs[name])), name


def _comparable(x: Tensor) -> Tensor:
    return x.nan_to_num(nan=7.0) if x.is_floating_point() else x
