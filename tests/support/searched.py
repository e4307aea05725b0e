"""Models and ways of searching them, with blocks of few rows; and what their results hold."""

from __future__ import annotations

from typing import Any

import torch

import univfast as uf
from univfast.runs import over_pairs
from univfast.sums import co_moments

TOKENS = 300
# Rotated as tokens come (with two draws), by co-moments within, and by a matrix.
WIDTHS = {"u": 70, "v": 24, "w": 7}
TILE_BYTES = 4096  # 7 rows of the widest layer

SEARCHES: dict[str, dict[str, Any]] = {
    "best": {"match": "best", "draws": 2, "reverse": True, "top_k": 3},
    "best, matrices": {"match": "best", "draws": 2, "reverse": True, "rotation": "gaussian"},
    "best of itself": {"match": "best", "draws": 1, "top_k": 4, "exclude_self": True},
    "one-to-one": {"match": "one-to-one", "draws": 3, "reverse": True},
    "one-to-one, matrices": {"match": "one-to-one", "draws": 2, "rotation": "haar"},
}

Model = dict[str, torch.Tensor]


def small(patch: Any = setattr) -> None:
    """Slices and blocks so small that there are many of them."""
    patch(over_pairs, "READ_BYTES", 1)
    patch(co_moments, "_CHUNK_TOKENS", 64)
    patch(co_moments, "_TILE_BYTES", TILE_BYTES)


def pair(name: str) -> tuple[Model, Model]:
    """Two models; neurons of both are the same as others, so that there are ties."""
    generator = torch.Generator().manual_seed(0)
    shared = {k: torch.randn(TOKENS, n, generator=generator) for k, n in WIDTHS.items()}
    a, b = (
        {k: x + torch.randn(x.shape, generator=generator) for k, x in shared.items()}
        for _ in range(2)
    )
    for model in (a, b):
        model["v"][:, :4] = model["u"][:, 60:64]
        model["w"][:, 2] = model["u"][:, 3]
        model["u"][:, 10] = 1.0  # dead
    return a, (a if "itself" in name else b)


def even() -> tuple[Model, Model]:
    """Two models whose layers can be dealt to several processes."""
    generator = torch.Generator().manual_seed(1)
    layers = [f"layer {i}" for i in range(6)]
    a, b = (
        {name: torch.randn(TOKENS, 24, generator=generator) for name in layers} for _ in range(2)
    )
    return a, b


def numbers(result: uf.CorrelationResult) -> str:
    """All that was found, to the last bit."""
    reverse = result.reverse
    return repr(result.columns()) + ("" if reverse is None else repr(reverse.columns()))
