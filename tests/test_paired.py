"""The streaming accumulator against the exact answer, and its behaviour as an object."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    DTYPES,
    LAYER,
    Array,
    Case,
    activations,
    assert_close,
    assert_parity,
    exact,
    hard_cases,
    make_case,
    measure,
    rotate_exactly,
    tolerance,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import univfast as uf
from univfast import native
from univfast.errors import InputError

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPE_PAIRS = [
    *((d, d) for d in DTYPES),
    (F32, BF16),
    (F16, F32),
    (BF16, F16),
    (F64, F32),
    (F16, F64),
]
HARD = [(name, dtype) for dtype in (F64, F32) for name in hard_cases(dtype)]


def name_of(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return " ".join(str(part).removeprefix("torch.") for part in parts)


def accumulated(
    case: Case, threads: int | None = None, mask: Tensor | None = None
) -> uf.PairedCorrelation:
    acc = uf.PairedCorrelation(
        case.a.shape[1],
        draws=case.draws,
        rotation=case.rotation,
        seed=case.seed,
        threads=threads,
    )
    if mask is not None:
        acc.update(case.a, case.b, mask=mask)
        return acc
    for a, b in case.split():
        acc.update(a, b)
    return acc


def same_bits(one: uf.PairedCorrelation, other: uf.PairedCorrelation) -> bool:
    p, q = one.state_dict(), other.state_dict()
    return p["tokens"] == q["tokens"] and bits(p["moments"]) == bits(q["moments"])


def bits(x: Tensor) -> bytes:
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes()


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", DTYPE_PAIRS, ids=name_of)
@pytest.mark.parametrize("neurons", [1, 2, 3, 63, 64, 65, 257, 701, 3072])
def test_dtypes_and_widths(dtypes: tuple[torch.dtype, torch.dtype], neurons: int) -> None:
    small = (1, 2, 15, 16, 17, 511, 512, 513, 2000)
    for tokens in small if neurons < 100 else (2, 513) if neurons < 1000 else (17,):
        a, b = activations(tokens, neurons)
        case = make_case(f"{tokens} tokens", a, b, F64).to(*dtypes)
        assert_parity(uf.PairedCorrelation, case)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 511, 512, 513, 2000, 20_000])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_token_counts_of_a_wide_layer(tokens: int, dtype: torch.dtype) -> None:
    neurons = 257 if tokens > 2000 else 1600
    a, b = activations(tokens, neurons)
    assert_parity(uf.PairedCorrelation, make_case(f"{tokens} tokens", a, b, dtype, draws=1))


def test_widest_layer_with_many_tokens() -> None:
    a, b = activations(2000, 3072)
    assert_parity(uf.PairedCorrelation, make_case("3072", a, b, F32, draws=1, batches=(1400, 600)))


@pytest.mark.parametrize(("name", "dtype"), HARD, ids=name_of)
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    assert_parity(uf.PairedCorrelation, hard_cases(dtype)[name])


@pytest.mark.parametrize(("name", "dtype"), HARD, ids=name_of)
@pytest.mark.parametrize("rotation", ["haar", "gaussian", "none"])
def test_hard_cases_with_other_rotations(name: str, rotation: str, dtype: torch.dtype) -> None:
    assert_parity(uf.PairedCorrelation, replace(hard_cases(dtype)[name], rotation=rotation))


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [(F16, 1e-4), (F16, 300.0), (BF16, 1e-18), (BF16, 1e18), (BF16, 1.0)]
)
def test_scales_of_half_precision(dtype: torch.dtype, scale: float, rotation: str) -> None:
    a, b = activations(1500, 130)
    case = make_case("half", a * scale, (b + 10) * scale, dtype, rotation=rotation)
    assert_parity(uf.PairedCorrelation, case)


def test_float16_sums_do_not_overflow() -> None:
    # 12,288 tokens of 2.4, beyond what float16 can sum or square and sum.
    a, b = activations(12_288, 16)
    assert_parity(uf.PairedCorrelation, make_case("2.4", a / 100 + 2.4, b / 100 + 2.4, F16))


def test_every_value_of_float16_and_bfloat16_is_read() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    for dtype in (F16, BF16):
        values = every.view(dtype)
        values = values[values.isfinite()][:, None]
        # Sorted by magnitude, as one batch each: small values are not hidden by large ones.
        for part in values[values[:, 0].double().abs().argsort()].split(1000):
            case = Case(str(dtype), part, part.double() ** 2 / part.double().abs().max())
            assert_parity(uf.PairedCorrelation, replace(case, rotation="none"))


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
    a, b = activations(1300, 67)
    a[:, 3] = constant
    b[:, 65] = constant
    a[:, 66] = b[:, 66] = constant
    case = make_case("dead", a, b, dtype, batches=(1, 512, 700, 0, 87), rotation=rotation)
    result = accumulated(case).compute(threshold=-2.0)  # which every live neuron passes
    assert result.dead.nonzero().flatten().tolist() == [3, 65, 66]
    for column in (result.correlation, result.baseline, result.excess, result.q_value):
        assert column[result.dead].isnan().all()
    assert not result.universal[result.dead].any()
    assert bool(result.universal[~result.dead].all()) == (rotation != "none")
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


# ---- deliberately wrong accumulators ------------------------------------------------------------


class Wrong:
    """An accumulator that keeps what it was given; subclasses go wrong in `pair`."""

    def __init__(self, neurons: int, *, draws: int, rotation: str, seed: int) -> None:
        self.draws = 0 if rotation == "none" else draws
        self.rotation, self.seed, self.neurons = rotation, seed, neurons
        self.batches: list[tuple[Tensor, Tensor]] = []

    def update(self, a: Tensor, b: Tensor) -> None:
        if len(a):
            self.batches.append((a, b))

    def rotate(self, b: Tensor, draw: int) -> Tensor:
        shifted = b - self.batches[0][1][:1]  # constants leave no rounding errors behind
        turned = rotate_exactly(shifted.double().numpy(), self.rotation, draw, self.seed)
        return torch.from_numpy(turned).to(b.dtype)

    def correlations(self) -> Any:
        rows = [
            self.pair([(a, self.rotate(b, draw)) for a, b in self.batches])
            for draw in range(self.draws)
        ]
        rotated = torch.stack(rows) if rows else torch.empty(0, self.neurons)
        return SimpleNamespace(correlation=self.pair(self.batches), rotated=rotated)

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        a, b = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return torch.from_numpy(uf.reference.pearson(a.double().numpy(), b.double().numpy()))


class RawSums(Wrong):
    """Sums of squares of unshifted values, in one dtype."""

    dtype = F32

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        a, b = (torch.cat(parts).to(self.dtype) for parts in zip(*batches, strict=True))
        n = len(a)
        sums = [v.sum(0, dtype=self.dtype) for v in (a, b, a * a, b * b, a * b)]
        sa, sb, saa, sbb, sab = sums
        r = (sab - sa * sb / n) / ((saa - sa * sa / n) * (sbb - sb * sb / n)).sqrt()
        return r.double()


class HalfSums(RawSums):
    dtype = F16


class MeanOfBatches(Wrong):
    """Correlations averaged over batches, weighted by tokens."""

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        parts = [super(MeanOfBatches, self).pair([batch]).nan_to_num(0) for batch in batches]
        weights = torch.tensor([float(len(a)) for a, _ in batches])
        return (torch.stack(parts) * weights[:, None]).sum(0) / weights.sum()


class VarianceThreshold(Wrong):
    """An absolute variance below which a neuron is called dead."""

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        a, b = (torch.cat(parts).double() for parts in zip(*batches, strict=True))
        quiet = (a.var(0) < 3.4e-4**2) | (b.var(0) < 3.4e-4**2)
        return super().pair(batches).masked_fill(quiet, torch.nan)


class NoBetween(Wrong):
    """Merges second moments without what the distance of the means adds."""

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        total = torch.zeros(3, self.neurons, dtype=F64)
        for a, b in batches:
            x, y = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
            total += torch.stack([(x * x).sum(0), (y * y).sum(0), (x * y).sum(0)])
        return (total[2] / total[0].sqrt() / total[1].sqrt()).clamp(-1, 1)


class PaddedHadamard(Wrong):
    """Pads to a power of two, rotates, and cuts back."""

    def rotate(self, b: Tensor, draw: int) -> Tensor:
        size = 1 << (self.neurons - 1).bit_length()
        pad = torch.zeros(len(b), size - self.neurons, dtype=b.dtype)
        turned = rotate_exactly(torch.cat([b, pad], 1).double().numpy(), "hadamard", draw, 0)
        return torch.from_numpy(turned[:, : self.neurons]).to(b.dtype)


class NoClamp(Wrong):
    """Lets rounding carry r beyond 1."""

    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        a, b = (torch.cat(parts).double() for parts in zip(*batches, strict=True))
        x, y = a - a.mean(0), b - b.mean(0)
        return (x * y).sum(0) / (x * x).sum(0).sqrt() / (y * y).sum(0).sqrt()


class DeadIsZero(Wrong):
    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        return super().pair(batches).nan_to_num(0)


def test_the_check_accepts_what_is_right() -> None:
    for case in hard_cases(F64).values():
        assert_parity(Wrong, case)


@pytest.mark.parametrize(
    ("wrong", "name", "message"),
    [
        (RawSums, "offset 1e4 sd", "off by|NaN"),
        (RawSums, "scale 1e-18", "off by|NaN"),
        (HalfSums, "plain", "off by"),
        (HalfSums, "offset 1e4 sd", "NaN elsewhere"),
        (MeanOfBatches, "plain", "off by"),
        (MeanOfBatches, "regime change", "off by"),
        (VarianceThreshold, "scale 1e-18", "NaN elsewhere"),
        (VarianceThreshold, "constants beside scale 1e-15", "NaN elsewhere"),
        (NoBetween, "regime change", "off by"),
        (NoBetween, "trend", "off by"),
        (PaddedHadamard, "plain", "rotated r: off by"),
        (NoClamp, "identical", r"\|r\| ="),
        (DeadIsZero, "constants beside scale 1e-15", "NaN elsewhere"),
    ],
)
def test_wrong_accumulators_are_rejected(wrong: type[Wrong], name: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_parity(wrong, hard_cases(F32)[name])


def test_rotated_mean_must_be_merged() -> None:
    """A merge whose between-means term is left out for the rotations alone."""

    class Forgetful(uf.PairedCorrelation):
        def correlations(self) -> Any:
            return replace(super().correlations(), rotated=self.wrong.correlations().rotated)

        def update(self, a: Tensor, b: Tensor) -> None:  # type: ignore[override]
            super().update(a, b)
            self.wrong.update(a, b)

        def reset(self) -> None:
            super().reset()
            self.wrong = NoBetween(self.neurons, draws=2, rotation="hadamard", seed=0)

    with pytest.raises(AssertionError, match="rotated r: off by"):
        assert_parity(Forgetful, hard_cases(F32)["regime change"])


# ---- layouts ------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "gaps between rows": lambda x: torch.cat([x, x.new_full((len(x), 9), 7)], 1)[:, : x.shape[1]],
    "gaps between neurons": lambda x: torch.stack([x, 7 * x], 2)[:, :, 0],
    "every other token": lambda x: torch.stack([x, 7 * x], 1).flatten(0, 1)[::2],
    "offset": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view_as(x),
    "three axes": lambda x: x.reshape(4, -1, x.shape[1]),
    "three axes, swapped": lambda x: x.reshape(4, -1, x.shape[1]).swapaxes(0, 1).contiguous(),
    "needs grad": lambda x: x.clone().requires_grad_(),
    "an op's result": lambda x: x.clone().requires_grad_() * 1,
}
NUMPY_LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "numpy": lambda x: x,
    "tokens reversed": lambda x: x[::-1].copy()[::-1],
    "neurons reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "unaligned": lambda x: (
        np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_right(layout: str, dtype: torch.dtype) -> None:
    a, b = (torch.from_numpy(v).to(dtype) for v in activations(600, 67))
    acc, plain = (uf.PairedCorrelation(67, draws=2) for _ in range(2))
    arrange = LAYOUTS[layout]
    x, y = arrange(a), arrange(b)
    before = x.detach().clone(), y.detach().clone()
    acc.update(x, y)
    plain.update(x.detach().reshape(-1, 67).contiguous(), y.detach().reshape(-1, 67).contiguous())
    assert same_bits(acc, plain)
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(y.detach(), before[1])
    if "swapped" not in layout:
        other = uf.PairedCorrelation(67, draws=2)
        other.update(a, b)
        assert same_bits(acc, other)
        # Each input's layout is its own.
        mixed = uf.PairedCorrelation(67, draws=2)
        mixed.update(x.reshape(a.shape), b)
        assert same_bits(mixed, other)


@pytest.mark.parametrize("layout", NUMPY_LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_layouts_are_read_right(layout: str, dtype: type) -> None:
    a, b = (v.astype(dtype) for v in activations(600, 67))
    acc, plain = (uf.PairedCorrelation(67, draws=2) for _ in range(2))
    x, y = NUMPY_LAYOUTS[layout](a), NUMPY_LAYOUTS[layout](b)
    x.flags.writeable = y.flags.writeable = False
    acc.update(x, y)
    plain.update(torch.from_numpy(a), torch.from_numpy(b))
    assert same_bits(acc, plain)


def test_expanded_tokens() -> None:
    a, b = (torch.from_numpy(v).float() for v in activations(3, 65))
    acc, plain = (uf.PairedCorrelation(65, draws=2) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        acc.update(x.expand(40, 65), y.expand(40, 65))
        plain.update(x.expand(40, 65).contiguous(), y.expand(40, 65).contiguous())
    acc.update(a[:, :1].expand(3, 65), b)
    plain.update(a[:, :1].expand(3, 65).contiguous(), b)
    assert same_bits(acc, plain)


class OnlyDLPack:
    """An array of some other library."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_dlpack() -> None:
    a, b = (torch.from_numpy(v).float() for v in activations(50, 7))
    acc, plain = (uf.PairedCorrelation(7, draws=2) for _ in range(2))
    acc.update(OnlyDLPack(a), OnlyDLPack(b), mask=OnlyDLPack(torch.ones(50, dtype=torch.bool)))
    plain.update(a, b)
    assert same_bits(acc, plain)


