"""What a search among candidates missed, told from some neurons that were searched for whole."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.machine.torch_state import in_plain_state

__all__ = ["Missed", "MissedThird", "missed", "upper_limit"]

# Of r: what sums of candidates are exact to. Of neurons that are as near to each other, as copies
# are, either is the best match.
_SAME = 1e-6
_LEVEL = 0.95
# Halvings of an interval of 1: to the last bit of a float64.
_HALVINGS = 60


@dataclass(frozen=True)
class MissedThird:
    """A third of the checked neurons, by activity.

    Attributes:
        lowest: activity in it.
        highest: activity in it.
        checked: neurons.
        found: of them, those whose best match is among the candidates.
        limit: of the share of neurons whose match is not, the upper limit of 95%.
        shortfall: largest, of r.
    """

    lowest: float
    highest: float
    checked: int
    found: int
    limit: float
    shortfall: float


@dataclass(frozen=True)
class Missed:
    """What a search among candidates missed.

    Attributes:
        checked: neurons that were searched for whole, without those that have no r.
        found: of them, those whose best match is among the candidates, or is as high to 1e-6.
        limit: of the share of neurons whose match is not, the upper limit of 95% (Clopper and
            Pearson 1934, one-sided), NaN where none was checked. It holds for neurons of which
            those checked are a fair draw.
        shortfall: by how much r of the best candidate falls short at most; 0 where nothing does.
        thirds: the same by activity, the least active first.
    """

    checked: int
    found: int
    limit: float
    shortfall: float
    thirds: tuple[MissedThird, ...]

    def summary(self) -> dict[str, Any]:
        """Plain values, as JSON has them: None for NaN."""
        plain = asdict(self)
        for part in (plain, *plain["thirds"]):
            part.update({name: None for name, x in part.items() if x != x})
        return {**plain, "thirds": list(plain["thirds"])}


@in_plain_state
def missed(
    candidate: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor], activity: Tensor
) -> Missed:
    """Compares the best match among candidates with the best of all, neuron by neuron.

    Args:
        candidate: r, float64 ``[checked]``, and number of the best of the candidates, int64; NaN
            and -1 where there is none, whose r counts as 0.
        whole: the same of the best of all. Neurons without one are left out.
        activity: ``[checked]``, by which the thirds are made: finite.

    Raises:
        InputError: the tensors differ in length, or activity is not finite.
    """
    shapes = {tuple(x.shape) for x in (*candidate, *whole, activity)}
    if len(shapes) != 1:
        raise InputError(
            f"candidate, whole and activity: got shapes {sorted(shapes)}; give one value of each a"
            " checked neuron"
        )
    if not bool(activity.isfinite().all()):
        raise InputError("activity: holds values that are not finite")
    known = whole[1] >= 0
    r, place = (x[known] for x in candidate)
    best, best_place = (x[known] for x in whole)
    short = torch.where(place == best_place, 0.0, best - r.nan_to_num(0.0))
    same = (place == best_place) | ((place >= 0) & (short <= _SAME))
    short = torch.where(same, 0.0, short.clamp(min=0.0))
    activity = activity[known].double()
    order = activity.argsort(stable=True)
    thirds = [part for part in order.tensor_split(3) if len(part)]
    return Missed(
        *_counted(same, short),
        tuple(
            MissedThird(
                float(activity[part[0]]),
                float(activity[part[-1]]),
                *_counted(same[part], short[part]),
            )
            for part in thirds
        ),
    )


def _counted(same: Tensor, short: Tensor) -> tuple[int, int, float, float]:
    checked, found = len(same), int(same.sum())
    limit = upper_limit(checked - found, checked)
    return checked, found, limit, float(short.max()) if checked else 0.0


def upper_limit(hits: int, draws: int, level: float = _LEVEL) -> float:
    """The largest share at which so few hits still come with a probability of ``1 - level``.

    Clopper and Pearson 1934, one-sided: P(at most ``hits`` of ``draws``) = 1 - level. NaN without
    draws, 1 where all are hits.
    """
    if draws == 0:
        return math.nan
    if hits >= draws:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        if _at_most(hits, draws, share) > 1 - level:
            low = share
        else:
            high = share
    return high


def _at_most(hits: int, draws: int, share: float) -> float:
    """Probability of at most so many hits, each with probability ``share`` within (0, 1)."""
    chances = (
        math.lgamma(draws + 1)
        - math.lgamma(k + 1)
        - math.lgamma(draws - k + 1)
        + k * math.log(share)
        + (draws - k) * math.log1p(-share)
        for k in range(hits + 1)
    )
    return math.fsum(math.exp(x) for x in chances)
