"""Sums of candidate pairs: exact, whatever the values are and however they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.candidates import cut_small, feed, layout, pair_correlations, some_pairs
from support.dtypes import BF16, DTYPES, F16, F32, F64, MIXED, name_of
from support.parity import (
    activations,
    assert_close,
    bits,
    each_hard_case,
    hard_cases,
    tolerance,
)
from univfast.sums.batches import PairOrigin
from univfast.sums.candidates import Candidates, CandidateSums

A, B = (30, 17), (25, 9, 20)
WIDTHS = A, B


@pytest.fixture(autouse=True)
def _cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def models(tokens: int = 333, dtype: torch.dtype = F32) -> tuple[Tensor, Tensor]:
    """Neurons of A and B that share factors; neuron 3 of A and the last of B are constant."""
    x, y = activations(tokens, 54)
    x[:, 3] = y[:, -1] = 0.1
    return torch.from_numpy(x[:, :47]).to(dtype), torch.from_numpy(y).to(dtype)


PAIRS = some_pairs(47, 54)


def sums_of(threads: int = 1) -> CandidateSums:
    return CandidateSums(layout("a", A), layout("b", B), PAIRS, threads=threads)


def accumulated(a: Tensor, b: Tensor, sizes: tuple[int, ...] | None = None) -> CandidateSums:
    sums = sums_of()
    feed(sums, a, b, WIDTHS, sizes)
    return sums


def state_bits(sums: CandidateSums) -> dict[str, bytes]:
    return {name: bits(x) for name, x in sums.moments().tensors().items()}


# ---- which pairs --------------------------------------------------------------------------------


def test_candidates_are_those_of_both_directions() -> None:
    g = np.random.default_rng(0)
    forward, backward = g.integers(-1, 9, (7, 3)), g.integers(-1, 7, (9, 2))
    pairs = Candidates.of(torch.from_numpy(forward), torch.from_numpy(backward))
    expected = sorted(
        {(i, j) for i in range(7) for j in forward[i] if j >= 0}
        | {(i, j) for j in range(9) for i in backward[j] if i >= 0}
    )
    starts = pairs.starts.tolist()
    found = [(i, j) for i in range(7) for j in pairs.places[starts[i] : starts[i + 1]].tolist()]
    assert found == expected
    assert list(zip(pairs.rows().tolist(), pairs.places.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 2, dtype=torch.int64), "forward: expected int64"),
        (torch.full((3, 2), 4), torch.zeros(4, 2, dtype=torch.int64), "forward: .* -1 to 3"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.full((4, 1), -2), "backward: .* -1 to 2"),
        (torch.zeros(3, dtype=torch.int64), torch.full((4, 1), 1), "forward: expected int64"),
    ],
)
def test_numbers_that_are_no_neurons_are_refused(
    forward: Tensor, backward: Tensor, message: str
) -> None:
    with pytest.raises(uf.InputError, match=f"^{message}"):
        Candidates.of(forward, backward)


@pytest.mark.parametrize(
    ("starts", "places"),
    [
        ([0, 2], [0, 1]),  # of one neuron of A alone
        ([0, 2, 1], [0, 1]),
        ([1, 2, 2], [0, 1]),
        ([0, 2, 2], [1, 0]),
        ([0, 2, 2], [1, 1]),
        ([0, 1, 2], [1, 3]),
        ([0, 1, 2], [-1, 1]),
    ],
)
def test_other_pairs_are_refused(starts: list[int], places: list[int]) -> None:
    pairs = Candidates(torch.tensor(starts), torch.tensor(places))
    with pytest.raises(uf.InputError, match=r"^candidates: expected rows of increasing numbers"):
        CandidateSums(layout("a", [2]), layout("b", [3]), pairs)


def test_there_may_be_no_pairs() -> None:
    none = torch.full((47, 2), -1), torch.full((54, 0), -1)
    sums = CandidateSums(layout("a", A), layout("b", B), Candidates.of(*none), threads=1)
    a, b = models(100)
    feed(sums, a, b, WIDTHS)
    assert sums.correlations().shape == (0,)
    assert sums.dead_a.nonzero().tolist() == [[3]]
    assert sums.dead_b.nonzero().tolist() == [[53]]


# ---- how exact ----------------------------------------------------------------------------------


@each_hard_case
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    case = hard_cases(dtype)[name]
    pairs = some_pairs(96, 96, each=2)
    sums = CandidateSums(layout("a", [96]), layout("b", [96]), pairs, threads=1)
    feed(sums, case.a, case.b, ([96], [96]), case.batches)
    expected = pair_correlations(case.a, case.b, pairs)
    assert_close(sums.correlations(), expected, tolerance(dtype), name)


@pytest.mark.parametrize("dtypes", [(x, x) for x in DTYPES] + MIXED, ids=name_of)
def test_every_dtype(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    a, b = models(500)
    a, b = a.to(dtypes[0]), b.to(dtypes[1])
    found = accumulated(a, b, (100, 28, 372))
    assert_close(found.correlations(), pair_correlations(a, b, PAIRS), tolerance(*dtypes), "r")


@pytest.mark.parametrize("dtype", [F64, F32, BF16, F16], ids=name_of)
def test_neurons_that_are_seldom_active(dtype: torch.dtype) -> None:
    """Once in 5,000 tokens, beside others that are active everywhere."""
    tokens = 5000
    a, b = models(tokens, F64)
    rare = torch.zeros(tokens, 1, dtype=F64)
    rare[4321] = 3.0
    a[:, 20:] = a[:, 20:].relu() * (torch.arange(tokens) % 1000 < 3)[:, None] + 1e-3 * rare
    a[:, 40:] = rare
    b[:, 45:] = rare + 0.25
    a, b = a.to(dtype), b.to(dtype)
    found = accumulated(a, b).correlations()
    expected = pair_correlations(a, b, PAIRS)
    assert_close(found, expected, tolerance(dtype), "r")
    assert (expected > 0.999).any()


def test_layers_of_several_dtypes() -> None:
    a, b = models(200, F64)
    layers = list(a.split(A, dim=1)), list(b.split(B, dim=1))
    layers[0][1], layers[1][0] = layers[0][1].half(), layers[1][0].bfloat16()
    sums = sums_of()
    sums.update_rows(*layers, None, PairOrigin())
    stored = (torch.cat([x.double() for x in side], dim=1) for side in layers)
    assert_close(sums.correlations(), pair_correlations(*stored, PAIRS), 1e-12, "r")


def test_batches_of_several_dtypes() -> None:
    a, b = models(300, F64)
    sums = sums_of()
    stored = []
    for part, dtype in ((slice(0, 30), F16), (slice(30, 130), F32), (slice(130, 300), BF16)):
        own = a[part].to(dtype), b[part].to(dtype)
        feed(sums, *own, WIDTHS)
        stored.append([x.double() for x in own])
    whole = [torch.cat(x) for x in zip(*stored, strict=True)]
    assert sums.tokens == 300
    assert_close(sums.correlations(), pair_correlations(*whole, PAIRS), 1e-6, "r")


def test_means_of_many_batches() -> None:
    """They drift by 1,000 standard deviations."""
    a, b = models(2000, F64)
    drift = torch.linspace(0, 1000, 2000, dtype=F64)[:, None]
    a, b = a + drift, b - drift
    found = accumulated(a, b, (7, 993, 1000)).moments()
    np.testing.assert_allclose(found.mean_a.numpy(), a.mean(dim=0).numpy(), rtol=1e-14)
    second = (b - b.mean(dim=0)).square().sum(dim=0)
    np.testing.assert_allclose(found.m2_b.numpy(), second.numpy(), rtol=1e-12)
    i, j = (x.numpy() for x in found.pairs())
    centred = (a - a.mean(dim=0)).numpy(), (b - b.mean(dim=0)).numpy()
    cross = (centred[0][:, i] * centred[1][:, j]).sum(axis=0)
    np.testing.assert_allclose(found.cross.numpy(), cross, rtol=1e-11)


# ---- how they come ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
def test_bits_depend_neither_on_batches_nor_on_threads(dtype: torch.dtype) -> None:
    a, b = models(dtype=dtype)
    whole = state_bits(accumulated(a, b))
    for sizes in ((1, 332), (63, 1, 200, 69), (0, 64, 64, 0, 64, 100, 41), (128, 205)):
        assert state_bits(accumulated(a, b, sizes)) == whole
    for threads in (2, 5):
        sums = sums_of(threads)
        feed(sums, a, b, WIDTHS)
        assert state_bits(sums) == whole


def test_many_threads_share_the_rows() -> None:
    """So many values that each has some."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 300, 700, generator=g)
    pairs = some_pairs(700, 700, each=40)
    found = []
    for threads in (1, 3):
        sums = CandidateSums(layout("a", [700]), layout("b", [700]), pairs, threads=threads)
        feed(sums, a, b, ([700], [700]))
        found.append(sums.correlations())
    assert bits(found[0]) == bits(found[1])
    assert_close(found[0], pair_correlations(a, b, pairs), 1e-6, "r")