# ---- batches, merges and threads ----------------------------------------------------------------


def hypothesis_case(draw: Callable[[Any], Any]) -> tuple[Case, list[int]]:
    dtype = draw(st.sampled_from([F64, F32]))
    neurons = draw(st.sampled_from([1, 2, 5, 65]))
    tokens = draw(st.integers(2, 1100))
    rotation = draw(st.sampled_from(["hadamard", "hadamard", "haar", "none"]))
    offset = draw(st.sampled_from([0.0, 1e4]))
    a, b = activations(tokens, neurons, seed=draw(st.integers(0, 3)))
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=8)))
    sizes = np.diff([0, *cuts, tokens]).tolist()
    case = make_case("split", a + offset, b - offset, dtype, rotation=rotation)
    return replace(case, batches=tuple(sizes)), sizes


@given(st.data())
def test_any_split_and_any_order_of_merges(data: st.DataObject) -> None:
    case, _ = hypothesis_case(data.draw)
    parts = []
    for a, b in case.split():
        part = accumulated(replace(case, a=a, b=b, batches=None))
        parts.append((part, len(a)))
    while len(parts) > 1:  # a random tree of merges, of states that went through state_dict or not
        i = data.draw(st.integers(0, len(parts) - 1))
        into, n = parts.pop(i)
        j = data.draw(st.integers(0, len(parts) - 1))
        other, m = parts[j]
        untouched = other.state_dict()
        into.merge(other)
        assert bits(untouched["moments"]) == bits(other.state_dict()["moments"])
        parts[j] = (into, n + m)
        assert into.tokens == n + m
    merged = parts[0][0].correlations()
    r, rotated = exact(case)
    limit = tolerance(case.a.dtype)
    assert_close(merged.correlation, r, limit, "merged r")
    assert_close(merged.rotated, rotated, limit, "merged rotated r")
    assert_parity(uf.PairedCorrelation, case)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_batches_of_one_and_none(rotation: str) -> None:
    a, b = activations(70, 65)
    case = make_case("ones", a + 1e4, b, F32, batches=(0, 1) * 70 + (0,), rotation=rotation)
    assert_parity(uf.PairedCorrelation, case)


