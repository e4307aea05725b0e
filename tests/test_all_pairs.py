"""All pairs: every number against the full matrix in float64, for every matching and direction."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import (
    BF16,
    DTYPES,
    F16,
    F32,
    F64,
    Array,
    assert_close,
    bits,
    hard_cases,
    name_of,
)
from torch import Tensor

import univfast as uf
from univfast import chunks, co_moments, correlation, devices, native, reference
from univfast.cli import main
from univfast.matching import Matches
from univfast.searches import Searches, state_bytes

Layers = dict[str, Tensor]

MATCHES = ("best", "one-to-one")
ROTATIONS = ("hadamard", "haar", "gaussian")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 64 tokens, products of a few rows and blocks of 32 neurons: many of each."""
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4 * 64 * 40)
    monkeypatch.setattr(co_moments, "_BLOCK", 32)
    return 64


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


def accumulated(a: Layers, b: Layers, **options: Any) -> uf.AllPairsCorrelation:
    accumulator = uf.AllPairsCorrelation(
        {name: x.shape[-1] for name, x in a.items()},
        {name: x.shape[-1] for name, x in b.items()},
        **options,
    )
    accumulator.update(a, b)
    return accumulator


def matches_of(accumulator: uf.AllPairsCorrelation, match: str = "best") -> list[Matches]:
    state = accumulator.co_moments()
    layouts = accumulator._a, accumulator._b
    searches = Searches(*layouts, match, accumulator.options, accumulator._threads, state.device)
    searches.add(state)
    return searches.matches()


