"""PairedCorrelation on a CUDA device gives the exact answer, whatever comes and however it comes.

Needs a device; skipped without one. `test_gpu_state.py` has what becomes of states,
`test_gpu_all_pairs.py` all pairs, `test_gpu_files.py` files and the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, DTYPES, F16, F32, F64, HALF_SCALES, MIXED, name_of
from support.layouts import LAYOUTS, NUMPY_LAYOUTS
from support.on_device import DEVICE, OnDevice, assert_as_in_float64, streaming
from support.parity import (
    activations,
    assert_holds,
    assert_parity,
    bits,
    dead_neurons,
    each_hard_case,
    every_value,
    hard_cases,
    make_case,
    measure,
    tolerance,
)
from univfast.bench.data import correlated

pytestmark = pytest.mark.gpu

# Odd and even, of one warp and of many blocks, transformed whole and across blocks; the widths that
# models have; rows that fit shared memory and, from 32,768 on, that do not.
WIDTHS = (
    *(1, 2, 7, 16, 33, 48, 64, 96, 100, 257, 512, 768, 1000, 1344),
    *(2048, 3072, 4096, 5120, 8192, 14336, 32768),
)


def tokens_for(neurons: int) -> int:
    """Few of a wide layer, whose exact answer takes NumPy long."""
    return max(40, min(1100, (1 << 19) // neurons))


def on_device(*values: np.ndarray, dtype: torch.dtype = F32) -> list[Tensor]:
    return [torch.from_numpy(x).to(DEVICE, dtype) for x in values]


# ---- dtypes and widths --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("neurons", WIDTHS)
def test_widths(neurons: int, dtype: torch.dtype) -> None:
    tokens = tokens_for(neurons)
    case = make_case(f"{tokens} tokens", *activations(tokens, neurons), dtype)
    assert_parity(OnDevice, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("neurons", [48, 1344])
@pytest.mark.parametrize("shifts", [0, 1, 4, 5, 12, 20, 41])
def test_any_number_of_shifts(shifts: int, neurons: int, dtype: torch.dtype) -> None:
    """In cells that are full or not; `assert_parity` has those that are the default."""
    a, b = on_device(*activations(700, neurons), dtype=dtype)
    sums = uf.PairedCorrelation(neurons, shifts=shifts, draws=1, device=DEVICE)
    for part in (slice(0, 9), slice(9, None)):
        sums.update(a[part], b[part])
    assert sums.correlations().shifted.shape == (shifts, neurons)
    limit = tolerance(dtype, dtype)
    assert_as_in_float64(sums.correlations(), a, b, limit, shifts=shifts, draws=1)


@pytest.mark.parametrize("dtypes", MIXED, ids=name_of)
@pytest.mark.parametrize("neurons", [33, 512, 3072])
def test_mixed_dtypes(neurons: int, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    case = make_case("mixed", *activations(300, neurons), F64).to(*dtypes)
    assert_parity(OnDevice, case)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 511, 2000])
@pytest.mark.parametrize("neurons", [5, 48, 1344])
def test_few_tokens(neurons: int, tokens: int) -> None:
    for dtype in (F64, F32, BF16):
        assert_parity(OnDevice, make_case("few", *activations(tokens, neurons), dtype))


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=name_of)
@pytest.mark.parametrize(
    ("tokens", "neurons"), [(150_000, 48), (30_000, 512), (20_000, 3072), (4000, 14336)]
)
def test_many_tokens(tokens: int, neurons: int, dtype: torch.dtype) -> None:
    """Enough that every thread has several runs to add up."""
    a, b = (x.to(dtype) for x in correlated(tokens, neurons))
    accumulator = OnDevice(neurons, draws=2)
    for part in (slice(0, tokens * 3 // 5 + 1), slice(tokens * 3 // 5 + 1, None)):
        accumulator.update(a[part], b[part])
    assert_as_in_float64(accumulator.correlations(), a, b, tolerance(dtype), draws=2)


# ---- values -------------------------------------------------------------------------------------


@each_hard_case
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    assert_parity(OnDevice, hard_cases(dtype)[name])


@pytest.mark.parametrize("rotation", ["haar", "gaussian", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("neurons", [7, 96, 300])
def test_other_rotations(neurons: int, dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(5000, neurons)  # of several products
    case = make_case("dense", a, b, dtype, rotation=rotation, draws=3, batches=(4999, 1))
    assert_parity(OnDevice, case)


@pytest.mark.parametrize("rotation", ["haar", "gaussian", "none"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
@pytest.mark.parametrize("name", ["offset 1e4 sd", "a scale for each neuron", "trend, one batch"])
def test_hard_cases_with_other_rotations(name: str, dtype: torch.dtype, rotation: str) -> None:
    assert_parity(OnDevice, replace(hard_cases(dtype)[name], rotation=rotation))


@pytest.mark.parametrize("neurons", [48, 1000, 3072, 14336])
@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 1e4), (1e-18, 1.0), (1e18, -1.0)], ids=["offset", "small", "large"]
)
def test_offsets_and_scales(scale: float, offset: float, dtype: torch.dtype, neurons: int) -> None:
    a, b = activations(tokens_for(neurons) // 2, neurons)
    case = make_case("scaled", (a + offset) * scale, (b - offset) * scale, dtype)
    assert_parity(OnDevice, case)


@pytest.mark.parametrize("neurons", [96, 4096])
@pytest.mark.parametrize(("dtype", "scale"), HALF_SCALES)
def test_scales_of_half_precision(dtype: torch.dtype, scale: float, neurons: int) -> None:
    a, b = activations(tokens_for(neurons), neurons)
    assert_parity(OnDevice, make_case("half", a * scale, (b + 10) * scale, dtype))


@pytest.mark.parametrize("loudness", [1e3, 1e4])
@pytest.mark.parametrize("neurons", [64, 192, 3072])
def test_one_loud_neuron(neurons: int, loudness: float) -> None:
    a, b = activations(200, neurons)
    b[:, 0] *= loudness
    assert_parity(OnDevice, make_case("loud", a, b, F32))


def test_every_value_of_float16_and_bfloat16_is_read() -> None:
    for dtype in (F16, BF16):
        for case in every_value(dtype):
            assert_parity(OnDevice, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_identical_activations_give_one(dtype: torch.dtype) -> None:
    a, _ = activations(777, 200)
    case = make_case("identical", a, a, dtype, batches=(1, 500, 276))
    r = measure(OnDevice, case).correlation
    assert r.max() <= 1
    assert 1 - r.min() <= tolerance(dtype)


@pytest.mark.parametrize("rotation", ["hadamard", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-18, -1 / 3 * 1e18])
def test_dead_neurons(constant: float, dtype: torch.dtype, rotation: str) -> None:
    case = dead_neurons(constant, dtype, rotation)
    found = measure(OnDevice, case)
    assert found.correlation.isnan().nonzero().flatten().tolist() == [3, 65, 66]
    if abs(constant) < 1e9:  # else the rotated neurons are rounding errors of the constant
        assert_parity(OnDevice, case)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=name_of)
def test_batches_of_one_and_none(dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(70, 65)
    case = make_case("ones", a + 1e4, b, dtype, batches=(0, 1) * 70 + (0,), rotation=rotation)
    assert_parity(OnDevice, case)


@pytest.mark.parametrize(("neurons", "draws"), [(48, 200), (512, 70), (4096, 20)])
def test_many_draws(neurons: int, draws: int) -> None:
    a, b = correlated(500, neurons)
    accumulator = OnDevice(neurons, draws=draws, seed=3)
    accumulator.update(a, b)
    assert_as_in_float64(accumulator.correlations(), a, b, 1e-6, draws=draws, seed=3)


# ---- layouts ------------------------------------------------------------------------------------


def among_nan(x: Tensor, before: int, after: int) -> Tensor:
    """``x`` as a view of memory with NaN beside each row."""
    wide = torch.nn.functional.pad(x, (before, after), value=torch.nan)
    return wide[:, before : before + x.shape[1]]


# Beside those of the CPU's tests: bases and rows that no vector load fits, and memory that is read
# twice.
LAYOUTS_ON_DEVICE: dict[str, Callable[[Tensor], Tensor]] = LAYOUTS | {
    "unaligned rows": lambda x: among_nan(x, 0, 3),
    "unaligned base": lambda x: among_nan(x.reshape(1, -1), 1, 0).view_as(x),
    "unaligned rows and base": lambda x: among_nan(x, 1, 2),
    "aligned rows apart": lambda x: among_nan(x, 64, 64),
    "tokens of three axes, read twice": lambda x: x[None].expand(2, *x.shape),
    "on the CPU": lambda x: x.cpu(),
}


@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
@pytest.mark.parametrize("neurons", [64, 100, 3072])
@pytest.mark.parametrize("layout", LAYOUTS_ON_DEVICE)
def test_layouts(layout: str, neurons: int, dtype: torch.dtype) -> None:
    a, b = on_device(*activations(160, neurons), dtype=dtype)
    arrange = LAYOUTS_ON_DEVICE[layout]
    x, y = arrange(a), arrange(b)
    pairs = {"both": (x, y)}
    if x.shape == a.shape:  # each input's layout is its own
        pairs |= {"a alone": (x, b), "b alone": (a, y)}
    for name, (one, other) in pairs.items():
        accumulator = uf.PairedCorrelation(neurons, draws=2, device=DEVICE)
        before = one.detach().clone(), other.detach().clone()
        accumulator.update(one, other)
        assert torch.equal(one.detach(), before[0]), name
        assert torch.equal(other.detach(), before[1]), name
        flat = [v.detach().reshape(-1, neurons) for v in before]
        assert_as_in_float64(accumulator.correlations(), *flat, tolerance(dtype), draws=2)


def test_one_token_over_and_over_is_dead() -> None:
    accumulator = uf.PairedCorrelation(96, draws=2, device=DEVICE)
    a, b = on_device(*activations(1, 96))
    accumulator.update(a.expand(500, -1), b.expand(500, -1))
    assert accumulator.tokens == 500
    assert accumulator.correlations().correlation.isnan().all()


# ---- inputs on the CPU --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("neurons", [7, 48, 3072])
def test_inputs_on_the_cpu(neurons: int, dtype: torch.dtype) -> None:
    case = make_case("from the CPU", *activations(300, neurons), dtype, batches=(1, 0, 200, 99))
    assert_parity(streaming, case)


@pytest.mark.parametrize("layout", NUMPY_LAYOUTS)
def test_numpy_arrays(layout: str) -> None:
    a, b = (x.astype(np.float32) for x in activations(600, 67))
    accumulator = streaming(67, draws=2)
    accumulator.update(NUMPY_LAYOUTS[layout](a), NUMPY_LAYOUTS[layout](b))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert_as_in_float64(accumulator.correlations(), x, y, 1e-6, draws=2)


@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
def test_inputs_on_the_cpu_may_be_overwritten_after_update(pinned: bool) -> None:
    """Larger than what is uploaded at a time, and several batches through one buffer."""
    a, b = correlated(120_000, 512)
    buffers = [torch.empty(40_000, 512) for _ in range(2)]
    if pinned:
        buffers = [x.pin_memory() for x in buffers]
    accumulator = streaming(512, draws=1)
    for x, y in zip(a.split(40_000), b.split(40_000), strict=True):
        for buffer, values in zip(buffers, (x, y), strict=True):
            buffer.copy_(values)
        accumulator.update(*buffers)
        for buffer in buffers:
            buffer.fill_(torch.nan)
    assert_as_in_float64(accumulator.correlations(), a, b, 1e-6, draws=1)


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cpu", DEVICE, "numpy"])
@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
def test_masks(dtype: torch.dtype, rotation: str, place: str) -> None:
    a, b = activations(1200, 96)
    keep = np.random.default_rng(0).random(1200) < 0.7
    keep[:100] = False
    case = make_case("masked", a[keep], b[keep], dtype, rotation=rotation)
    a[~keep], b[~keep] = np.nan, np.inf
    x, y = on_device(a, b, dtype=dtype)
    mask: Any = keep if place == "numpy" else torch.from_numpy(keep).to(place)
    for shape in ((1200,), (3, 400)):
        accumulator = uf.PairedCorrelation(96, draws=2, rotation=rotation, device=DEVICE)
        accumulator.update(x.view(*shape, 96), y.view(*shape, 96), mask=mask.reshape(shape))
        assert_holds(accumulator, case)


@pytest.mark.parametrize("place", ["cpu", DEVICE])
def test_masks_that_leave_nothing(place: str) -> None:
    a, b = on_device(*activations(50, 33))
    accumulator = uf.PairedCorrelation(33, draws=2, device=DEVICE)
    accumulator.update(a, b)
    before = accumulator.state_dict()
    accumulator.update(a, b, mask=torch.zeros(50, dtype=torch.bool, device=place))
    accumulator.update(a[:0], b[:0])
    accumulator.update(a[:0].view(4, 0, 33), b[:0].view(4, 0, 33))
    assert accumulator.tokens == 50
    assert bits(accumulator.state_dict()["moments"]) == bits(before["moments"])