def test_empty_updates_and_merges_change_nothing() -> None:
    case = make_case("small", *activations(20, 3), F32)
    acc = accumulated(case)
    before = acc.state_dict()
    acc.update(torch.empty(0, 3), torch.empty(0, 3))
    acc.update(torch.empty(4, 0, 3), torch.empty(4, 0, 3), mask=torch.empty(4, 0, dtype=torch.bool))
    acc.update(case.a, case.b, mask=torch.zeros(20, dtype=torch.bool))
    acc.merge(uf.PairedCorrelation(3, draws=2))
    assert acc.tokens == 20
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])
    fresh = uf.PairedCorrelation(3, draws=2)
    fresh.merge(acc)
    assert same_bits(fresh, acc)


def test_merge_with_itself_counts_twice() -> None:
    case = make_case("small", *activations(20, 3), F64)
    acc = accumulated(case)
    acc.merge(acc)
    assert acc.tokens == 40
    doubled = replace(case, a=case.a.repeat(2, 1), b=case.b.repeat(2, 1))
    assert_close(acc.correlations().correlation, exact(doubled)[0], 1e-12, "r")


@pytest.mark.parametrize("dtype", [F64, F32, BF16])
@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(10_001, 65)
    case = make_case("threads", a + 3, b, dtype, rotation=rotation)
    mask = torch.from_numpy(np.random.default_rng(0).random(10_001) < 0.8)
    for keep in (None, mask):
        runs = [accumulated(case, threads, keep) for threads in (1, 2, 3, 7)]
        assert all(same_bits(runs[0], run) for run in runs[1:])


