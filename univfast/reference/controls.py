"""Counts by control and margins over controls, neuron by neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Controls", "Trial", "controls"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A network's neurons and those of one other that they are matched with.

    Attributes:
        r: with the match ``[neurons]``, NaN where there is none.
        baseline: its mean over rotations; -inf without.
        match: the number of the match, -1 where there is none.
        back: of each neuron of the other network, the r that it has from its side: highest of all
            (best), with its partner (one-to-one), with that of the same number (index).
    """

    r: Array
    baseline: Array
    match: NDArray[np.int64]
    back: Array

    def universal(self, threshold: float) -> NDArray[np.bool_]:
        return self.r - np.where(np.isinf(self.baseline), np.nan, self.baseline) > threshold


@dataclass(frozen=True)
class Controls:
    """As `univfast.nulls.controls.ControlStatistics`, and the two numbers by control."""

    control_a: Array
    control_b: Array
    excess_control: Array
    p_control_a: Array
    p_control_b: Array
    p_control: Array
    learned: NDArray[np.bool_]
    universal_by_control: float
    learned_by_control: float


def controls(
    real: Trial,
    a: Sequence[Trial],
    b: Sequence[Trial],
    both: Sequence[Trial],
    threshold: float = 0.5,
    margin: float = 0.3,
) -> Controls:
    """What K untrained networks in A's place (``a``), in B's (``b``) and in both (``both``) say.

    Of two networks on the same tokens; ``a``, or ``b``, and ``both`` may be empty.
    """
    n = len(real.r)
    control_a, control_b = np.full(n, np.nan), np.full(n, np.nan)
    p_a, p_b = np.full(n, np.nan), np.full(n, np.nan)
    excess = np.full(n, np.nan)
    for i in range(n):
        r = real.r[i]
        if np.isnan(r):
            continue
        from_a = [trial.back[real.match[i]] for trial in a]
        from_b = [trial.r[i] for trial in b]
        control_a[i], p_a[i] = _of_controls(r, from_a)
        control_b[i], p_b[i] = _of_controls(r, from_b)
        sides = [*([control_a[i]] if a else []), *([control_b[i]] if b else [])]
        excess[i] = r - np.max([real.baseline[i], *sides])
    learned = real.universal(threshold) & (excess > margin)
    means = [float(np.mean([t.universal(threshold).sum() for t in side] or 0)) for side in (a, b)]
    f_0 = float(np.mean([t.universal(threshold).sum() for t in both])) if both else np.inf
    p = np.fmax(p_a, p_b) if not (a and b) else np.maximum(p_a, p_b)
    return Controls(
        control_a,
        control_b,
        excess,
        p_a,
        p_b,
        p,
        learned,
        max(*means, means[0] + means[1] - f_0),
        _learned_by_control(a, b, both, threshold, margin),
    )


def _of_controls(r: float, found: Sequence[float]) -> tuple[float, float]:
    """The mean over those that are there, and the share that reaches r."""
    there = [x for x in found if not np.isnan(x)]
    if not there:
        return np.nan, np.nan
    reach = sum(x >= r for x in there)
    return float(np.mean(there)), (1 + reach) / (1 + len(there)) if len(found) > 1 else np.nan


def _learned_by_control(
    a: Sequence[Trial],
    b: Sequence[Trial],
    both: Sequence[Trial],
    threshold: float,
    margin: float,
) -> float:
    """A control in the place of a network; the others of its side are its controls."""
    if max(len(a), len(b)) < 2:
        return np.nan
    sides = []
    for own, of_b in ((b, True), (a, False)):
        counts = []
        for k, trial in enumerate(own):
            rest = [x for i, x in enumerate(own) if i != k]
            count = 0
            for i in np.flatnonzero(trial.universal(threshold)).tolist():
                m = trial.match[i]
                same = [x.r[i] if of_b else x.back[m] for x in rest]
                levels = [trial.baseline[i], _of_controls(trial.r[i], same)[0]]
                if both:
                    levels.append(both[k].back[m] if of_b else both[k].r[i])
                count += bool(trial.r[i] - np.max(levels) > margin)
            counts.append(count)
        if counts:
            sides.append(float(np.mean(counts)))
    return max(sides)
