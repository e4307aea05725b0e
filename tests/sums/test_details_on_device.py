"""Matched pairs by torch's own operations, as on a CUDA device: here on the CPU, and on one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support.dtypes import BF16, DTYPES, F16, F32, F64, name_of
from support.matched import Matched, assert_statistics, matched
from univfast import native
from univfast.native import cuda
from univfast.sums.token_facts import TokenFacts

LIMITS = {F64: 1e-9, F32: 2e-5, F16: 2e-5, BF16: 2e-5}


@pytest.fixture(params=["on the CPU", pytest.param("on a device", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(cuda, "_DETAILS_VALUES", 47 * 128)  # some tokens at a time
    if request.param == "on a device":
        return "cuda"
    monkeypatch.setattr(native, "pair_details", cuda.pair_details)
    monkeypatch.setattr(native, "group_sums", cuda.group_sums)
    return "cpu"


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_dtype(device: str, dtype: torch.dtype) -> None:
    case = matched(dtype=dtype, masked=True)
    found = case.accumulated(1, 19, 300, 0, 380, device=device).finish()
    assert_statistics(found, case, LIMITS[dtype])


def test_equal_values_go_by_token_in_any_order(device: str) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 4, (300, 9), generator=g).double() for _ in range(2))
    case = Matched({"x": a}, {"y": b}, torch.arange(9), TokenFacts(300), top_k=40)
    for order in ([0, 1, 2], [2, 0, 1]):
        parts = [[slice(0, 60), slice(60, 200), slice(200, 300)][i] for i in order]
        found = case.feed(case.accumulator(device=device), parts).finish()
        assert_statistics(found, case, LIMITS[F64])


@pytest.mark.gpu
def test_states_move_between_devices() -> None:
    case = replace(matched(), top_k=5)
    first = case.feed(case.accumulator(device="cuda"), [slice(0, 300)])
    resumed = case.accumulator(device="cpu")
    resumed.load_state_dict(first.state_dict())
    case.feed(resumed, [slice(300, 700)])
    assert_statistics(resumed.finish(), case, LIMITS[F64])
    rest = case.feed(case.accumulator(device="cpu"), [slice(300, 700)])
    first.merge(rest)
    assert_statistics(first.finish(), case, LIMITS[F64])