def test_same_bits_for_torchs_number_of_threads() -> None:
    a, b = activations(5000, 257)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs += [
                accumulated(make_case("", a, b, F32, rotation=r)) for r in ("haar", "hadamard")
            ]
    finally:
        torch.set_num_threads(before)
    assert same_bits(runs[0], runs[2])
    assert same_bits(runs[0], runs[4])
    assert same_bits(runs[1], runs[3])
    assert same_bits(runs[1], runs[5])


def test_two_python_threads_at_once() -> None:
    cases = [make_case(f"{i}", *activations(3000, 64 + i), F32) for i in range(8)]
    alone = [accumulated(case) for case in cases]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda case: accumulated(case, threads=2), cases))
    assert all(map(same_bits, alone, together))


def test_seed_draws_and_layer_decide_the_rotations() -> None:
    a, b = (torch.from_numpy(v) for v in activations(50, 16))

    def rotated(**options: Any) -> Tensor:
        acc = uf.PairedCorrelation(16, **{"draws": 2, **options})
        acc.update(a, b)
        return acc.correlations().rotated

    first = rotated()
    assert torch.equal(first, rotated(seed=0, layer=LAYER))
    for rotation in ("hadamard", "haar", "gaussian"):
        assert torch.equal(rotated(rotation=rotation), rotated(rotation=rotation, draws=5)[:2])
    others = [rotated(seed=1), rotated(layer="mlp.1"), rotated(rotation="haar"), first.flip(0)]
    assert all((first - other).abs().max() > 0.05 for other in others)
    assert rotated(rotation="none").shape == (0, 16)


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, F16])
def test_a_mask_drops_tokens(dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(1200, 65)
    case = make_case("masked", a, b, dtype, rotation=rotation)
    g = np.random.default_rng(3)
    for share in (0.01, 0.5, 0.99):
        keep = torch.from_numpy(g.random(1200) < share)
        dropped = accumulated(replace(case, a=case.a[keep], b=case.b[keep]))
        assert dropped.tokens == keep.sum()
        assert same_bits(accumulated(case, mask=keep), dropped)

        shaped = uf.PairedCorrelation(65, draws=2, rotation=rotation)
        x, y = case.a.reshape(4, 300, 65), case.b.reshape(4, 300, 65)
        shaped.update(x, y, mask=keep.reshape(4, 300))
        assert same_bits(shaped, dropped)
        shaped.reset()
        shaped.update(x, y, mask=keep.reshape(4, 300).numpy())
        assert same_bits(shaped, dropped)


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_masked_tokens_are_never_read(rotation: str) -> None:
    a, b = activations(1200, 9)
    case = make_case("masked", a, b, F32, rotation=rotation)
    keep = torch.arange(1200) % 3 > 0
    clean = accumulated(case, mask=keep)
    case.a[~keep], case.b[~keep] = torch.nan, torch.inf
    assert same_bits(accumulated(case, mask=keep), clean)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(20), InputError, "mask: .* float32"),
        (torch.full((20,), 2), InputError, "mask: .* 0 and 1"),
        (torch.ones(19, dtype=torch.bool), InputError, "mask: .* 19 .* 20"),
        (torch.ones(4, 5, 3, dtype=torch.bool), InputError, "mask: "),
        # As many values, but not one a token as the activations have them: misread if flattened.
        (torch.ones(5, 4, dtype=torch.bool), InputError, r"mask: .*\[5, 4\].*\[4, 5\]"),
        ([True] * 20, TypeError, "mask: expected"),
    ],
)
def test_bad_masks(mask: object, error: type[Exception], message: str) -> None:
    acc = uf.PairedCorrelation(3)
    with pytest.raises(error, match=message):
        acc.update(torch.randn(4, 5, 3), torch.randn(4, 5, 3), mask=mask)
    assert acc.tokens == 0


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.ones(4, 3), torch.ones(5, 3), InputError, r"a and b: shapes differ, \[4, 3\] and"),
        (torch.ones(4, 2), torch.ones(4, 2), InputError, r"expected \[..., 3\]"),
        (torch.ones(()), torch.ones(()), InputError, r"expected \[..., 3\]"),
        (torch.ones(4, 3).int(), torch.ones(4, 3), InputError, "a has dtype int32"),
        (
            torch.ones(4, 3),
            torch.ones(4, 3, dtype=torch.complex64),
            InputError,
            "b has dtype compl",
        ),
        (torch.ones(4, 3), "b.pt", TypeError, "b: expected"),
        ([[1.0] * 3], torch.ones(1, 3), TypeError, "a: expected"),
        (torch.ones(4, 3).to_sparse(), torch.ones(4, 3), InputError, "a: is a sparse"),
    ],
)
def test_bad_activations(a: Any, b: Any, error: type[Exception], message: str) -> None:
    acc = uf.PairedCorrelation(3)
    with pytest.raises(error, match=message):
        acc.update(a, b)
    assert acc.tokens == 0


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "gaussian", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("which", "token", "neuron"), [("a", 0, 0), ("b", 777, 66), ("b", 1400, 3)]
)
def test_bad_values_are_named(
    which: str, token: int, neuron: int, value: float, dtype: torch.dtype, rotation: str
) -> None:
    a, b = activations(1401, 67)
    case = make_case("bad", a, b, dtype, rotation=rotation)
    acc = accumulated(case)
    before = acc.state_dict()
    bad = case.a if which == "a" else case.b
    bad[token, neuron] = value
    bad[token + 1 :, 1] = value  # later ones are not named
    where = f"^{which}: layer 'activations' has {value!r} at token {token}, neuron {neuron};"
    with pytest.raises(InputError, match=where) as error:
        acc.update(case.a, case.b)
    assert "\n" not in str(error.value)
    # A mask shifts which rows are read, not the token's number.
    keep = torch.ones(1401, dtype=torch.bool)
    keep[:token:2] = False
    with pytest.raises(InputError, match=where):
        acc.update(case.a, case.b, mask=keep)
    assert acc.tokens == 1401
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_the_first_bad_value_is_named_for_any_threads(rotation: str) -> None:
    a, b = activations(6000, 5)
    case = make_case("bad", a, b, F32, rotation=rotation)
    case.b[2000, 4], case.a[5999, 0] = torch.nan, torch.nan
    for threads in (1, 2, 3, 7):
        with pytest.raises(InputError, match=r"^b: .* at token 2000, neuron 4"):
            accumulated(case, threads=threads)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_values_too_large_to_square(rotation: str) -> None:
    a, b = activations(600, 5)
    a[599, 3] = 1e200
    acc = uf.PairedCorrelation(5, rotation=rotation)
    with pytest.raises(InputError, match=r"a: .* has 1e\+200 at token 599, neuron 3, too large"):
        acc.update(a, b)
    assert acc.tokens == 0


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_float32_near_its_end_is_no_error(rotation: str) -> None:
    a, b = activations(700, 65)
    case = make_case("3e38", np.clip(a, -3, 3) * 1e38, np.clip(b, -3, 3) * 1e38, F32)
    assert_parity(uf.PairedCorrelation, replace(case, rotation=rotation))


