"""Pairs of models, their exact matches, and what tests of all pairs share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import F64
from support.parity import Array, assert_close
from univfast import reference
from univfast.search.matches import Matches
from univfast.search.searches import Searches

Layers = dict[str, Tensor]

MATCHES = ("best", "one-to-one")
ROTATIONS = ("hadamard", "haar", "gaussian")


def limit_of(*dtypes: torch.dtype) -> float:
    """Of r, as README promises for products."""
    return 1e-12 if all(dtype == F64 for dtype in dtypes) else 1e-5


def models(
    tokens: int,
    widths_a: tuple[int, ...],
    widths_b: tuple[int, ...],
    dtype: torch.dtype = F64,
    seed: int = 0,
) -> tuple[Layers, Layers]:
    """Two models that share factors and some neurons; the last neuron of each layer is dead."""
    g = np.random.default_rng([seed, tokens, *widths_a, *widths_b])
    factors = g.standard_normal((tokens, 4))

    def layer(width: int) -> Array:
        x = factors @ g.standard_normal((4, width)) + g.standard_normal((tokens, width))
        return np.asarray(x * g.uniform(0.1, 10, width) + g.uniform(-5, 5, width))

    a = {f"a{i}": layer(width) for i, width in enumerate(widths_a)}
    b = {f"b{i}": layer(width) for i, width in enumerate(widths_b)}
    shared = min(widths_a[0], widths_b[-1]) // 3
    b[f"b{len(b) - 1}"][:, :shared] += 3 * a["a0"][:, :shared]
    for values in (*a.values(), *b.values()):
        if values.shape[1] > 2:
            values[:, -1] = 0.1
    return (
        {name: torch.from_numpy(x).to(dtype) for name, x in a.items()},
        {name: torch.from_numpy(x).to(dtype) for name, x in b.items()},
    )


def low_rank(rank: int) -> tuple[Layers, Layers]:
    """Two models in float32: all of B, and of A all but noise, is of so few factors."""
    g = np.random.default_rng(rank)
    factors = g.standard_normal((5000, rank))
    x = factors @ g.standard_normal((rank, 40)) + g.standard_normal((5000, 40))
    y = factors @ g.standard_normal((rank, 300))
    return {"x": torch.from_numpy(x).float()}, {"y": torch.from_numpy(y).float()}


def exact(a: Layers, b: Layers, rotation: str, draws: int, seed: int) -> tuple[Array, list[Array]]:
    """r of all pairs, and with each rotation of B, of the values as stored."""
    pairs = reference.AllPairsCorrelation(
        {name: x.shape[-1] for name, x in a.items()},
        {name: x.shape[-1] for name, x in b.items()},
        draws=draws,
        rotation=rotation,
        seed=seed,
    )
    pairs.update(
        {name: x.double().numpy() for name, x in a.items()},
        {name: x.double().numpy() for name, x in b.items()},
    )
    return pairs.compute()


def assert_matches(
    found: Matches, r: Array, rotated: list[Array], match: str, limit: float, name: str = ""
) -> None:
    """r with all partners, that of the match, and of the matches in each rotation."""
    top_k = found.top_correlation.shape[1]  # type: ignore[union-attr]
    descending = -np.sort(-r, axis=1)  # NaN stays last
    descending = np.pad(descending, ((0, 0), (0, top_k)), constant_values=np.nan)[:, :top_k]
    assert_close(found.top_correlation, descending, limit, f"{name}: highest r")  # type: ignore[arg-type]
    taken = {"best": reference.best, "one-to-one": reference.one_to_one}[match]
    _, expected = taken(r)
    if match == "best":
        assert_close(found.correlation, expected, limit, f"{name}: r")
        for draw, matrix in enumerate(rotated):
            best = np.where(np.isnan(expected), np.nan, taken(matrix)[1])
            assert_close(found.rotated[draw], best, limit, f"{name}: rotated r")
        return
    assert_assigned(found.correlation, expected, limit, f"{name}: r")
    dead = np.isnan(r).all(axis=0)  # nobody's partner in a rotation either
    for draw, matrix in enumerate(rotated):
        assigned = taken(np.where(dead, np.nan, matrix))[1]
        assert_assigned(found.rotated[draw], assigned, limit, f"{name}: rotated r")


def assert_assigned(got: Tensor, expected: Array, limit: float, name: str) -> None:
    """r of as many pairs, with the same sum; of the same pairs where r is exact enough to tell."""
    assert int((~got.isnan()).sum()) == (~np.isnan(expected)).sum(), f"{name}: other pairs"
    off = abs(np.nansum(got.numpy()) - np.nansum(expected))
    assert off <= limit * len(expected), f"{name}: sum off by {off}"
    if limit == limit_of(F64):
        assert_close(got, expected, limit, name)


def accumulator_of(a: Layers, b: Layers, **options: Any) -> uf.AllPairsCorrelation:
    """What takes batches of these widths, and holds nothing yet."""
    widths = ({name: x.shape[-1] for name, x in layers.items()} for layers in (a, b))
    return uf.AllPairsCorrelation(*widths, **options)


def accumulated(a: Layers, b: Layers, **options: Any) -> uf.AllPairsCorrelation:
    accumulator = accumulator_of(a, b, **options)
    accumulator.update(a, b)
    return accumulator


def matches_of(accumulator: uf.AllPairsCorrelation, match: str = "best") -> list[Matches]:
    state = accumulator.co_moments()
    layouts = accumulator._a, accumulator._b
    searches = Searches(*layouts, match, accumulator._options, state.device)
    searches.add(state)
    return searches.matches()