def test_masked_tokens_are_left_out() -> None:
    a, b = models()
    keep = torch.rand(333, generator=torch.Generator().manual_seed(0)) < 0.6
    masked = sums_of()
    feed(masked, torch.where(keep[:, None], a, torch.nan), b, WIDTHS, (100, 233), keep)
    assert masked.tokens == int(keep.sum())
    assert state_bits(masked) == state_bits(accumulated(a[keep], b[keep]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e200])
@pytest.mark.parametrize("token", [5, 200])
def test_bad_values_are_named_and_nothing_is_added(value: float, token: int) -> None:
    a, b = models(dtype=F64)
    sums = accumulated(a, b)
    before = state_bits(sums)
    spoilt = b.clone()
    spoilt[token, 30] = value
    with pytest.raises(
        uf.InputError, match=rf"^right: layer 'b1' has .* at token {token}, neur.* 5"
    ):
        feed(sums, a, spoilt, WIDTHS)
    assert state_bits(sums) == before
    assert sums.tokens == 333


def test_a_bad_value_behind_a_mask_is_named_by_its_token() -> None:
    a, b = models()
    a[150, 31] = torch.nan
    keep = torch.ones(333, dtype=torch.bool)
    keep[110:130] = False
    with pytest.raises(uf.InputError, match=r"^left: layer 'a1' has nan at token 150, neuron 1"):
        feed(sums_of(), a, b, WIDTHS, (100, 233), keep)