# ---- against the full matrix --------------------------------------------------------------------


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("rotation", [*ROTATIONS, "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_matching_rotation_and_dtype(
    match: str, rotation: str, dtype: torch.dtype, small_chunks: int, baseline: str
) -> None:
    a, b = models(300, (40, 7), (33, 64, 5), dtype)
    found = matches_of(
        accumulated(a, b, rotation=rotation, draws=2, seed=3, top_k=12, reverse=True), match
    )
    limit = limit_of(dtype)
    assert_matches(found[0], *exact(a, b, rotation, 2, 3), match, limit, "A in B")
    assert_matches(found[1], *exact(b, a, rotation, 2, 3), match, limit, "B in A")


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize(
    ("widths_a", "widths_b"), [((20, 30), (25, 25)), ((30, 20), (13, 9)), ((9,), (33, 64))], ids=str
)
def test_one_to_one_of_every_size(
    widths_a: tuple[int, ...], widths_b: tuple[int, ...], rotation: str, small_chunks: int
) -> None:
    a, b = models(300, widths_a, widths_b)
    b["b0"][:, :3] = 7
    found = matches_of(accumulated(a, b, rotation=rotation, draws=3, reverse=True), "one-to-one")
    for one, other, matches in ((a, b, found[0]), (b, a, found[1])):
        assert_matches(matches, *exact(one, other, rotation, 3, 0), "one-to-one", 1e-12)


SHAPES = [
    ((1,), (1,)),
    ((1, 2), (3,)),
    ((64,), (64,)),
    ((65, 63), (130,)),
    ((17,), (16, 100, 1)),
    ((257,), (96, 9)),
    ((3, 4, 5, 6), (6, 5, 4, 3)),
]


@pytest.mark.parametrize("tokens", [2, 3, 63, 64, 65, 200])
@pytest.mark.parametrize(("widths_a", "widths_b"), SHAPES, ids=str)
def test_every_shape(
    widths_a: tuple[int, ...], widths_b: tuple[int, ...], tokens: int, small_chunks: int
) -> None:
    a, b = models(tokens, widths_a, widths_b)
    found = matches_of(accumulated(a, b, draws=2, reverse=True, top_k=5))
    # r of two or three tokens is 1 within rounding for half of all pairs.
    limit = 1e-12 if tokens > 3 else 1e-9
    assert_matches(found[0], *exact(a, b, "hadamard", 2, 0), "best", limit, "A in B")
    assert_matches(found[1], *exact(b, a, "hadamard", 2, 0), "best", limit, "B in A")


@pytest.mark.parametrize("dtypes", [*product((F64, F32, BF16), repeat=2), (F16, F16)], ids=name_of)
def test_dtypes_may_differ_from_layer_to_layer(
    dtypes: tuple[torch.dtype, torch.dtype], small_chunks: int
) -> None:
    a, b = models(150, (20, 30), (25, 15, 20))
    a["a1"], b["b0"], b["b1"] = a["a1"].to(dtypes[0]), b["b0"].to(dtypes[1]), b["b1"].to(F32)
    found = matches_of(accumulated(a, b, draws=2, top_k=60))[0]
    assert_matches(found, *exact(a, b, "hadamard", 2, 0), "best", 1e-5)


@pytest.fixture(params=["rotated as they come", "within"])
def baseline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the variances of rotated neurons come from."""
    streamed = request.param == "rotated as they come"
    monkeypatch.setattr(co_moments, "_WIDTH_OF_A_DRAW", 1 if streamed else 10**6)
    return str(request.param)


@pytest.mark.parametrize("dtype", [F32, F64], ids=name_of)
@pytest.mark.parametrize("name", [*hard_cases(F64)])
def test_hard_cases(name: str, dtype: torch.dtype, small_chunks: int, baseline: str) -> None:
    cases = hard_cases(dtype)
    if name not in cases:
        pytest.skip("for float64 alone")
    case = cases[name]
    accumulator = uf.AllPairsCorrelation({"x": 96}, {"y": 96}, draws=2, top_k=96, reverse=True)
    for x, y in case.split():
        accumulator.update({"x": x}, {"y": y})
    found = matches_of(accumulator)
    a, b = {"x": case.a}, {"y": case.b}
    limit = limit_of(dtype)
    if dtype == F64 and baseline == "within" and name.startswith("nearly one factor"):
        # The co-moments within a layer hold 1e-16 of its usual variance, and rotated neurons of
        # this one, also by Haar's rotations, can be left with 1e-6 of that.
        limit = 1e-10
    assert_matches(found[0], *exact(a, b, "hadamard", 2, 0), "best", limit, name)
    assert_matches(found[1], *exact(b, a, "hadamard", 2, 0), "best", limit, name)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_layers_of_low_rank(rank: int, rotation: str, baseline: str) -> None:
    """Of float32, where a layer cancels in a rotated neuron: its rounding is none of the answer."""
    g = np.random.default_rng(rank)
    factors = g.standard_normal((5000, rank))
    x = factors @ g.standard_normal((rank, 40)) + g.standard_normal((5000, 40))
    y = factors @ g.standard_normal((rank, 300))
    a, b = {"x": torch.from_numpy(x).float()}, {"y": torch.from_numpy(y).float()}
    found = matches_of(accumulated(a, b, draws=6, rotation=rotation, top_k=300))[0]
    assert_matches(found, *exact(a, b, rotation, 6, 0), "best", 1e-5)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_low_rank_with_many_draws(rank: int, seed: int) -> None:
    """So many rotated neurons that in some nearly all of the layer cancels."""
    g = np.random.default_rng([rank, seed])
    factors = g.standard_normal((1000, rank))
    a, b = (
        {name: torch.from_numpy(factors @ g.standard_normal((rank, width))).float()}
        for name, width in (("x", 20), ("y", 600))
    )
    wide = [{name: x.double() for name, x in layers.items()} for layers in (a, b)]
    found, expected = (matches_of(accumulated(*layers, draws=30))[0] for layers in ((a, b), wide))
    assert_close(found.correlation, expected.correlation.numpy(), 1e-5, "r")
    assert_close(found.rotated, expected.rotated.numpy(), 1e-5, "rotated r")


def test_float32_products_would_not_do_for_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_cancels", lambda *_: False)
    with pytest.raises(AssertionError, match="rotated r: off by"):
        test_layers_of_low_rank(1, "hadamard", "")
    with pytest.raises(AssertionError, match="rotated r: off by"):
        test_low_rank_with_many_draws(2, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("neurons", [100, 600, 2000])
def test_layers_of_low_rank_are_multiplied_in_float64(neurons: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    ones = torch.ones(neurons).double()
    for rank in range(1, 7):
        layer = torch.randn(700, rank, generator=g) @ torch.randn(rank, neurons, generator=g)
        assert chunks._cancels(layer - layer.mean(dim=0), ones), rank
    layer = torch.randn(700, neurons, generator=g)
    assert chunks._cancels(layer, torch.where(torch.arange(neurons) == 7, 1e3, ones))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("neurons", [100, 600, 2000])
@pytest.mark.parametrize("tokens", [128, 4096])
def test_ordinary_layers_are_multiplied_in_float32(tokens: int, neurons: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    own = torch.randn(tokens, neurons, generator=g)
    factors = torch.randn(tokens, 8, generator=g) @ torch.randn(8, neurons, generator=g) / 8**0.5
    kinds = {
        "independent": own,
        "8 factors and noise": factors + own,
        "one factor and a quarter of noise": torch.randn(tokens, 1, generator=g) * 3**0.5 + own,
        "after the ReLU": own.relu(),
        "factors after the ReLU": (2 * factors + own).relu(),
        "rarely active": (own - 1.7).relu(),
        "of all scales": own * torch.logspace(-2, 0, neurons),
    }
    for name, layer in kinds.items():
        ones = torch.ones(neurons).double()
        assert not chunks._cancels(layer - layer.mean(dim=0), ones), name
    assert not chunks._cancels(torch.zeros(tokens, neurons), ones), "constant"


# ---- what a match is ----------------------------------------------------------------------------


@pytest.mark.parametrize("match", MATCHES)
def test_partners_are_where_the_result_says(match: str) -> None:
    a, b = models(400, (30, 20), (25, 15, 30))
    result = uf.correlate(a, b, match=match, top_k=4, reverse=True)
    for one, x, y in ((result, a, b), (result.reverse, b, a)):
        assert one is not None
        for i in range(len(one.correlation)):
            own = x[one.layer[i]][:, int(one.neuron[i])]
            if one.dead[i]:
                assert math.isnan(one.correlation[i])
                assert (one.match_layer[i], int(one.match_neuron[i])) == ("", -1)
                assert one.top_layer is not None
                assert one.top_layer[i] == [""] * 4
                continue
            if one.match_layer[i]:
                other = y[one.match_layer[i]][:, int(one.match_neuron[i])]
                r = float(np.corrcoef(own, other)[0, 1])
                assert abs(r - float(one.correlation[i])) < 1e-12
            for k in range(4):
                assert one.top_layer is not None
                assert one.top_neuron is not None
                assert one.top_correlation is not None
                other = y[one.top_layer[i][k]][:, int(one.top_neuron[i, k])]
                r = float(np.corrcoef(own, other)[0, 1])
                assert abs(r - float(one.top_correlation[i, k])) < 1e-12
    counts = result.summary["match_layers"]
    assert counts["rows"] == ["a0", "a1"]
    assert counts["columns"] == ["b0", "b1", "b2"]
    for i, row in enumerate(counts["rows"]):
        for j, column in enumerate(counts["columns"]):
            both = zip(result.layer, result.match_layer, strict=True)
            assert counts["counts"][i][j] == sum(pair == (row, column) for pair in both)


def test_mutual_pairs_are_each_others_best() -> None:
    a, b = models(300, (40,), (30, 20))
    found, back = matches_of(accumulated(a, b, rotation="none", reverse=True))
    r, _ = exact(a, b, "none", 0, 0)
    best, best_back = reference.best(r)[0], reference.best(r.T)[0]
    expected = [j >= 0 and best_back[j] == i for i, j in enumerate(best)]
    assert found.mutual is not None
    assert back.mutual is not None
    assert found.mutual.tolist() == expected
    assert 0 < sum(expected) < 39
    assert back.mutual.sum() == found.mutual.sum()


def test_ties_go_to_the_first() -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    b = {"p": torch.cat([x[:, :1], x[:, 1:2], x[:, 1:2]], 1), "q": x[:, [1, 1]]}
    found = matches_of(accumulated({"a": x[:, [1, 1, 2]]}, b, rotation="none", top_k=5))[0]
    assert found.top_layer is not None
    assert found.top_neuron is not None
    assert found.top_layer[0, :4].tolist() == [0, 0, 1, 1]
    assert found.top_neuron[0, :4].tolist() == [1, 2, 0, 1]
    assert found.mutual is not None
    assert found.mutual.tolist() == [True, False, False]  # of B's neuron 1, the first is the best


@pytest.mark.parametrize("match", MATCHES)
def test_a_model_with_itself(match: str) -> None:
    a, _ = models(300, (30, 20), (5,))
    a["a1"][:, 4] = -a["a0"][:, 3] * 2 + 1  # opposite: no partner
    a["a1"][:, 5] = a["a0"][:, 3] * 2 + 1  # a duplicate
    alone = uf.correlate(a, a, match=match)
    assert (alone.correlation[~alone.dead] > 1 - 1e-12).all()
    result = uf.correlate(a, a, match=match, exclude_self=True, draws=2)
    r, rotated = exact(a, a, "hadamard", 2, 0)
    for matrix in (r, *rotated):
        np.fill_diagonal(matrix, np.nan)
    assert (result.match_layer[3], int(result.match_neuron[3])) == ("a1", 5)
    assert (result.match_layer[35], int(result.match_neuron[35])) == ("a0", 3)
    if match == "best":
        assert_close(result.correlation, reference.best(r)[1], 1e-12, "r")
        expected = np.mean([reference.best(m)[1] for m in rotated], axis=0)
        expected[[29, 49]] = np.nan
        assert_close(result.baseline, expected, 1e-12, "baseline")
    else:
        live = ~result.dead
        assert not ((result.match_neuron == result.neuron) & live).any() or all(
            result.layer[i] != result.match_layer[i]
            for i in (result.match_neuron == result.neuron).nonzero()[:, 0].tolist()
        )


def test_one_to_one_with_itself_pairs_all_that_it_can() -> None:
    """Two alike and one opposite: to pair all, the two may not be each other's partners."""
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).double()
    layers = {"x": torch.cat([x, x, -x], dim=1)}
    result = uf.correlate(layers, layers, match="one-to-one", exclude_self=True, draws=2)
    assert result.summary["unmatched"] == 0
    assert (result.match_neuron != result.neuron).all()
    assert_close(result.correlation.sort().values, np.array([-1.0, -1.0, 1.0]), 1e-12, "r")