# ---- the object ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"neurons": 0}, InputError, "neurons: got 0"),
        ({"neurons": 3.0}, TypeError, "neurons: expected an integer"),
        ({"neurons": True}, TypeError, "neurons: expected an integer"),
        ({"draws": 0}, InputError, "draws: got 0"),
        ({"rotation": "random"}, InputError, "rotation: got 'random'"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer"),
        ({"threads": 0}, InputError, "threads: got 0"),
        ({"threads": "2"}, TypeError, "threads: expected an integer"),
        ({"threads": 1.5}, TypeError, "threads: expected an integer"),
        ({"device": "cuda"}, InputError, "device: this build"),
        ({"device": "gpu"}, InputError, "device: "),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        uf.PairedCorrelation(**{"neurons": 3, **options})


def test_compute_needs_tokens() -> None:
    acc = uf.PairedCorrelation(3)
    for _ in range(2):
        with pytest.raises(InputError, match="compute: no tokens"):
            acc.compute()
        acc.update(torch.randn(9, 3), torch.randn(9, 3))
        acc.compute()
        acc.reset()
        assert acc.tokens == 0


def test_compute_changes_nothing_and_more_may_follow() -> None:
    case = make_case("two", *activations(90, 5), F64)
    acc = uf.PairedCorrelation(5, draws=2)
    acc.update(case.a[:40], case.b[:40])
    state = acc.state_dict()
    first = acc.compute()
    assert torch.equal(first.correlation, acc.compute().correlation)
    assert bits(state["moments"]) == bits(acc.state_dict()["moments"])
    acc.update(case.a[40:], case.b[40:])
    assert acc.compute().summary["tokens"] == 90
    assert_close(acc.compute().correlation, exact(case)[0], 1e-12, "r")


@pytest.mark.parametrize("rotation", ["hadamard", "gaussian", "none"])
def test_state_goes_through_a_file(tmp_path: Path, rotation: str) -> None:
    case = make_case("two", *activations(90, 5), F64, rotation=rotation)
    whole = accumulated(replace(case, batches=(40, 50)))
    first = accumulated(replace(case, a=case.a[:40], b=case.b[:40]))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = uf.PairedCorrelation(5, draws=2, rotation=rotation)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same_bits(resumed, first)
    resumed.update(case.a[40:], case.b[40:])
    assert same_bits(resumed, whole)


def test_a_state_is_a_copy() -> None:
    acc = accumulated(make_case("one", *activations(9, 5), F64))
    state = acc.state_dict()
    other = uf.PairedCorrelation(5, draws=2)
    other.load_state_dict(state)
    state["moments"].zero_()
    state["options"]["seed"] = 5
    assert same_bits(acc, other)
    assert acc.state_dict()["moments"].any()
    assert acc.state_dict()["options"]["seed"] == 0


OTHER_OPTIONS: list[dict[str, Any]] = [
    {"neurons": 6},
    {"draws": 3},
    {"rotation": "haar"},
    {"seed": 1},
    {"layer": "mlp.1"},
]


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=lambda o: next(iter(o)))
def test_other_options_do_not_mix(options: dict[str, Any]) -> None:
    acc = accumulated(make_case("one", *activations(9, 5), F64))
    before = acc.state_dict()
    other = uf.PairedCorrelation(**{"neurons": 5, "draws": 2, **options})
    (name,) = options
    with pytest.raises(InputError, match=f"merge: {name} differs, got"):
        acc.merge(other)
    with pytest.raises(InputError, match=f"load_state_dict: {name} differs, got"):
        acc.load_state_dict(other.state_dict())
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


