"""What the passes of a screen found: as it is saved, checked, and told in a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.native import Best
from univfast.nulls.matrices import layer_seed
from univfast.runs.sampling import FEW, Sample
from univfast.runs.screen_plan import CANDIDATES, CHECKED
from univfast.search.matches import LayerCorrelation, Matches
from univfast.search.missed import missed
from univfast.search.sampled import SampleSearch
from univfast.search.saved import check_found, check_number, correlations_from
from univfast.search.verified import Pairs, matches_of_best
from univfast.sums.candidates import Candidates
from univfast.sums.states import check_count, check_fields, check_range, check_tensor, refused

if TYPE_CHECKING:
    from univfast.summary import ScreenSummary

__all__ = [
    "Checked",
    "Found",
    "Screened",
    "Verified",
    "check_sample",
    "chosen_rows",
    "screen_summary",
]


def check_sample(plain: object, tokens: int, number: int, models: Sequence[Layout]) -> Sample:
    """What `Sample.plain` gave, of no more than so many of the tokens of a run of some models.

    Raises:
        InputError: it is none.
    """
    found = check_fields("a sample", plain, Sample._fields)
    chosen = found["tokens"]
    size = len(chosen) if isinstance(chosen, Tensor) and chosen.dim() == 1 else -1
    chosen = check_tensor("tokens", chosen, (size,), torch.int64)
    even = check_count("tokens drawn evenly", found["even"], 1, size)
    whole = bool(((chosen >= 0) & (chosen < tokens)).all())
    if not whole or not 0 < size <= number or bool((chosen.sort().values.diff() == 0).any()):
        raise refused("a sample holds what are no tokens")
    variances = check_number("models", found["variances"], len(models))
    for x, model in zip(variances, models, strict=True):
        check_range("variances", check_tensor("variances", x, (model.neurons,)), 0.0, torch.inf)
    return Sample(chosen, even, list(variances))


@dataclass(frozen=True)
class Found:
    """What a search on a sample found; all on the CPU.

    Attributes:
        top, top_place: of the neurons matched, r on the sample with candidates, and these, highest
            first, ``[neurons, count]``.
        back, back_place: the same of the neurons searched.
        rotated: r in rotations of the searched, ``[draws, neurons matched]``; -inf for none.
        rests_on: effective tokens of the neurons matched in the sample, float64; 0 for a constant
            (`SampleSearch`).
        rests_on_back: the same of those searched.
    """

    top: Tensor
    top_place: Tensor
    back: Tensor
    back_place: Tensor
    rotated: Tensor
    rests_on: Tensor
    rests_on_back: Tensor

    @staticmethod
    def of(search: SampleSearch) -> Found:
        """What a search found."""
        return Found(**{name: x.cpu() for name, x in search.tensors().items()})

    @staticmethod
    def checked(plain: object, sides: tuple[Layout, Layout], draws: int, count: int) -> Found:
        """What ``vars`` of one gave.

        Raises:
            InputError: no search of these models gives it.
        """
        found = check_fields("a search", plain, [x.name for x in fields(Found)])
        matched, searched = (side.neurons for side in sides)
        forward = Best.none(matched, min(count, searched))
        backward = Best.none(searched, min(count, matched))
        rotated = torch.empty(draws, matched, dtype=torch.float64, device="cpu")
        own = {
            **dict(zip(("top", "top_place"), forward, strict=True)),
            **dict(zip(("back", "back_place"), backward, strict=True)),
            "rotated": rotated,
        }
        new = check_found({name: found[name] for name in own}, own, matched, searched)
        for name, neurons in (("rests_on", matched), ("rests_on_back", searched)):
            x = check_tensor(name, found[name], (neurons,))
            new[name] = check_range(name, x, 0.0, torch.inf)
        return Found(**new)

    @property
    def forward(self) -> Best:
        """Of the neurons matched."""
        return Best(self.top, self.top_place)

    @property
    def backward(self) -> Best:
        """Of the neurons searched."""
        return Best(self.back, self.back_place)


def chosen_rows(rests_on: Tensor, seed: int, comparison: int) -> Tensor:
    """Neurons to check, int64: one drawn from each of as many parts, which differ in activity.

    Others in each comparison: neurons that are missed in one model are missed in those like it, and
    counted together their draws must not be the same.
    """
    order = rests_on.argsort(stable=True)
    own = layer_seed(seed, f"checked {comparison}")
    generator = np.random.Generator(np.random.Philox(key=own))
    count = min(CHECKED, len(order))
    ends = [len(order) * i // count for i in range(count + 1)]
    drawn = [int(generator.integers(i, j)) for i, j in pairwise(ends)]
    return order[torch.tensor(drawn, dtype=torch.int64, device="cpu")]


class Checked(NamedTuple):
    """Neurons that were searched for whole, ``[checked]``.

    ``numbers``; ``candidate_r`` and ``candidate`` of the best of their candidates, and ``r`` and
    ``place`` of the best of all, NaN and -1 for none.
    """

    numbers: Tensor
    candidate_r: Tensor
    candidate: Tensor
    r: Tensor
    place: Tensor


@dataclass(frozen=True)
class Verified:
    """Exact r of candidates.

    Attributes:
        tokens: that it was taken over.
        r: float64 ``[pairs]``; NaN where either is constant.
        dead_a, dead_b: neurons without variance, bool.
        checks: of A's neurons and, where that was asked for, of B's, those searched for whole.
        same: of each layer, neurons with those of the same number; nothing where these were not
            correlated.
    """

    tokens: int
    r: Tensor
    dead_a: Tensor
    dead_b: Tensor
    checks: list[Checked]
    same: list[LayerCorrelation]

    def plain(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        checks = [x._asdict() for x in self.checks]
        return {**vars(self), "checks": checks, "same": [vars(x) for x in self.same]}

    @staticmethod
    def checked(
        plain: object,
        layouts: tuple[Layout, Layout],
        candidates: Candidates,
        rows: Sequence[Tensor],
        tokens: int,
        same: tuple[int, int] | None,
    ) -> Verified:
        """What `plain` gave, of these candidates and checked neurons, over so many tokens.

        ``same``: draws and shifts of neurons with those of the same number; None for no such.

        Raises:
            InputError: it is none.
        """
        found = check_fields("r of candidates", plain, [x.name for x in fields(Verified)])
        if check_count("tokens", found["tokens"]) != tokens:
            raise refused(f"r of candidates are of {found['tokens']} tokens, {tokens} are done")
        r = check_tensor("r", found["r"], candidates.places.shape)
        check_range("r", r, -1, 1, torch.nan)
        dead_a, dead_b = (
            check_tensor(name, found[name], (side.neurons,), torch.bool)
            for name, side in zip(("dead_a", "dead_b"), layouts, strict=True)
        )
        checks = found["checks"]
        if not isinstance(checks, list) or len(checks) != len(rows):
            raise refused("r of candidates have other checks")
        new = [
            _check_of(each, own, other.neurons)
            for each, own, other in zip(checks, rows, layouts[::-1], strict=False)
        ]
        by_number = [] if same is None else correlations_from(found["same"], layouts, tokens, *same)
        check_number("layers", found["same"], len(by_number))
        return Verified(tokens, r, dead_a, dead_b, new, by_number)

    def matches(
        self,
        layouts: tuple[Layout, Layout],
        candidates: Candidates,
        rotated: Sequence[Tensor],
        top_k: int,
    ) -> list[Matches]:
        """Of A in B and, where there are rotations of both, of B in A."""
        a, b = layouts
        pairs = Pairs(a, b, candidates.rows(), candidates.places, self.r)
        found = []
        sides = (pairs, self.dead_a), (pairs.turned(), self.dead_b)
        for (own, dead), drawn in zip(sides, rotated, strict=False):
            count = min(top_k, own.searched.neurons)
            best, back = own.best(count), own.turned().best(1)
            found.append(matches_of_best((own.matched, own.searched), best, back, dead, drawn))
        return found


def _check_of(plain: object, rows: Tensor, others: int) -> Checked:
    found = check_fields("a check", plain, Checked._fields)
    new = {}
    for name in Checked._fields:
        place = name in ("numbers", "candidate", "place")
        dtype = torch.int64 if place else torch.float64
        new[name] = check_tensor(name, found[name], rows.shape, dtype)
        if name != "numbers":
            check_range(name, new[name], -1, others - 1 if place else 1, torch.nan)
    if not torch.equal(new["numbers"], rows):
        raise refused("a check is of other neurons")
    return Checked(**new)


class Screened(NamedTuple):
    """Of neurons matched in one other model: those searched whole, and what is known of all.

    ``rests_on``: effective tokens in the sample; ``dead``: constant over all tokens.
    """

    check: Checked
    rests_on: Tensor
    dead: Tensor


def screen_summary(
    sample: Sample, alone: str | None, threshold: float, models: Sequence[Screened]
) -> ScreenSummary:
    """How a result was screened, and what was missed, in one other model or in several together.

    ``alone`` says why it was screened, where nobody asked; ``threshold`` is that of the excess,
    which needs as high an r.
    """
    checks = [one.check for one in models]
    activity = torch.cat([one.rests_on[one.check.numbers] for one in models])
    candidate_r, candidate, r, place = (torch.cat(x) for x in list(zip(*checks, strict=True))[1:])
    found = missed((candidate_r, candidate), (r, place), activity).summary()
    # Which of many low r is the highest is noise, and says nothing of matches that count.
    high = r > threshold
    strong = (candidate_r[high], candidate[high]), (r[high], place[high])
    above = missed(*strong, activity[high]).summary()
    return {
        "tokens": len(sample.tokens),
        "by_activity": len(sample.tokens) - sample.even,
        "candidates": CANDIDATES,
        "chosen_alone": alone,
        "checked": found["checked"],
        "found": found["found"],
        "missed_limit": found["limit"],
        "shortfall": found["shortfall"],
        "thirds": found["thirds"],
        "above": {
            "r": threshold,
            "checked": above["checked"],
            "found": above["found"],
            "limit": above["limit"],
            "shortfall": above["shortfall"],
        },
        "rare": max(int(((one.rests_on < FEW) & ~one.dead).sum()) for one in models),
        "few": int(FEW),
    }