def test_one_to_one_with_itself_leaves_over_what_has_no_other() -> None:
    layers = {"x": torch.randn(50, 1, generator=torch.Generator().manual_seed(0))}
    result = uf.correlate(layers, layers, match="one-to-one", exclude_self=True, draws=2)
    assert result.summary["unmatched"] == 1


@pytest.mark.parametrize(("narrow", "wide"), [("a", "b"), ("b", "a")])
def test_one_to_one_of_unequal_sizes_leaves_neurons_over(narrow: str, wide: str) -> None:
    x, y = models(300, (20,), (30,))
    given = {narrow: x, wide: y}
    result = uf.correlate(given["a"], given["b"], match="one-to-one", draws=3)
    matched = result.match_neuron >= 0
    pairs = [
        (layer, neuron)
        for layer, neuron in zip(result.match_layer, result.match_neuron.tolist(), strict=True)
        if neuron >= 0
    ]
    assert len(set(pairs)) == len(pairs) == 19
    assert result.summary["unmatched"] == (0 if narrow == "a" else 10)
    assert result.summary["dead"] == 1
    assert torch.equal(result.correlation.isnan(), ~matched)
    assert not bool(result.universal[~matched].any())
    assert result.excess[matched].isfinite().all()
    # A draw leaves over as many, but others.
    assert result.null_excess is not None
    assert (~result.null_excess.isnan()).sum(dim=1).tolist() == [19] * 3
    assert bool((~result.null_excess[:, ~matched & ~result.dead].isnan()).any()) == (wide == "a")