def spoilt_states() -> dict[str, Any]:
    good = accumulated(make_case("one", *activations(9, 5), F64)).state_dict()
    moments = good["moments"]
    changes: dict[str, dict[str, Any]] = {
        "format": {"format": "other"},
        "version": {"version": 2},
        "options": {"options": None},
        "moments missing": {"moments": None},
        "moments cut": {"moments": moments[:-1]},
        "tokens negative": {"tokens": -1},
        "tokens a float": {"tokens": 2.5},
        "tokens a word": {"tokens": "nine"},
    }
    spoilt: dict[str, Any] = {name: {**good, **change} for name, change in changes.items()}
    for key in good:
        spoilt[f"no {key}"] = {k: v for k, v in good.items() if k != key}
    return spoilt | {"empty": {}}


@pytest.mark.parametrize("name", list(spoilt_states()))
def test_spoilt_states_are_refused(name: str) -> None:
    acc = accumulated(make_case("two", *activations(30, 5), F64))
    before = acc.state_dict()
    with pytest.raises(InputError, match=r"^load_state_dict: "):
        acc.load_state_dict(spoilt_states()[name])
    assert acc.tokens == 30
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


@pytest.mark.parametrize("other", [None, [1, 2], 3])
def test_neither_states_nor_accumulators(other: Any) -> None:
    acc = uf.PairedCorrelation(5)
    with pytest.raises(TypeError, match=r"^load_state_dict: "):
        acc.load_state_dict(other)
    with pytest.raises(TypeError, match=r"^merge: "):
        acc.merge(other)


