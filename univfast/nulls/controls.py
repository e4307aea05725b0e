"""What networks that learned nothing say: counts by control, and each neuron's margin over them.

The definitions are those of `univfast.reference.controls`, which computes them neuron by neuron.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "ControlCounts",
    "ControlStatistics",
    "Trial",
    "Trials",
    "control_statistics",
    "exceeds",
]

# How far a count must lie above what a null gives to be called more than that, in standard
# deviations (of the null's counts, or Poisson's if that is larger).
_SIGMAS = 3.0


@dataclass(frozen=True)
class Trial:
    """The neurons of one network, matched with those of each of some others.

    Attributes:
        correlation: r with the match, float64 ``[models, neurons]``; NaN where there is none.
        baseline: of each neuron over all models, float64 ``[neurons]``; NaN without rotations.
        universal: the excess is above the threshold, bool ``[neurons]``.
        match: number of the match among all neurons of the other network, int64
            ``[models, neurons]``; -1 where there is none.
        back: of each neuron of each other network, r with the neuron matched that fits it best
            (best), with its partner (one-to-one), or with that of the same number (index).
    """

    correlation: Tensor
    baseline: Tensor
    universal: Tensor
    match: Tensor
    back: Sequence[Tensor]

    @property
    def r(self) -> Tensor:
        """The mean over the models, ``[neurons]``."""
        return self.correlation.nanmean(dim=0)

    def r_back(self, match: Tensor) -> Tensor:
        """r of some neurons ``[models, neurons]`` of the others, the mean over models."""
        found = [
            torch.where(own >= 0, back[own.clamp(min=0)], torch.nan)
            for own, back in zip(match, self.back, strict=True)
        ]
        return torch.stack(found).nanmean(dim=0)


@dataclass(frozen=True)
class ControlCounts:
    """Neurons flagged where a network that learned nothing takes a side, over K controls.

    Attributes:
        real: with both networks as they are.
        a: with the k-th control in A's place, of each; empty where A has none.
        b: with the k-th control in B's place, of each; empty where B has none.
        both: with both; empty where one side has none.
    """

    real: int
    a: tuple[int, ...]
    b: tuple[int, ...]
    both: tuple[int, ...]

    @property
    def number(self) -> int:
        """How many controls there are of a side."""
        return max(len(self.a), len(self.b))

    @property
    def each(self) -> list[int]:
        """What each control gives, by the formula whose mean is the largest."""
        both = zip(self.a, self.b, self.both, strict=False)
        formulas = [list(self.a), list(self.b), [a + b - neither for a, b, neither in both]]
        return max((counts for counts in formulas if counts), key=_mean)

    @property
    def by_control(self) -> float:
        """``max(F_A, F_B, F_A + F_B - F_0)``, of means over controls."""
        return _mean(self.each)

    @property
    def fdr(self) -> float | None:
        """By control, as a share of those flagged; None where none is."""
        return self.by_control / self.real if self.real else None

    @property
    def more(self) -> bool:
        """Whether more are flagged than controls flag."""
        return exceeds(self.real, self.each)


@dataclass(frozen=True)
class Trials:
    """A pair of networks (A, and all others at once), and the same with controls.

    Attributes:
        real: A and the others, on the tokens that controls were run on.
        a: of each control of A: it and the others.
        b: of each control of the others: A and it.
        both: of each: the control of A and that of the others. Empty where a side has none.
    """

    real: Trial
    a: Sequence[Trial]
    b: Sequence[Trial]
    both: Sequence[Trial]

    def counts(self, part: slice = slice(None)) -> ControlCounts:
        """How many are flagged, of some neurons of the first network."""

        def each(trials: Sequence[Trial]) -> tuple[int, ...]:
            return tuple(int(trial.universal[part].sum()) for trial in trials)

        return ControlCounts(each([self.real])[0], each(self.a), each(self.b), each(self.both))


@dataclass(frozen=True)
class ControlStatistics:
    """What follows; float64 ``[neurons]`` of A unless said otherwise.

    Attributes:
        control_a: r of the match with untrained networks in A's place, the mean over controls; NaN
            where it has none, and where A has no controls.
        control_b: r with the match in untrained networks in B's place, so too.
        excess_control: r - the highest of baseline, control_a and control_b.
        p_control_a, p_control_b: share of controls that reach r, ``(1 + hits) / (1 + controls)``;
            NaN with fewer than two.
        p_control: the larger of the two.
        learned: universal, and ``excess_control`` above the margin, bool.
        counts: how many are flagged, and where controls take a side.
        learned_by_control: how many are learned by the same rule where a control takes a side, the
            mean over controls, of the side where it is larger; None with fewer than two.
    """

    control_a: Tensor
    control_b: Tensor
    excess_control: Tensor
    p_control_a: Tensor
    p_control_b: Tensor
    p_control: Tensor
    learned: Tensor
    counts: ControlCounts
    learned_by_control: float | None


def exceeds(count: int, null_counts: Sequence[int]) -> bool:
    """Whether a count is more than the counts of a null explain."""
    mean = _mean(null_counts)
    squares = sum((x - mean) ** 2 for x in null_counts)
    variance = squares / (len(null_counts) - 1) if len(null_counts) > 1 else 0.0
    return count > mean + _SIGMAS * math.sqrt(max(variance, mean, 1.0))


def control_statistics(trials: Trials, universal: Tensor, margin: float) -> ControlStatistics:
    """Compares a pair of networks with its controls.

    Args:
        trials: of both.
        universal: bool ``[neurons]``, on all tokens.
        margin: of ``excess_control``, above which a universal neuron is learned.
    """
    real, a, b = trials.real, trials.a, trials.b
    r = real.r
    of_a = [trial.r_back(real.match) for trial in a]
    of_b = [trial.r for trial in b]
    control_a, control_b = _mean_of(of_a, r), _mean_of(of_b, r)
    sides = [*([control_a] if a else []), *([control_b] if b else [])]
    excess = _above(r, real.baseline, sides)
    p_a, p_b = _p_values(r, of_a), _p_values(r, of_b)
    p_sides = [*([p_a] if a else []), *([p_b] if b else [])]
    return ControlStatistics(
        control_a=control_a,
        control_b=control_b,
        excess_control=excess,
        p_control_a=p_a,
        p_control_b=p_b,
        p_control=torch.stack(p_sides).amax(dim=0),  # NaN where either is
        learned=universal & (excess > margin),
        counts=trials.counts(),
        learned_by_control=_learned_by_control(trials, margin),
    )


def _learned_by_control(trials: Trials, margin: float) -> float | None:
    """How many neurons pass for learned where a control stands for a network that learned.

    The other controls of that side are its controls; of the other side it is the one that was run
    beside it.
    """
    a, b, both = trials.a, trials.b, trials.both
    if max(len(a), len(b)) < 2:
        return None
    sides = []
    if len(b) > 1:
        counts = []
        for k, trial in enumerate(b):
            others = _mean_of([x.r for i, x in enumerate(b) if i != k], trial.r)
            beside = [both[k].r_back(trial.match)] if both else []
            counts.append(_learned(trial, [others, *beside], margin))
        sides.append(_mean(counts))
    if len(a) > 1:
        counts = []
        for k, trial in enumerate(a):
            found = [x.r_back(trial.match) for i, x in enumerate(a) if i != k]
            beside = [both[k].r] if both else []
            counts.append(_learned(trial, [_mean_of(found, trial.r), *beside], margin))
        sides.append(_mean(counts))
    return max(sides)


def _learned(trial: Trial, controls: Sequence[Tensor], margin: float) -> int:
    excess = _above(trial.r, trial.baseline, controls)
    return int((trial.universal & (excess > margin)).sum())


def _above(r: Tensor, baseline: Tensor, controls: Sequence[Tensor]) -> Tensor:
    """r - the highest of what else gives it; NaN where a control has none."""
    highest = torch.stack([baseline.nan_to_num(nan=-torch.inf), *controls]).amax(dim=0)
    return r - highest


def _mean_of(values: Sequence[Tensor], like: Tensor) -> Tensor:
    """The mean over controls, of those in which a neuron has an r; NaN where ``like`` is."""
    if not values:
        return torch.full_like(like, torch.nan)
    return torch.where(like.isnan(), torch.nan, torch.stack(list(values)).nanmean(dim=0))


def _p_values(r: Tensor, controls: Sequence[Tensor]) -> Tensor:
    if len(controls) < 2:
        return torch.full_like(r, torch.nan)
    values = torch.stack(list(controls))
    there = (~values.isnan()).sum(dim=0)
    p_value = (1 + (values >= r).sum(dim=0).double()) / (1 + there)
    return torch.where(r.isnan() | (there == 0), torch.nan, p_value)


def _mean(counts: Sequence[float]) -> float:
    return sum(counts) / len(counts)
