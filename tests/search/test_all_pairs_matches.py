"""All pairs: every number against the full matrix in float64, for every matching and direction."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

import univfast as uf
from support.dtypes import BF16, DTYPES, F16, F32, F64, name_of
from support.pairs import (
    MATCHES,
    ROTATIONS,
    accumulated,
    assert_matches,
    exact,
    limit_of,
    low_rank,
    matches_of,
    models,
)
from support.parity import assert_close, hard_cases
from univfast import reference
from univfast.sums import chunks

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


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_layers_of_low_rank(rank: int, rotation: str, baseline: str) -> None:
    """Of float32, where a layer cancels in a rotated neuron: its rounding is none of the answer."""
    a, b = low_rank(rank)
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


@pytest.mark.slow
def test_float32_products_would_not_do_for_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_cancels", lambda *_: False)
    with pytest.raises(AssertionError, match="rotated r: off by"):
        test_layers_of_low_rank(1, "hadamard", "")
    with pytest.raises(AssertionError, match="rotated r: off by"):
        test_low_rank_with_many_draws(2, 0)


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


@pytest.mark.slow
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


def _one_live(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A, B of one live neuron, and its number."""
    g = np.random.default_rng([width, seed])
    a, live = torch.from_numpy(g.standard_normal((80, width))), int(g.integers(width))
    b = torch.zeros_like(a)
    b[:, live] = torch.from_numpy(g.standard_normal(80))
    return a, b, live


@pytest.mark.parametrize("width", [32, 128])
@pytest.mark.parametrize("way", ["dense", "sparse", "screen"])
def test_rotated_neurons_in_which_all_cancels(way: str, width: int) -> None:
    """Of one live neuron, each rotated neuron has its r, either way, or nothing."""
    for seed in range(8):
        a, b, live = _one_live(width, seed)
        given = (a.to_sparse(), b.to_sparse()) if way == "sparse" else (a, b)
        result = uf.correlate(*given, match="best", draws=4, screen=64 if way == "screen" else None)
        np.testing.assert_allclose(result.baseline_std.numpy(), 0, rtol=0, atol=1e-7)
        if way != "screen":  # whose baselines are those of some tokens
            r = np.abs(reference.pearson_matrix(a.numpy(), b.numpy())[:, live])
            np.testing.assert_allclose(result.baseline.numpy(), r, rtol=0, atol=1e-12)


def test_rotated_neurons_in_which_all_cancels_by_index() -> None:
    found = []
    for seed in range(40):
        a, b, live = _one_live(16, seed)
        result = uf.correlate(a, b, match="index", draws=1, shifts=0)
        r, baseline = (float(x[live]) for x in (result.correlation, result.baseline))
        found.append(math.isnan(baseline))
        assert math.isnan(baseline) or abs(abs(baseline) - abs(r)) < 1e-12
    assert 0 < sum(found) < 20
