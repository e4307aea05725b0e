"""Matched pairs: every statistic against the reference, however the tokens come."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support.dtypes import BF16, DTYPES, F16, F32, F64, name_of
from support.matched import Matched, assert_statistics, matched, slices
from support.parity import hard_cases
from univfast import reference
from univfast.errors import InputError
from univfast.sums import details, pair_statistics
from univfast.sums.details import PairDetails, details_bytes
from univfast.sums.pair_statistics import PairStatistics
from univfast.sums.token_facts import TokenFacts, token_groups

LIMITS = {F64: 1e-9, F32: 2e-5, F16: 2e-5, BF16: 2e-5}
# Batches of the 700 tokens: across blocks, of one token, of none.
SPLITS = [(700,), (1, 19, 300, 0, 380), (20,) * 35, (650, 50)]


def same(one: PairStatistics, other: PairStatistics) -> bool:
    """Equal to the last bit."""

    def parts(found: PairStatistics) -> list[Any]:
        values = [getattr(found, field.name) for field in fields(found)]
        return [x for v in values for x in (v if isinstance(v, tuple) else (v,))]

    def equal(p: Any, q: Any) -> bool:
        if not isinstance(p, Tensor):
            return bool(p == q)
        return torch.equal(p.isnan(), q.isnan()) and torch.equal(p.nan_to_num(), q.nan_to_num())

    return all(map(equal, parts(one), parts(other)))


# ---- against the reference ----------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masked"])
@pytest.mark.parametrize("ids", [False, True], ids=["no ids", "ids"])
@pytest.mark.parametrize("window", [1, 20, 700])
def test_what_is_known_of_tokens(window: int, ids: bool, masked: bool) -> None:
    case = matched(ids=ids, window=window, masked=masked)
    assert_statistics(case.accumulated(400, 300).finish(), case, LIMITS[F64])


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_dtypes_and_splits(split: tuple[int, ...], dtype: torch.dtype) -> None:
    case = matched(dtype=dtype, masked=True)
    assert_statistics(case.accumulated(*split).finish(), case, LIMITS[dtype])


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "sparse"])
def test_products_with_ids_and_positions(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_statistics, "_SPARSE", share)
    monkeypatch.setattr(pair_statistics, "_SLAB", 20)
    case = matched(masked=True)
    assert_statistics(case.accumulated().finish(), case, LIMITS[F64])


def test_dtypes_of_layers_and_models_may_differ() -> None:
    case = matched()
    a = {name: x.to(t) for (name, x), t in zip(case.a.items(), (F32, F16), strict=True)}
    b = {name: x.to(t) for (name, x), t in zip(case.b.items(), (BF16, F32, F16), strict=True)}
    mixed = replace(case, a=a, b=b)
    assert_statistics(mixed.accumulated(300, 400).finish(), mixed, LIMITS[F32])
    wide = replace(case, a=a)
    assert_statistics(wide.accumulated(300, 400).finish(), wide, LIMITS[F64])


@pytest.mark.parametrize("tokens", [1, 2, 3, 31, 33, 65, 2100])
def test_numbers_of_tokens(tokens: int) -> None:
    g = torch.Generator().manual_seed(tokens)
    a, b = (torch.randn(tokens, 5, generator=g, dtype=F64) for _ in range(2))
    case = Matched({"x": a}, {"y": b + a}, torch.tensor([0, 1, 2, 4, -1]), TokenFacts(tokens))
    found = case.accumulated().finish()
    assert found.blocks == min(32, tokens)
    if tokens > 2:  # r of two is 1 within rounding
        assert_statistics(found, case, 1e-6 if tokens == 3 else LIMITS[F64])
    else:
        assert found.correlation_se.isnan().all()


@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
@pytest.mark.parametrize("width", [1, 7, 8, 255, 257, 520])
def test_widths_and_partners_in_a_row(width: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(width)
    a = torch.randn(90, width, generator=g, dtype=F64).to(dtype)
    b = torch.randn(90, width + 3, generator=g, dtype=F64).to(dtype)
    for match in (torch.arange(width), torch.arange(width) + 3, torch.arange(width).flip(0)):
        case = Matched({"x": a}, {"y": b}, match, TokenFacts(90), top_k=3)
        assert_statistics(case.accumulated(77, 13).finish(), case, LIMITS[dtype])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for dtype in (F64, F32) for name in hard_cases(dtype)],
    ids=name_of,
)
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    """r is as exact as README promises, about a frame that the first batch gave."""
    hard = hard_cases(dtype)[name]
    sizes = hard.batches or (len(hard.a),)
    neurons = hard.a.shape[1]
    case = Matched({"x": hard.a}, {"y": hard.b}, torch.arange(neurons), TokenFacts(len(hard.a)))
    found = case.accumulated(*sizes).finish()
    r = reference.pearson(hard.a.double().numpy(), hard.b.double().numpy())
    np.testing.assert_array_equal(found.correlation.isnan().numpy(), np.isnan(r))
    error = np.nan_to_num(np.abs(found.correlation.numpy() - r)).max()
    assert error <= (1e-6 if dtype == F32 else 1e-12)
    alive = found.correlation.isfinite()
    assert found.correlation_se[alive].isfinite().all()
    assert found.kurtosis[alive].isfinite().all()


def test_a_frame_that_does_not_fit_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    case = matched(dtype=F32)
    plain = case.accumulated().finish().correlation
    alive = [i for i in range(len(case.match)) if i not in (4, 39, 46)]  # constants in part
    for mean, std in ((0.0, 1e-9), (3e4, 1.0), (0.0, 1e9)):
        said = [torch.tensor(x, dtype=F64) for x in (mean, std)]
        monkeypatch.setattr(
            details, "mean_and_std", lambda x, said=said: [y.expand(x.shape[1]) for y in said]
        )
        found = case.accumulated(50, 650).finish()
        assert torch.allclose(found.correlation[alive], plain[alive], atol=1e-3, equal_nan=True)


# ---- contexts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
def test_equal_values_go_by_token_in_any_order(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 4, (300, 9), generator=g).to(dtype) for _ in range(2))
    a[:, 0] = torch.where(torch.arange(300) == 250, 1.0, 0.0)
    case = Matched({"x": a}, {"y": b}, torch.arange(9), TokenFacts(300), top_k=40)
    parts = slices(60, 1, 139, 100)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = case.feed(case.accumulator(), [parts[i] for i in order]).finish()
        assert_statistics(found, case, LIMITS[dtype])


def test_fewer_tokens_than_contexts() -> None:
    case = replace(matched(10, window=1), top_k=16)
    found = case.accumulated(4, 6).finish()
    assert (found.top.token[0, :10] >= 0).all()
    assert (found.top.token[:, 10:] == -1).all()
    assert found.top.value[:, 10:].isnan().all()


# ---- threads, states, several accumulators ------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, F32, F16], ids=name_of)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2000, 700, generator=g).to(dtype) for _ in range(2))
    groups = torch.randint(0, 9, (2000,), generator=g)
    match = torch.randperm(700, generator=g)
    case = Matched({"x": a}, {"y": b}, match, TokenFacts(2000, 50, groups))
    one, *others = (case.accumulated(1500, 500, threads=n).finish() for n in (1, 2, 3, 7))
    assert all(same(one, other) for other in others)


def test_a_state_goes_through_a_file(tmp_path: Path) -> None:
    case = matched(dtype=F32, masked=True)
    first = case.feed(case.accumulator(), slices(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = case.accumulator()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.tokens == first.tokens
    rest = slices(300, 400)[1:]
    assert same(case.feed(resumed, rest).finish(), case.accumulated(300, 400).finish())


def test_states_that_do_not_fit_are_refused_by_name() -> None:
    case = matched()
    state = case.accumulated().state_dict()
    others = {
        "match": replace(case, match=case.match.roll(1)),
        "token_groups": replace(case, facts=replace(case.facts, groups=None)),
        "window": replace(case, facts=replace(case.facts, window=10)),
        "top_k": replace(case, top_k=3),
        "layers_a": replace(case, a={"z": case.a["a0"], "a1": case.a["a1"]}),
    }
    for name, other in others.items():
        with pytest.raises(InputError, match=rf"^load_state_dict: {name} differs"):
            other.accumulator().load_state_dict(state)
        with pytest.raises(InputError, match=rf"^merge: {name} differs"):
            other.accumulator().merge(case.accumulator())
    accumulator = case.accumulator()
    cut = {**state, "details": {**state["details"], "powers": torch.zeros(2, 2)}}
    with pytest.raises(InputError, match=r"^load_state_dict: powers is missing"):
        accumulator.load_state_dict(cut)
    with pytest.raises(InputError, match=r"^load_state_dict: not a state of PairDetails"):
        accumulator.load_state_dict({**state, "version": 9})
    with pytest.raises(TypeError, match=r"^merge: "):
        accumulator.merge(3)  # type: ignore[arg-type]
    assert accumulator.tokens == 0


@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
def test_accumulators_merge(dtype: torch.dtype) -> None:
    case = matched(dtype=dtype, masked=True)
    parts = slices(250, 50, 400)
    for order in ([0, 1, 2], [2, 0, 1]):
        pieces = [case.feed(case.accumulator(), [parts[i]]) for i in order]
        total = case.accumulator()
        for piece in (case.accumulator(), *pieces):
            total.merge(piece)
        assert_statistics(total.finish(), case, LIMITS[dtype])


def test_reset_and_an_empty_state() -> None:
    case = matched()
    accumulator = case.accumulated()
    accumulator.reset()
    assert accumulator.tokens == 0
    with pytest.raises(InputError, match=r"^finish: no tokens"):
        accumulator.finish()
    accumulator.load_state_dict(case.accumulator().state_dict())
    case.feed(accumulator, slices(700))
    assert same(accumulator.finish(), case.accumulated().finish())


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("side", "layer", "neuron"), [("a", "a1", 2), ("b", "b1", 7)])
def test_bad_values_are_named(side: str, layer: str, neuron: int, value: float) -> None:
    case = matched(dtype=F32)
    case.match[5] = 33 + 7
    accumulator = case.feed(case.accumulator(), slices(300))
    before = accumulator.finish()
    getattr(case, side)[layer][444, neuron] = value
    message = rf"^{side}: layer '{layer}' has {value} at token 444, neuron {neuron}; mend"
    with pytest.raises(InputError, match=message):
        case.feed(accumulator, slices(300, 400)[1:])
    assert same(accumulator.finish(), before)
    mask = torch.ones(700, dtype=torch.bool)
    mask[444] = False
    case.feed(case.accumulator(), [])
    replace(case, mask=mask).feed(accumulator, slices(300, 400)[1:])
    assert accumulator.tokens == 699


def test_bad_arguments() -> None:
    case = matched()
    with pytest.raises(InputError, match=r"^update_rows: tokens 1 to 701 are not within the 700"):
        case.accumulator().update_rows(list(case.a.values()), list(case.b.values()), None, 1)
    for match in (case.match[1:], case.match.int(), case.match + 58, case.match - 1):
        with pytest.raises(InputError, match=r"^match: "):
            replace(case, match=match).accumulator()
    with pytest.raises(InputError, match=r"^groups: "):
        TokenFacts(5, groups=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"^token ids: "):
        token_groups(torch.zeros(4))


# ---- tokens -------------------------------------------------------------------------------------


def test_groups_of_ids() -> None:
    ids = torch.tensor([7, 3, 7, 900, 3, 7, 1])
    assert token_groups(ids).tolist() == [0, 1, 0, 3, 1, 0, 2]
    many = torch.cat([torch.arange(5000), torch.arange(5000)[4000:]])
    groups = token_groups(many)
    assert groups.max() == 4096
    assert groups[4000:4003].tolist() == [0, 1, 2]
    assert (groups == 4096).sum() == 5000 - 4096


@pytest.mark.parametrize(("tokens", "window"), [(700, 20), (700, 1), (31, 1), (1000, 333), (5, 9)])
def test_blocks_are_of_whole_samples(tokens: int, window: int) -> None:
    starts = TokenFacts(tokens, window).block_starts
    samples = -(-tokens // window)
    token = torch.arange(tokens)
    blocks = min(32, samples) * (token // window) // samples
    assert len(starts) == min(32, samples) + 1
    assert torch.equal(torch.searchsorted(starts, token, right=True) - 1, blocks)


def test_bytes_are_those_of_the_state() -> None:
    case = matched()
    accumulator = case.accumulated()
    held = sum(x.nbytes for x in accumulator.tensors().values())
    counted = details_bytes(accumulator._a, accumulator._b, case.facts, case.top_k)
    assert held < counted < 3 * held
    assert isinstance(accumulator, PairDetails)
