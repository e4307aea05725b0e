"""PairedCorrelation on a CUDA device: bad values, streams, merges and saved states."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, DTYPES, F32, F64, name_of
from support.on_device import (
    DEVICE,
    OnDevice,
    assert_as_in_float64,
    no_synchronisation,
    sleep,
    streaming,
)
from support.parity import (
    accumulated,
    activations,
    assert_close,
    assert_holds,
    assert_parity,
    bits,
    exact,
    make_case,
    same_bits,
)
from univfast.bench.data import correlated
from univfast.errors import InputError

pytestmark = pytest.mark.gpu


def batch(tokens: int, neurons: int, dtype: torch.dtype = F32, seed: int = 0) -> tuple[Tensor, ...]:
    values = activations(tokens, neurons, seed)
    return tuple(torch.from_numpy(x).to(DEVICE, dtype) for x in values)


# ---- bad values ---------------------------------------------------------------------------------


def spoilt(side: str, value: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A batch with a bad value at token 37, neuron 29 of one side, and others at later tokens."""
    a, b = batch(200, 48, dtype, seed=1)
    {"a": a, "b": b}[side][37, 29] = value
    a[150, 3] = b[38, 0] = math.nan
    return a, b


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_bad_value_is_named(side: str, value: float, dtype: torch.dtype, rotation: str) -> None:
    accumulator = uf.PairedCorrelation(48, draws=2, rotation=rotation, device=DEVICE)
    batch = spoilt(side, value, dtype)

    def given() -> uf.CorrelationResult:  # by update, where the rotation is a matrix
        accumulator.update(*batch)
        return accumulator.compute()

    where = f"{side}: layer 'activations' has {value!r} at token 37, neuron 29;"
    with pytest.raises(InputError, match=re.escape(where)):
        given()


def test_a_value_too_large_to_square_is_named() -> None:
    accumulator = uf.PairedCorrelation(48, draws=2, device=DEVICE)
    a, b = batch(200, 48, F64)
    b[37, 29] = 1e200
    accumulator.update(a, b)
    with pytest.raises(InputError, match=r"b: .* 1e\+200 at token 37, neuron 29, too large"):
        accumulator.correlations()


@pytest.mark.parametrize("place", ["cpu", DEVICE])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
@pytest.mark.parametrize("rotation", ["hadamard", "none"])
def test_the_batch_with_a_bad_value_is_left_out(
    rotation: str, dtype: torch.dtype, place: str
) -> None:
    first, second = (batch(300, 48, dtype, seed) for seed in (2, 3))
    good, accumulator = (
        uf.PairedCorrelation(48, draws=2, rotation=rotation, device=DEVICE) for _ in range(2)
    )
    for a, b in (first, second):
        good.update(a, b)
    accumulator.update(*first)
    accumulator.update(*(x.to(place) for x in spoilt("a", math.inf, dtype)))
    accumulator.update(*second)
    with pytest.raises(InputError, match="neuron 29"):
        accumulator.correlations()
    assert accumulator.tokens == 600
    assert bits(accumulator.state_dict()["moments"]) == bits(good.state_dict()["moments"])


def test_reset_forgets_a_bad_value() -> None:
    case = make_case("after", *activations(100, 48), F32)
    accumulator = uf.PairedCorrelation(48, draws=2, device=DEVICE)
    accumulator.update(*spoilt("a", math.nan, F32))
    accumulator.reset()
    accumulator.update(case.a.to(DEVICE), case.b.to(DEVICE))
    assert_holds(accumulator, case)


def test_a_mask_leaves_bad_values_out() -> None:
    a, b = spoilt("a", math.nan, F32)
    keep = torch.ones(200, dtype=torch.bool, device=DEVICE)
    keep[[37, 38, 150]] = False
    accumulator = uf.PairedCorrelation(48, draws=2, device=DEVICE)
    accumulator.update(a, b, mask=keep)
    assert_as_in_float64(accumulator.correlations(), a[keep], b[keep], 1e-6, draws=2)