# ---- instruction sets ---------------------------------------------------------------------------

_CHECK_LEVEL = """
import sys, torch
from conftest import activations, assert_parity, hard_cases, make_case
import univfast as uf
from univfast import native
torch.set_num_threads(1)
assert native.simd_level() == sys.argv[1], native.simd_level()
for neurons in (1, 3, 5, 15, 31, 65, 130, 257):
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        case = make_case(f"{neurons}", *activations(530, neurons), dtype)
        assert_parity(uf.PairedCorrelation, case)
for dtype in (torch.float64, torch.float32):
    for name in ("offset 1e4 sd", "scale 1e-18", "regime change", "identical"):
        assert_parity(uf.PairedCorrelation, hard_cases(dtype)[name])
"""


def python_with(level: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"UNIVFAST_SIMD": level, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("level", native.simd_levels())
def test_every_instruction_set(level: str) -> None:
    done = python_with(level, _CHECK_LEVEL, level)
    assert done.returncode == 0, done.stderr


def test_levels_are_listed_from_the_plainest() -> None:
    assert native.simd_levels()[0] == "baseline"
    forced = os.environ.get("UNIVFAST_SIMD")
    assert native.simd_level() == (forced or native.simd_levels()[-1])


def test_an_unknown_instruction_set_is_refused() -> None:
    done = python_with("sse9", "from univfast import native; native.simd_level()")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert "UNIVFAST_SIMD=sse9" in message
    assert all(level in message for level in native.simd_levels())


# ---- memory -------------------------------------------------------------------------------------


def test_state_does_not_grow() -> None:
    def size(acc: uf.PairedCorrelation) -> int:
        file = io.BytesIO()
        torch.save(acc.state_dict(), file)
        return len(file.getvalue())

    acc = uf.PairedCorrelation(64, draws=3)
    a, b = (torch.from_numpy(v).float() for v in activations(1000, 64))
    acc.update(a, b)
    first = size(acc)
    assert acc.state_dict()["moments"].nbytes == 8 * (5 + 2 * 3) * 64
    for _ in range(5):
        acc.update(a, b)
    assert size(acc) == first