def test_what_is_all_dead() -> None:
    a, b = {"x": torch.ones(50, 4)}, {"y": torch.ones(50, 3)}
    live = {"x": torch.randn(50, 4, generator=torch.Generator().manual_seed(0))}
    for one, other, dead in ((a, b, 4), (live, b, 0), (a, live, 4)):
        for match in MATCHES:
            result = uf.correlate(one, other, match=match)
            assert result.summary["dead"] == dead
            assert result.summary["unmatched"] == 4 - dead
            assert result.correlation.isnan().all()
            assert result.summary["universal"] == 0


# ---- streams ------------------------------------------------------------------------------------


def test_bits_do_not_depend_on_batches(small_chunks: int, baseline: str) -> None:
    a, b = models(333, (30, 20), (25,), F32)
    whole = accumulated(a, b)
    for sizes in ((1, 332), (63, 1, 200, 69), (0, 64, 64, 0, 64, 100, 41), (128, 205)):
        parts = uf.AllPairsCorrelation({"a0": 30, "a1": 20}, {"b0": 25})
        for x0, x1, y in zip(
            a["a0"].split(sizes), a["a1"].split(sizes), b["b0"].split(sizes), strict=True
        ):
            parts.update({"a1": x1, "a0": x0}, y)
        assert parts.tokens == 333
        one, other = (x.co_moments().tensors() for x in (whole, parts))
        assert all(bits(one[name]) == bits(other[name]) for name in one)


@pytest.mark.parametrize("dtype", [F32, F64], ids=name_of)
def test_merging_is_adding(dtype: torch.dtype, small_chunks: int, baseline: str) -> None:
    a, b = models(500, (30,), (25, 10), dtype)
    whole = accumulated(a, b, reverse=True)
    merged = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25, "b1": 10}, reverse=True)
    for part in (slice(0, 10), slice(10, 10), slice(10, 400), slice(400, 500)):
        merged.merge(
            accumulated(
                {name: x[part] for name, x in a.items()},
                {name: x[part] for name, x in b.items()},
                reverse=True,
            )
        )
    assert merged.tokens == 500
    for one, other in zip(matches_of(whole), matches_of(merged), strict=True):
        assert_close(one.correlation, other.correlation.numpy(), limit_of(dtype), "r")
        assert_close(one.rotated, other.rotated.numpy(), limit_of(dtype), "rotated r")


