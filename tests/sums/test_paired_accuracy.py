"""The streaming accumulator gives the exact answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import univfast as uf
from support.dtypes import BF16, DTYPES, F16, F32, F64, HALF_SCALES, MIXED, name_of
from support.parity import (
    Case,
    accumulated,
    activations,
    assert_parity,
    dead_neurons,
    each_hard_case,
    every_value,
    hard_cases,
    make_case,
    measure,
    tolerance,
)
from univfast import reference

# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [*((d, d) for d in DTYPES), *MIXED], ids=name_of)
@pytest.mark.parametrize("neurons", [1, 2, 3, 63, 64, 65, 257, 701, 3072])
def test_dtypes_and_widths(dtypes: tuple[torch.dtype, torch.dtype], neurons: int) -> None:
    small = (1, 2, 15, 16, 17, 511, 512, 513, 2000)
    for tokens in small if neurons < 100 else (2, 513) if neurons < 1000 else (17,):
        a, b = activations(tokens, neurons)
        case = make_case(f"{tokens} tokens", a, b, F64).to(*dtypes)
        assert_parity(uf.PairedCorrelation, case)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 511, 512, 513, 2000, 20_000])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_token_counts_of_a_wide_layer(tokens: int, dtype: torch.dtype) -> None:
    neurons = 257 if tokens > 2000 else 1600
    a, b = activations(tokens, neurons)
    assert_parity(uf.PairedCorrelation, make_case(f"{tokens} tokens", a, b, dtype, draws=1))


@pytest.mark.slow
def test_widest_layer_with_many_tokens() -> None:
    a, b = activations(2000, 3072)
    assert_parity(uf.PairedCorrelation, make_case("3072", a, b, F32, draws=1, batches=(1400, 600)))


@each_hard_case
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    assert_parity(uf.PairedCorrelation, hard_cases(dtype)[name])


@each_hard_case
@pytest.mark.parametrize("rotation", ["haar", "gaussian", "none"])
def test_hard_cases_with_other_rotations(name: str, rotation: str, dtype: torch.dtype) -> None:
    assert_parity(uf.PairedCorrelation, replace(hard_cases(dtype)[name], rotation=rotation))


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize(("dtype", "scale"), HALF_SCALES)
def test_scales_of_half_precision(dtype: torch.dtype, scale: float, rotation: str) -> None:
    a, b = activations(1500, 130)
    case = make_case("half", a * scale, (b + 10) * scale, dtype, rotation=rotation)
    assert_parity(uf.PairedCorrelation, case)


@pytest.mark.parametrize("tokens", [16, 64, 500])
@pytest.mark.parametrize("loudness", [1e3, 1e4])
@pytest.mark.parametrize("neurons", [64, 192])
def test_few_tokens_with_one_loud_neuron(neurons: int, loudness: float, tokens: int) -> None:
    a, b = activations(tokens, neurons)
    b[:, 0] *= loudness
    assert_parity(uf.PairedCorrelation, make_case("loud", a, b, F32))


def test_a_pivot_that_misses_the_mean() -> None:
    """Neurons that are active at just the 32 tokens of the chunk that its pivot is taken from."""
    shares = [(i * 512 // 32, (i + 1) * 512 // 32) for i in range(32)]
    mixed = reference.rotations._mix64(np.arange(32, dtype=np.uint64))
    sampled = [b + int(m) % (e - b) for (b, e), m in zip(shares, mixed, strict=True)]
    active = np.zeros((512, 1))
    active[sampled] = 1.0
    a, b = (np.maximum(1 + 0.01 * v, 0) * active for v in activations(512, 64))
    case = make_case("sampled", a, b, F32, rotation="none")
    assert_parity(uf.PairedCorrelation, case)


def test_float16_sums_do_not_overflow() -> None:
    # 12,288 tokens of 2.4, beyond what float16 can sum or square and sum.
    a, b = activations(12_288, 16)
    assert_parity(uf.PairedCorrelation, make_case("2.4", a / 100 + 2.4, b / 100 + 2.4, F16))


def test_every_value_of_float16_and_bfloat16_is_read() -> None:
    for dtype in (F16, BF16):
        for case in every_value(dtype):
            assert_parity(uf.PairedCorrelation, case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_identical_activations_give_one(dtype: torch.dtype) -> None:
    a, _ = activations(777, 200)
    case = make_case("identical", a, a, dtype, batches=(1, 500, 276))
    r = measure(uf.PairedCorrelation, case).correlation
    assert r.max() <= 1
    assert 1 - r.min() <= tolerance(dtype)
    opposite = measure(uf.PairedCorrelation, replace(case, b=-case.b)).correlation
    assert opposite.min() >= -1
    assert opposite.max() + 1 <= tolerance(dtype)


@pytest.mark.parametrize("scale", [1e-12, 1e-18, 1e-25, 1e-30])
def test_values_that_cancel_are_not_dead(scale: float) -> None:
    # Their sum, and below 1e-23 their squares in float32, are exactly zero.
    a = torch.tensor([1.0, -1.0]).repeat(20)[:, None] * torch.full((1, 2), scale)
    r = measure(uf.PairedCorrelation, Case("alternating", a, a, rotation="none")).correlation
    assert (1 - r).abs().max() <= 1e-6


# ---- dead neurons -------------------------------------------------------------------------------

CONSTANTS = [0.0, 0.1, 1e-18, -1 / 3 * 1e18, 65504.0]


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16])
@pytest.mark.parametrize("constant", CONSTANTS)
def test_dead_neurons(constant: float, dtype: torch.dtype, rotation: str) -> None:
    case = dead_neurons(constant, dtype, rotation)
    result = accumulated(case).compute(threshold=-2.0)  # which every live neuron passes
    assert result.dead.nonzero().flatten().tolist() == [3, 65, 66]
    for column in (result.correlation, result.baseline, result.excess, result.q_value):
        assert column[result.dead].isnan().all()
    assert not result.universal[result.dead].any()
    assert result.universal[~result.dead].all()  # without rotations the baseline is 0
    assert result.summary["dead"] == 3
    if abs(constant) < 1e9:  # else the rotated neurons are rounding errors of the constant
        assert_parity(uf.PairedCorrelation, case)


def test_a_neuron_that_wakes_up_is_alive() -> None:
    a, b = activations(1100, 4)
    a[:1099, 1] = 0.1
    b[:512, 2] = 0.1
    for batches in (None, (600, 500), (1,) * 10 + (1090,)):
        assert_parity(uf.PairedCorrelation, make_case("late", a, b, F32, batches=batches))


def test_everything_dead() -> None:
    ones = torch.ones(30, 5)
    result = accumulated(Case("dead", ones, ones)).compute()
    assert result.dead.all()
    assert result.summary["dead"] == 5
    assert result.summary["universal"] == 0
    assert result.summary["fdr"] is None
    assert "dead" in result.verdict()