def test_merging_is_adding() -> None:
    a, b = models(500, F64)
    a += torch.linspace(0, 30, 500, dtype=F64)[:, None]
    merged = sums_of()
    for part in (slice(0, 10), slice(10, 10), slice(10, 400), slice(400, 500)):
        merged.merge(accumulated(a[part], b[part]))
    assert merged.tokens == 500
    assert_close(merged.correlations(), pair_correlations(a, b, PAIRS), 1e-12, "r")


def test_other_pairs_are_not_merged() -> None:
    other = CandidateSums(layout("a", A), layout("b", B), some_pairs(47, 54, seed=1))
    with pytest.raises(uf.InputError, match=r"^merge: "):
        sums_of().merge(other)


def test_reset_forgets() -> None:
    a, b = models()
    sums = accumulated(b[:, :47], a.repeat(1, 2)[:, :54])
    sums.reset()
    assert sums.tokens == 0
    feed(sums, a, b, WIDTHS)
    assert state_bits(sums) == state_bits(accumulated(a, b))


# ---- states -------------------------------------------------------------------------------------


def copied(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "moments": {name: x.clone() for name, x in state["moments"].items()}}


@pytest.mark.parametrize("saved_at", [0, 30, 64, 100])
def test_a_state_goes_on_where_it_was_saved(saved_at: int) -> None:
    a, b = models()
    first = accumulated(a[:saved_at], b[:saved_at])
    state = copied(first.saved_state())
    loaded = accumulated(a, b)  # replaced
    loaded.load_saved(state)
    assert loaded.tokens == saved_at
    for sums in (first, loaded):
        feed(sums, a[saved_at:], b[saved_at:], WIDTHS)
        assert state_bits(sums) == state_bits(accumulated(a, b))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cross", lambda x: x * 1e3, "a co-moment larger than both variances allow"),
        ("cross", lambda x: x[:-1], "missing or not of shape"),
        ("cross", lambda x: x.float(), "is float32, expected float64"),
        ("m2_a", lambda x: -x, "sums of squares below 0"),
        ("mean_b", lambda x: x * torch.nan, "not finite"),
    ],
)
def test_spoilt_states_are_refused(name: str, change: Any, message: str) -> None:
    a, b = models()
    sums = accumulated(a, b)
    state = copied(sums.saved_state())
    state["moments"][name] = change(state["moments"][name])
    before = state_bits(sums)
    with pytest.raises(uf.InputError, match=rf"^load_state_dict: {name} .*{message}"):
        sums.load_saved(state)
    assert state_bits(sums) == before


def test_states_of_other_pairs_are_refused() -> None:
    other = CandidateSums(layout("a", A), layout("b", B), some_pairs(47, 54, seed=1))
    with pytest.raises(uf.InputError, match=r"^load_state_dict: (starts|places) "):
        sums_of().load_saved(other.saved_state())
