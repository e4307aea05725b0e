"""Counts by control, and margins over controls: the definitions, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from univfast.nulls.controls import (
    ControlCounts,
    Trial,
    Trials,
    control_statistics,
    exceeds,
)

NAN = math.nan


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "both", "by_control"),
    [
        ((2, 4), (10, 14), (1, 1), 14.0),  # 3 + 12 - 1
        ((2, 4), (10, 14), (5, 9), 12.0),  # F_0 above F_A: F_B
        ((20, 22), (10, 14), (13, 15), 21.0),  # F_0 above F_B: F_A
        ((2, 4), (), (), 3.0),
        ((), (10, 14), (), 12.0),
        ((2,), (10,), (0,), 12.0),
        ((0, 0), (0, 0), (0, 0), 0.0),
    ],
)
def test_by_control_is_the_largest_of_three(
    a: tuple[int, ...], b: tuple[int, ...], both: tuple[int, ...], by_control: float
) -> None:
    counts = ControlCounts(40, a, b, both)
    assert counts.by_control == by_control
    assert counts.fdr == by_control / 40
    assert counts.number == len(a or b)


def test_the_share_has_no_value_at_none_and_may_exceed_one() -> None:
    assert ControlCounts(0, (2, 4), (), ()).fdr is None
    assert ControlCounts(2, (2, 4), (), ()).fdr == 1.5


@pytest.mark.parametrize(
    ("null", "limit"),
    [
        ([0, 0, 0], 3.0),  # 1 at least
        ([4, 5, 6], 5 + 3 * math.sqrt(5)),  # Poisson's
        ([0, 0, 15], 5 + 3 * math.sqrt(75)),  # their own variance, by n - 1
        ([16], 16 + 3 * 4.0),  # one has none of its own
    ],
)
def test_more_is_above_three_standard_deviations(null: list[int], limit: float) -> None:
    assert not exceeds(math.floor(limit), null)
    assert exceeds(math.floor(limit) + 1, null)


def test_more_than_controls_is_more_than_the_larger_formula() -> None:
    # F_A + F_B - F_0 of each control: 10 + 20 - 6 and 20 + 30 - 2, of mean 36 and variance 288.
    of = {"a": (10, 20), "b": (20, 30), "both": (6, 2)}
    limit = 36 + 3 * math.sqrt(288)
    assert not ControlCounts(math.floor(limit), **of).more
    assert ControlCounts(math.floor(limit) + 1, **of).more


# ---- margins -------------------------------------------------------------------------------------


def trial(
    r: Sequence[float],
    match: Sequence[int] = (0, 1, 2, 3),
    back: Sequence[float] = (0.1, 0.1, 0.1, 0.1),
    baseline: float = 0.2,
) -> Trial:
    """Four neurons matched with four of one other network."""
    correlation = torch.tensor([r], dtype=torch.float64)
    base = torch.full((4,), baseline, dtype=torch.float64)
    universal = correlation[0] - base > 0.5
    backs = [torch.tensor(back, dtype=torch.float64)]
    return Trial(correlation, base, universal, torch.tensor([match]), backs)


def found(real: Trial, a: Any = (), b: Any = (), both: Any = (), margin: float = 0.3) -> Any:
    return control_statistics(Trials(real, a, b, both), real.universal, margin)


def values(x: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else round(v, 12) for v in x.tolist()]


REAL = trial([0.9, 0.8, 0.75, NAN], match=[2, 2, 0, -1])


def test_of_a_the_match_counts_and_of_b_the_neuron() -> None:
    a = [trial([0] * 4, back=[0.1, 0.9, 0.3, 0.9]), trial([0] * 4, back=[0.3, 0.9, 0.5, 0.9])]
    b = [trial([0.2, 0.6, 0.1, 0.5]), trial([0.4, 0.8, 0.3, 0.5])]
    s = found(REAL, a, b, [trial([0] * 4)] * 2)
    assert values(s.control_a) == [0.4, 0.4, 0.2, None]  # of neurons 2, 2 and 0 of B
    assert values(s.control_b) == [0.3, 0.7, 0.2, None]
    assert values(s.excess_control) == [0.5, 0.1, 0.55, None]
    assert values(s.p_control_a) == [round(1 / 3, 12)] * 3 + [None]
    # 0.8 is reached once, by 0.8 itself.
    assert values(s.p_control_b) == [round(x / 3, 12) for x in (1, 2, 1)] + [None]
    assert values(s.p_control) == values(s.p_control_b)
    assert s.learned.tolist() == [True, False, True, False]


def test_the_baseline_may_be_the_highest_and_may_be_missing() -> None:
    b = [trial([0.1] * 4), trial([0.3] * 4)]
    assert values(found(REAL, b=b).excess_control)[0] == 0.7  # 0.2 either way
    high = trial([0.9, 0.8, 0.75, NAN], baseline=0.35)
    assert values(found(high, b=b).excess_control)[0] == 0.55
    none = trial([0.9, 0.8, 0.75, NAN], baseline=NAN)
    assert values(found(none, b=b).excess_control)[0] == 0.7
    assert not found(none, b=b).learned.any()  # nothing is universal without a baseline


def test_a_control_without_the_neuron_does_not_count() -> None:
    b = [trial([NAN, 0.9, 0.1, 0.1]), trial([0.4, NAN, 0.1, 0.1]), trial([0.6, NAN, 0.1, 0.1])]
    s = found(REAL, b=b)
    assert values(s.control_b)[:2] == [0.5, 0.9]
    assert values(s.p_control_b)[:2] == [round(1 / 3, 12), 1.0]  # of two, and one, that are there
    none = found(REAL, b=[trial([NAN, 0.1, 0.1, 0.1])] * 2)
    assert values(none.control_b)[0] is None
    assert values(none.excess_control)[0] is None
    assert values(none.p_control)[0] is None
    assert not bool(none.learned[0])


def test_one_side_and_one_control() -> None:
    s = found(REAL, b=[trial([0.1] * 4), trial([0.2] * 4)])
    assert values(s.control_a) == values(s.p_control_a) == [None] * 4
    assert values(s.p_control) == values(s.p_control_b)
    assert values(s.control_b)[0] == 0.15
    one = found(REAL, b=[trial([0.1] * 4)])
    assert values(one.p_control) == [None] * 4
    assert one.learned_by_control is None
    assert values(one.excess_control)[0] == 0.7


def test_p_is_that_of_the_side_where_it_is_larger() -> None:
    a = [trial([0] * 4, back=[0.95] * 4), trial([0] * 4, back=[0.1] * 4)]
    b = [trial([0.1, 0.9, 0.1, 0.1])] * 2
    s = found(REAL, a, b, [trial([0] * 4)] * 2)
    assert values(s.p_control)[:3] == [round(x / 3, 12) for x in (2, 3, 2)]


def test_learned_is_universal_on_all_tokens() -> None:
    b = [trial([0.1] * 4)] * 2
    everywhere = torch.tensor([False, True, True, True])
    s = control_statistics(Trials(REAL, [], b, []), everywhere, 0.3)
    assert s.learned.tolist() == [False, True, True, False]
    assert s.counts.real == 3  # on the tokens of the controls
    assert found(REAL, b=b, margin=0.62).learned.tolist() == [True, False, False, False]


def test_learned_by_control_is_the_rule_with_a_control_in_the_place() -> None:
    # Controls of B: 0 and 1 of the first pass for learned where the others' mean leaves a margin.
    b = [trial([0.9, 0.78, 0, 0]), trial([0.3, 0.3, 0, 0]), trial([0.3, 0.7, 0, 0])]
    # Of the first: 0.9 - 0.3, and not 0.78 - 0.5; of the third, 0.7 is no more than 0.5 above 0.2.
    assert found(REAL, b=b).learned_by_control == pytest.approx(1 / 3)
    assert found(REAL, b=b, margin=0.25).learned_by_control == pytest.approx(2 / 3)
    # Beside each stands the control of A that was run with it: r of the control's match in it.
    beside = trial([0] * 4, back=[0.7, 0.1, 0.1, 0.1])
    a = [trial([0] * 4)] * 3
    assert found(REAL, a, b, [beside] * 3, 0.25).learned_by_control == pytest.approx(1 / 3)
    # Of A's controls: r of others with the match, and of the pair of controls.
    own = [
        trial([0.9, 0.9, 0, 0], match=[3, 2, 1, 0], back=[0] * 4),
        trial([0] * 4, back=[0, 0, 0.7, 0.1]),
    ]
    assert found(REAL, a=own).learned_by_control == 0.5  # neuron 0 alone: 0.9 - 0.7 is too little
    both = [trial([0.8, 0, 0, 0]), trial([0] * 4)]
    none = [trial([0] * 4)] * 2
    assert found(REAL, own, none, both).learned_by_control == 0
    # The larger of the two sides.
    more = [trial([0.9] * 4), trial([0] * 4)]
    still = [trial([0] * 4, back=[0] * 4)] * 2
    assert found(REAL, own, more, still).learned_by_control == 2.0


def test_several_models_are_averaged_where_there_is_a_match() -> None:
    r = torch.tensor([[0.9, NAN], [0.5, 0.6]], dtype=torch.float64)
    base, universal = torch.zeros(2).double(), torch.tensor([True, True])
    backs = [torch.tensor([0.2, 0.4]).double(), torch.tensor([0.6]).double()]
    one = Trial(r, base, universal, torch.tensor([[1, -1], [0, 0]]), backs)
    assert values(one.r) == [0.7, 0.6]
    assert [round(x, 6) for x in one.r_back(one.match).tolist()] == [0.5, 0.6]