def test_masked_tokens_are_left_out(small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(30, 10, generator=g) < 0.6
    keep = mask.flatten()
    spoilt = {"a0": torch.where(keep[:, None], a["a0"], torch.nan).view(30, 10, 30)}
    masked = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    masked.update(spoilt, {"b0": b["b0"].view(30, 10, 25)}, mask=mask)
    taken = accumulated({"a0": a["a0"][keep]}, {"b0": b["b0"][keep]})
    one, other = (x.co_moments().tensors() for x in (masked, taken))
    assert all(bits(one[name]) == bits(other[name]) for name in one)


def test_a_state_goes_on_where_it_was_saved(tmp_path: Path, small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    first, rest = ({"a0": a["a0"][part]} for part in (slice(0, 100), slice(100, 300)))
    first_b, rest_b = ({"b0": b["b0"][part]} for part in (slice(0, 100), slice(100, 300)))
    saved = accumulated(first, first_b)
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    loaded = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    loaded.update(rest, rest_b)  # replaced
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    for accumulator in (saved, loaded):
        accumulator.update(rest, rest_b)
    one, other = (x.co_moments().tensors() for x in (saved, loaded))
    assert all(bits(one[name]) == bits(other[name]) for name in one)
    snapshot = saved.state_dict()
    saved.update(rest, rest_b)
    assert bits(snapshot["moments"]["cross"]) == bits(other["cross"])


def test_saving_a_state_changes_nothing(tmp_path: Path, small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    saved, whole, resumed = (uf.AllPairsCorrelation({"a0": 30}, {"b0": 25}) for _ in range(3))
    for first in range(0, 300, 50):  # of chunks of 64
        part = slice(first, first + 50)
        batch = {"a0": a["a0"][part]}, {"b0": b["b0"][part]}
        whole.update(*batch)
        saved.update(*batch)
        torch.save(saved.state_dict(), tmp_path / "state.pt")
        resumed.update(*batch)
        assert resumed.tokens == saved.tokens == first + 50
        resumed = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
        resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    expected = whole.co_moments().tensors()
    for accumulator in (saved, resumed):
        found = accumulator.co_moments().tensors()
        assert all(bits(found[name]) == bits(x) for name, x in expected.items())


def test_a_state_of_version_2_is_read(small_chunks: int) -> None:
    a, b = models(300, (30,), (25,))
    written = accumulated(a, b)
    written.co_moments()  # that version added all tokens to the moments
    state = {**written.state_dict(), "version": 2}
    del state["pending"]
    loaded = uf.AllPairsCorrelation({"a0": 30}, {"b0": 25})
    loaded.load_state_dict(state)
    assert loaded.tokens == 300
    assert bits(loaded.compute().correlation) == bits(written.compute().correlation)


def test_reset_forgets(small_chunks: int) -> None:
    a, b = models(100, (30,), (25,))
    accumulator = accumulated(a, b)
    accumulator.reset()
    assert accumulator.tokens == 0
    with pytest.raises(uf.InputError, match="no tokens"):
        accumulator.compute()


@pytest.mark.parametrize("match", MATCHES)
def test_threads_change_no_reduction(match: str) -> None:
    a, b = models(200, (150,), (130, 70))
    state = accumulated(a, b, draws=3, reverse=True).state_dict()
    found = []
    for threads in (1, 2, 5):
        accumulator = accumulated(a, b, draws=3, reverse=True, threads=threads)
        accumulator.load_state_dict(state)
        found.append(matches_of(accumulator, match))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert bits(one.correlation) == bits(other.correlation)
            assert bits(one.rotated) == bits(other.rotated)
            assert torch.equal(one.match_neuron, other.match_neuron)


def test_batches_are_not_written_to() -> None:
    a, b = models(100, (30,), (25,), F16)
    before = [x.clone() for x in (*a.values(), *b.values())]
    accumulated(a, b).compute()
    assert all(bits(x) == bits(y) for x, y in zip(before, (*a.values(), *b.values()), strict=True))


def test_strided_views_are_read_as_they_are() -> None:
    a, b = models(100, (30,), (24,), F32)
    views = {"b0": b["b0"].T.contiguous().T[::2, ::3]}
    copies = {"b0": views["b0"].contiguous()}
    halves = {"a0": a["a0"][::2]}
    one, other = accumulated(halves, views), accumulated(halves, copies)
    assert bits(one.co_moments().cross) == bits(other.co_moments().cross)


LEVEL = """
import sys
import numpy as np
from univfast import native
assert native.simd_level() == sys.argv[1], native.simd_level()
import test_all_pairs as t
a, b = t.models(300, (40, 7), (33, 64, 5), t.F16)
found = t.matches_of(t.accumulated(a, b, draws=2, seed=3, top_k=12, reverse=True))
t.assert_matches(found[0], *t.exact(a, b, "hadamard", 2, 3), "best", 1e-5)
t.assert_matches(found[1], *t.exact(b, a, "hadamard", 2, 3), "best", 1e-5)
a, b = t.models(300, (40, 7), (33, 64, 5))
found = t.matches_of(t.accumulated(a, b, draws=2, seed=3, top_k=12))
t.assert_matches(found[0], *t.exact(a, b, "hadamard", 2, 3), "best", 1e-12)
"""


@pytest.mark.parametrize("level", native.simd_levels())
def test_every_instruction_set_level(level: str) -> None:
    environment = os.environ | {
        "UNIVFAST_SIMD": level,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", LEVEL, level]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_several_passes_are_one(rotation: str, tmp_path: Path) -> None:
    a, b = models(500, (40, 30, 50, 5), (30, 45))
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    paths = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    options = correlation.PairOptions(correlation.RotationOptions(rotation, 3, 0), reverse=True)
    layers_b = co_moments.Layout(("b0", "b1"), (30, 45))
    layers_a, group = (
        co_moments.Layout(names, widths)
        for names, widths in ((tuple(a), (40, 30, 50, 5)), (("x", "y"), (50, 5)))
    )
    enough = state_bytes(layers_a, layers_b, options, devices.CPU, group)
    seen: list[tuple[int, int]] = []
    whole, parts = (
        uf.correlate(
            *paths,
            match="best",
            rotation=rotation,
            draws=3,
            reverse=True,
            memory_limit=limit,
            progress=lambda done, total: seen.append((done, total)),
        )
        for limit in (None, enough)
    )
    assert seen[0][1] == 500 * (125 + 75)
    assert seen[-1][1] == 500 * (125 + 75 * 3), "three passes over B"
    assert seen[-1][0] == seen[-1][1]
    assert whole.reverse is not None
    assert parts.reverse is not None
    for one, other in ((whole, parts), (whole.reverse, parts.reverse)):
        assert one.match_layer == other.match_layer
        assert one.top_layer == other.top_layer
        assert_close(one.correlation, other.correlation.numpy(), 1e-14, "r")
        assert_close(one.baseline, other.baseline.numpy(), 1e-13, "baseline")
        assert one.mutual is not None
        assert other.mutual is not None
        assert torch.equal(one.mutual, other.mutual)


@pytest.mark.parametrize("case", ["exclude_self", "several models"])
def test_several_passes_of_other_searches_are_one(case: str) -> None:
    a, b = models(200, (40, 30, 50, 5), (30, 45))
    a["a2"][:, :10] += 3 * a["a0"][:, :10]  # partners in other passes
    _, c = models(200, (40, 30, 50, 5), (20, 9), seed=1)
    itself = case == "exclude_self"
    others = a if itself else [b, c]
    wide = a if itself else b
    layers_a, layers_b, group = (
        co_moments.Layout(tuple(layers), tuple(x.shape[1] for x in layers.values()))
        for layers in (a, wide, {"a2": a["a2"], "a3": a["a3"]})
    )
    options = correlation.PairOptions(correlation.RotationOptions("hadamard", 3, 0), 10, itself)
    enough = state_bytes(layers_a, layers_b, options, devices.CPU, group)
    seen: list[tuple[int, int]] = []
    whole, parts = (
        uf.correlate(
            a,
            others,
            match="best",
            draws=3,
            exclude_self=itself,
            memory_limit=limit,
            progress=lambda done, total: seen.append((done, total)),
        )
        for limit in (None, enough)
    )
    assert len(seen) > 2 * (1 if itself else 2), "one pass"
    assert whole.match_layer == parts.match_layer
    assert torch.equal(whole.match_neuron, parts.match_neuron)
    for name in ("correlation", "baseline", "excess", "null_excess", "p_value"):
        expected = getattr(parts, name).numpy()
        assert_close(getattr(whole, name), expected, 1e-13, name)
    assert whole.summary["match_layers"] == parts.summary["match_layers"]
    if itself:
        assert "a2" in whole.match_layer[:40]


def test_what_fits_no_memory_is_refused() -> None:
    a, b = models(50, (40, 30), (30,))
    with pytest.raises(
        uf.InputError, match=r"memory_limit: layer 'a0' .* needs .* raise the limit"
    ):
        uf.correlate(a, b, match="best", memory_limit=1e6)
    with pytest.raises(uf.InputError, match=r"memory_limit: one-to-one .* use match='best'"):
        uf.correlate(a, b, match="one-to-one", memory_limit=1e6)
    with pytest.raises(uf.InputError, match=r"take .* this machine has"):
        uf.AllPairsCorrelation({"a": 10**7}, {"b": 10**7})
    layers = co_moments.Layout(("x",), (20000,))
    options = correlation.PairOptions(correlation.RotationOptions("none", 0, 0))
    with pytest.raises(uf.InputError, match="'one-to-one' of 20000 and 20000"):
        Searches(layers, layers, "one-to-one", options, 1, devices.CPU)


def test_partners_are_counted_as_memory() -> None:
    layers = co_moments.Layout(("x",), (1000,))
    none = correlation.RotationOptions("none", 0, 0)
    few, many, all_there_are, both = (
        state_bytes(layers, layers, correlation.PairOptions(none, k, reverse=reverse), devices.CPU)
        for k, reverse in ((1, False), (501, False), (10**11, False), (501, True))
    )
    assert many - few >= 16 * 1000 * 500
    assert all_there_are - few == (many - few) * 999 / 500
    assert both - few == 2 * (many - few) + (many - few) / 500


MEMORY = """
import sys
import torch
import univfast as uf
from univfast import co_moments, devices
from univfast.searches import state_bytes

torch.set_num_threads(1)
# Chunks and products are small here, so that matrices are what is seen. Those of B are over 32 MB,
# which malloc gives back at once.
co_moments._CHUNK_TOKENS = 64
co_moments._TILE_BYTES = 1 << 20

def megabytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024

def correlate(width_a, width_b):
    accumulator = uf.AllPairsCorrelation(
        {"x": width_a}, {"y": width_b}, rotation=sys.argv[1], draws=draws
    )
    accumulator.update(torch.randn(64, width_a), torch.randn(64, width_b))
    accumulator.compute(sys.argv[2])
    return state_bytes(
        accumulator._a, accumulator._b, accumulator.options, devices.CPU
    )

draws = 40 if sys.argv[1] == "hadamard" else 2  # so many that the co-moments within B are kept
correlate(80, 60)
before = megabytes("VmRSS")
need = correlate(300, 2200)
if sys.argv[2] == "one-to-one":
    need += 3 * 8 * 300 * 2200
print(megabytes("VmHWM") - before, need / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("rotation", ["hadamard", "gaussian"])
def test_memory_is_what_it_is_said_to_be(rotation: str, match: str) -> None:
    command = [sys.executable, "-c", MEMORY, rotation, match]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, said = map(float, done.stdout.split())
    assert grown <= said + 15, "megabytes"  # for tiles of products, and what libraries set up
    assert grown >= said / 2, "much less than said"


def test_no_more_partners_than_there_are(tmp_path: Path) -> None:
    a, b = models(60, (7, 4), (5, 3))
    result = uf.correlate(a, b, match="best", top_k=10**11, reverse=True)
    assert result.top_correlation is not None
    assert result.top_correlation.shape == (11, 8)
    assert result.reverse is not None
    assert result.reverse.top_neuron is not None
    assert result.reverse.top_neuron.shape == (8, 11)
    enough = uf.correlate(a, b, match="best", top_k=11, reverse=True)
    assert result.top_layer == enough.top_layer
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    command = ["correlate", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--match", "best"]
    assert main([*command, "--top-k", "100000000000", "--quiet"]) == 0


def test_no_full_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the state, nothing as large as a matrix of all pairs, for all its draws."""
    largest = 0
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 8 * 300 * 16)
    real = native.best_pairs

    def spy(c: Tensor, *arguments: Any) -> None:
        nonlocal largest
        largest = max(largest, c.numel())
        real(c, *arguments)

    monkeypatch.setattr(native, "best_pairs", spy)
    a, b = models(60, (300,), (300,))
    accumulated(a, b, rotation="haar", draws=2, reverse=True).compute()
    assert largest <= 300 * 16


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"x": torch.zeros(5, 3)}, {"y": torch.zeros(6, 4)}, r"a and b: leading shapes \[5\]"),
        ({"z": torch.zeros(5, 3)}, {"y": torch.zeros(5, 4)}, r"a: got layers \['z'\], expected"),
        ({"x": torch.zeros(5, 4)}, {"y": torch.zeros(5, 4)}, r"a: layer 'x': .* \[..., 3\]"),
        ({"x": torch.zeros(5, 3).int()}, {"y": torch.zeros(5, 4)}, "a: layer 'x' has dtype int32"),
        (
            {"x": torch.zeros(2, 5, 3)},
            {"y": torch.zeros(5, 2, 4)},
            r"a and b: leading shapes \[2, 5\] and \[5, 2\]",
        ),
    ],
)
def test_batches_that_do_not_fit(a: Layers, b: Layers, message: str) -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3}, {"y": 4})
    with pytest.raises(uf.InputError, match=f"^{message}"):
        accumulator.update(a, b)
    assert accumulator.tokens == 0