# ---- the queue ----------------------------------------------------------------------------------


# torch warns that it does not detect everything; the sleeping device detects the rest.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masked"])
@pytest.mark.parametrize("rotation", ["hadamard", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
@pytest.mark.parametrize("neurons", [48, 3072])
def test_update_does_not_wait(
    neurons: int, dtype: torch.dtype, rotation: str, masked: bool
) -> None:
    a, b = batch(200, neurons, dtype)
    keep = torch.arange(200, device=DEVICE) % 3 > 0 if masked else None
    accumulator = uf.PairedCorrelation(neurons, draws=2, rotation=rotation, device=DEVICE)

    def update() -> None:
        accumulator.update(a, b, mask=keep)
        accumulator.update(a.T.contiguous().T, b, mask=keep)

    update()  # for whatever is made or loaded once
    with no_synchronisation():
        update()
    assert accumulator.tokens == 4 * (200 if keep is None else int(keep.sum()))


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_work_is_queued_on_the_current_stream(rotation: str) -> None:
    """Behind what came before on that stream, and before what comes after."""
    a, b = batch(2000, 96)
    x, y = torch.full_like(a, torch.nan), torch.full_like(b, torch.nan)
    accumulator = uf.PairedCorrelation(96, draws=2, rotation=rotation, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for first in (0, 1000):
            sleep()
            part = slice(first, first + 1000)
            x[part].copy_(a[part])
            y[part].copy_(b[part])
            accumulator.update(x[part], y[part])
            x[part] = y[part] = torch.nan
        found = accumulator.correlations()
    assert_as_in_float64(found, a, b, 1e-6, draws=2, rotation=rotation)


def test_what_update_allocates_is_not_taken_from_it() -> None:
    """Memory that torch hands out again while the device is not done with it yet."""
    a, b = batch(1000, 512)
    accumulator = uf.PairedCorrelation(512, draws=2, device=DEVICE)
    accumulator.update(a[:500], b[:500])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        sleep()
        accumulator.update(a[500:].T.contiguous().T, b[500:])
    for _ in range(20):
        torch.full((1 << 20,), torch.nan, device=DEVICE)
    with torch.cuda.stream(stream):
        found = accumulator.correlations()
    assert_as_in_float64(found, a, b, 1e-6, draws=2)


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
@pytest.mark.parametrize("neurons", [48, 100, 3072, 32768])
def test_the_same_call_gives_the_same_bits(neurons: int, dtype: torch.dtype) -> None:
    tokens = 20_000 if neurons < 10_000 else 1000
    a, b = (x.to(DEVICE, dtype) for x in correlated(tokens, neurons))
    first, *others = (uf.PairedCorrelation(neurons, draws=3, device=DEVICE) for _ in range(3))
    for accumulator in (first, *others):
        accumulator.update(a, b)
        accumulator.update(a[: tokens // 3], b[: tokens // 3])
    assert all(same_bits(first, other) for other in others)


# ---- where it runs ------------------------------------------------------------------------------


def test_the_device_follows_the_first_batch() -> None:
    case = make_case("small", *activations(60, 33), F32)
    places = {"cpu": DEVICE, DEVICE: "cpu"}
    for first, then in places.items():
        accumulator = uf.PairedCorrelation(33, draws=2)
        for place, part in ((first, slice(0, 40)), (then, slice(40, None))):
            accumulator.update(case.a[part].to(place), case.b[part].to(place))
        assert_holds(accumulator, case)
        result = accumulator.compute()
        assert result.summary["tokens"] == 60
        assert result.summary["device"].startswith(first)
        assert result.correlation.device.type == "cpu"


def test_inputs_on_two_devices() -> None:
    case = make_case("small", *activations(60, 33), F32)
    accumulator = uf.PairedCorrelation(33, draws=2, device=DEVICE)
    accumulator.update(case.a, case.b.to(DEVICE))
    assert_holds(accumulator, case)


def test_a_device_that_there_is_not() -> None:
    with pytest.raises(InputError, match=r"^device: "):
        uf.PairedCorrelation(33, device=f"cuda:{torch.cuda.device_count()}")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_several_devices() -> None:
    case = make_case("small", *activations(600, 96), F32)
    parts = []
    for device in ("cuda:0", "cuda:1"):
        for place in ("cuda:0", "cuda:1", "cpu"):
            accumulator = uf.PairedCorrelation(96, draws=2, device=device)
            accumulator.update(case.a.to(place), case.b.to(place))
            assert_holds(accumulator, case)
            assert torch.cuda.current_device() == 0
        parts.append(accumulator)
    parts[0].merge(parts[1])
    twice = replace(case, a=case.a.repeat(2, 1), b=case.b.repeat(2, 1))
    assert_holds(parts[0], twice)


# ---- merges and saved states --------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
@pytest.mark.parametrize("devices", [("cpu", DEVICE), (DEVICE, "cpu"), (DEVICE, DEVICE)], ids=str)
def test_merge(devices: tuple[str, str], dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(900, 65)
    case = make_case("merged", a + 3, b - 3, dtype, rotation=rotation)
    parts = [
        accumulated(replace(case, a=case.a[part], b=case.b[part]), device=device)
        for part, device in zip((slice(0, 350), slice(350, None)), devices, strict=True)
    ]
    untouched = parts[1].state_dict()
    parts[0].merge(parts[1])
    assert_holds(parts[0], case)
    assert bits(parts[1].state_dict()["moments"]) == bits(untouched["moments"])


def test_merges_of_nothing() -> None:
    case = make_case("small", *activations(20, 33), F32)
    accumulator = accumulated(case, device=DEVICE)
    before = accumulator.state_dict()
    accumulator.merge(uf.PairedCorrelation(33, draws=2, device=DEVICE))
    accumulator.merge(uf.PairedCorrelation(33, draws=2))
    fresh = uf.PairedCorrelation(33, draws=2, device=DEVICE)
    fresh.merge(accumulator)
    for one in (accumulator, fresh):
        assert bits(one.state_dict()["moments"]) == bits(before["moments"])
        assert_holds(one, case)
    accumulator.merge(accumulator)
    assert_holds(accumulator, replace(case, a=case.a.repeat(2, 1), b=case.b.repeat(2, 1)))


@pytest.mark.parametrize("devices", [("cpu", DEVICE), (DEVICE, "cpu"), (DEVICE, DEVICE)], ids=str)
def test_state_goes_through_a_file(tmp_path: Path, devices: tuple[str, str]) -> None:
    case = make_case("two", *activations(90, 33), F64)
    first = accumulated(replace(case, a=case.a[:40], b=case.b[:40]), device=devices[0])
    state: dict[str, Any] = first.state_dict()
    assert state["tokens"] == 40
    assert state["moments"].device.type == "cpu"
    torch.save(state, tmp_path / "state.pt")
    resumed = uf.PairedCorrelation(33, draws=2, device=devices[1])
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same_bits(resumed, first)
    resumed.update(case.a[40:].to(devices[1]), case.b[40:].to(devices[1]))
    assert_holds(resumed, case)


def test_a_state_is_a_copy() -> None:
    case = make_case("one", *activations(40, 33), F32)
    accumulator = accumulated(case, device=DEVICE)
    state = accumulator.state_dict()
    state["moments"].zero_()
    assert_holds(accumulator, case)


def test_compute_changes_nothing_and_more_may_follow() -> None:
    case = make_case("two", *activations(90, 48), F32)
    for factory in (OnDevice, streaming):
        accumulator = factory(48, draws=2)
        accumulator.update(case.a[:50], case.b[:50])
        first, again = accumulator.correlations(), accumulator.correlations()
        assert torch.equal(first.correlation, again.correlation)
        accumulator.update(case.a[50:], case.b[50:])
        r, _ = exact(case)
        assert_close(accumulator.correlations().correlation, r, 1e-6, "r")
    assert_parity(OnDevice, case)
