"""The state of the paired correlation, and how two states merge.

A state is a float64 tensor ``[5 + 2 * draws + shifts, neurons]`` and a number of tokens. Its rows
are the means of A and B, their second moments and their co-moment (sums about the mean, not divided
by the tokens), then, for each draw, the second moment of the rotated B and its co-moment with A,
then, for each shift, the co-moment of A with its wrong partner in B. The mean of the rotated B is
the rotation of the mean of B, so it is not kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.nulls.rotations import Rotations
from univfast.nulls.shifts import partners

__all__ = [
    "CO_AB",
    "M2_A",
    "M2_B",
    "MEAN_A",
    "MEAN_B",
    "ROTATED",
    "about",
    "beyond_rounding",
    "finish",
    "merge",
    "zero",
]

MEAN_A, MEAN_B, M2_A, M2_B, CO_AB, ROTATED = range(6)

# A rotated neuron in which all that varies cancels is left with the square of its rounding, 1e-32
# of what a neuron has, and r with that would be anything.
_LEAST_SHARE = 1e-27


def zero(neurons: int, draws: int, shifts: int = 0) -> Tensor:
    """The state of no tokens."""
    return torch.zeros(ROTATED + 2 * draws + shifts, neurons, dtype=torch.float64, device="cpu")


def merge(
    first: Tensor,
    first_tokens: int,
    second: Tensor,
    second_tokens: int,
    rotations: Rotations,
    shifts: Tensor | None = None,
) -> Tensor:
    """The state of both sets of tokens: pairwise update of Chan, Golub and LeVeque (1983).

    ``rotations`` and ``shifts``, int64 ``[shifts]``, are those of both.
    """
    if first_tokens == 0 or second_tokens == 0:
        return second.clone() if first_tokens == 0 else first.clone()
    tokens = first_tokens + second_tokens
    deltas = second[:M2_A] - first[:M2_A]
    merged = first + second
    merged[:M2_A] = first[:M2_A] + deltas * (second_tokens / tokens)
    _move(merged, first_tokens * (second_tokens / tokens), deltas, rotations, shifts)
    return merged


def about(
    moments: Tensor,
    tokens: int,
    means: Tensor,
    rotations: Rotations,
    shifts: Tensor | None = None,
) -> Tensor:
    """The same sums about other means ``[2, neurons]``: sets of tokens that share them just add."""
    moved = moments.clone()
    moved[:M2_A] = means
    _move(moved, tokens, moments[:M2_A] - means, rotations, shifts)
    return moved


def _move(
    moments: Tensor, weight: float, deltas: Tensor, rotations: Rotations, shifts: Tensor | None
) -> None:
    """Adds to the sums what means that are ``deltas`` ``[2, neurons]`` away add."""
    delta_a, delta_b = deltas
    delta_rotated = rotations.apply(delta_b[None])[:, 0]
    moments[M2_A] += weight * delta_a * delta_a
    moments[M2_B] += weight * delta_b * delta_b
    moments[CO_AB] += weight * delta_a * delta_b
    rotated, shifted = _draws(moments, rotations.draws)
    rotated[::2] += weight * delta_rotated * delta_rotated
    rotated[1::2] += weight * delta_a * delta_rotated
    if shifts is not None and len(shifts):
        shifted += weight * delta_a * delta_b[partners(shifts, len(delta_b))]


def _draws(moments: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """The rows of rotations and of shifts."""
    behind = ROTATED + 2 * draws
    return moments[ROTATED:behind], moments[behind:]


def beyond_rounding(rotated: Tensor, m2: Tensor) -> Tensor:
    """Second moments of a layer's rotated neurons ``[..., neurons]``; 0 for what is rounding alone.

    ``m2`` are those of the layer as it is.
    """
    least = (m2 * (_LEAST_SHARE / len(m2))).sum()  # the sum of m2 may leave the range of float64
    return torch.where(rotated > least, rotated, 0.0)


def finish(
    moments: Tensor, draws: int, shifts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pearson's r, and r with rotations of B and with wrong partners.

    ``[neurons]``, ``[draws, neurons]`` and ``[shifts, neurons]``. NaN where a variance is exactly
    zero: of shifts, that of A or of the wrong partner. There is no other threshold on a variance,
    but for rotated neurons (`beyond_rounding`).
    """
    # Two square roots, because the product of two second moments can leave the range of float64.
    root_a, root_b = moments[M2_A].sqrt(), moments[M2_B].sqrt()
    r = moments[CO_AB] / root_a / root_b
    turned, shifted = _draws(moments, draws)
    root_rotated = beyond_rounding(turned[::2], moments[M2_B]).sqrt()
    rotated = turned[1::2] / root_a / root_rotated
    alive = (root_a > 0) & (root_b > 0)
    r = torch.where(alive, r.clamp(-1.0, 1.0), torch.nan)
    rotated = torch.where(alive & (root_rotated > 0), rotated.clamp(-1.0, 1.0), torch.nan)
    if shifts is None or not len(shifts):
        return r, rotated, shifted
    root_wrong = root_b[partners(shifts, len(root_b))]
    alive = (root_a > 0) & (root_wrong > 0)
    shifted = (shifted / root_a / root_wrong).clamp(-1.0, 1.0)
    return r, rotated, torch.where(alive, shifted, torch.nan)