def test_layers_of_a_batch_must_have_the_same_tokens() -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3, "z": 2}, {"y": 4})
    with pytest.raises(uf.InputError, match=r"^a: layers 'x' and 'z' have shapes"):
        accumulator.update(
            {"x": torch.zeros(5, 3), "z": torch.zeros(4, 2)}, {"y": torch.zeros(5, 4)}
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_bad_values_are_named_and_lose_nothing(
    value: float, dtype: torch.dtype, small_chunks: int
) -> None:
    a, b = models(300, (30, 20), (25,), dtype)
    accumulator = accumulated(a, b)
    before = accumulator.state_dict()
    b["b0"] = b["b0"].clone()
    b["b0"][222, 17] = value
    with pytest.raises(
        uf.InputError, match=rf"^b: layer 'b0' has {value!r} at token 222, neuron 17;"
    ):
        accumulator.update(a, b)
    after = accumulator.state_dict()
    assert after["tokens"] == before["tokens"] == 300
    assert all(bits(before["moments"][n]) == bits(after["moments"][n]) for n in after["moments"])


def test_values_too_large_to_square_are_named() -> None:
    a, b = models(50, (3,), (4,))
    a["a0"][7, 1] = 1e200
    with pytest.raises(uf.InputError, match=r"a: layer 'a0' has 1e.200 at token 7, neuron 1, too"):
        accumulated(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, uf.InputError, "top_k: got 0, expected at least 1"),
        ({"top_k": 2.0}, TypeError, "top_k: expected an integer"),
        ({"draws": 0}, uf.InputError, "draws: got 0"),
        ({"rotation": "dft"}, uf.InputError, "rotation: got 'dft'"),
        ({"device": "cuda"}, uf.InputError, "device: "),
        ({"threads": 0}, uf.InputError, "threads: got 0"),
        ({"exclude_self": True}, uf.InputError, "exclude_self: A and B have other layers"),
        ({"layers_a": {}}, uf.InputError, "layers_a: has no layers"),
        ({"layers_a": {"x": 0}}, uf.InputError, "layers_a: 'x': got 0"),
        ({"layers_a": {1: 5}}, TypeError, "layers_a: layer names must be str"),
        ({"layers_b": 5}, TypeError, "layers_b: expected a dict"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        uf.AllPairsCorrelation(**{"layers_a": {"x": 3}, "layers_b": {"y": 4}, **options})


def test_states_that_do_not_fit_are_refused() -> None:
    accumulator = uf.AllPairsCorrelation({"x": 3}, {"y": 4})
    state = accumulator.state_dict()
    two = {"x": 3, "y": 3}
    reordered = uf.AllPairsCorrelation({"y": 3, "x": 3}, two)
    with pytest.raises(uf.InputError, match="merge: layers_a differs"):
        uf.AllPairsCorrelation(two, two).merge(reordered)
    with pytest.raises(uf.InputError, match="load_state_dict: layers_a differs"):
        uf.AllPairsCorrelation(two, two).load_state_dict(reordered.state_dict())
    for other, message in (
        (uf.AllPairsCorrelation({"x": 3}, {"y": 5}), "layers_b differs"),
        (uf.AllPairsCorrelation({"x": 3}, {"y": 4}, seed=1), "seed differs"),
        (uf.AllPairsCorrelation({"x": 3}, {"y": 4}, reverse=True), "reverse differs"),
    ):
        with pytest.raises(uf.InputError, match=f"merge: {message}"):
            accumulator.merge(other)
        with pytest.raises(uf.InputError, match=f"load_state_dict: {message}"):
            accumulator.load_state_dict(other.state_dict())
    with pytest.raises(TypeError, match="merge: expected an AllPairsCorrelation"):
        accumulator.merge(uf.PairedCorrelation(3))  # type: ignore[arg-type]
    for change, message in (
        ({"options": {**state["options"], "draws": 9}}, "draws differs, got 9, expected 5"),
        ({"format": "univfast-paired"}, "not a state of AllPairsCorrelation"),
        ({"version": 1}, "of version 2 or 3 .* version 1"),
        ({"pending": [torch.zeros(2, 3)]}, "pending is missing"),
        ({"pending": [torch.zeros(2, 3), torch.zeros(1, 4)]}, "pending is missing"),
        ({"tokens": -1}, "got -1 tokens"),
        ({"moments": {**state["moments"], "cross": torch.zeros(2, 2)}}, "cross is missing"),
        ({"moments": None}, "is missing"),
    ):
        with pytest.raises(uf.InputError, match=message):
            accumulator.load_state_dict({**state, **change})
