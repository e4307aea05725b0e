"""The parity check rejects accumulators that are wrong in the ways that published code is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import F16, F32, F64
from support.parity import LAYER, SHIFTS, assert_parity, hard_cases, rotate_exactly


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
        shifts = uf.reference.shifts_of(self.neurons, SHIFTS, self.seed, LAYER).tolist()
        rows = [self.pair([(a, self.moved(b, s)) for a, b in self.batches]) for s in shifts]
        shifted = torch.stack(rows) if rows else torch.empty(0, self.neurons)
        return SimpleNamespace(
            correlation=self.pair(self.batches), rotated=rotated, shifted=shifted
        )

    def moved(self, b: Tensor, shift: int) -> Tensor:
        return b.roll(-shift, dims=1)

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


class OtherWayRound(Wrong):
    """Shifts to partners on the other side."""

    def moved(self, b: Tensor, shift: int) -> Tensor:
        return b.roll(shift, dims=1)


class NotRound(Wrong):
    """Has the last neuron as the partner of all that go beyond it."""

    def moved(self, b: Tensor, shift: int) -> Tensor:
        return b[:, (torch.arange(b.shape[1]) + shift).clamp(max=b.shape[1] - 1)]


class DeadIsZero(Wrong):
    def pair(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        return super().pair(batches).nan_to_num(0)


@pytest.mark.slow
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
        (OtherWayRound, "plain", "wrong partners: off by"),
        (NotRound, "plain", "wrong partners: off by"),
    ],
)
def test_wrong_accumulators_are_rejected(wrong: type[Wrong], name: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_parity(wrong, hard_cases(F32)[name])


@pytest.mark.slow
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
