"""What is said of a result with controls."""

from __future__ import annotations

import re

import pytest

from support.summaries import FLAGGED, THREE, compared, details, layers


def test_controls_of_both_sides() -> None:
    assert compared([4, 5, 5], [11, 12, 12]) == (
        f"{FLAGGED} mutual. Networks that learned nothing flag 11.7 (B untrained) and 4.7 (A"
        " untrained): about 43% of those flagged need not be learned by both. 11 are learned by"
        " both by a margin of 0.3 over networks that learned nothing (by control: 0.3)."
    )


def test_rotations_are_not_spoken_of_beside_controls() -> None:
    said = compared([4, 5], [11, 12])
    assert "rotations" not in said
    assert "Not compared" not in said


def test_without_a_rotation_none_is_called_learned() -> None:
    rotation = {"kind": "none", "draws": 0, "seed": 0}
    assert compared([4, 5], [11, 12], rotation=rotation).endswith(
        " Without a rotation there is no baseline to compare it with, so no neuron is called"
        " universal, and none learned. How far r is above that of networks that learned nothing"
        " stands in the columns excess_control and p_control."
    )


@pytest.mark.parametrize(("a", "b", "name"), [([], [3, 5], "B"), ([3, 5], [], "A")])
def test_controls_of_one_side_test_that_one(a: list[int], b: list[int], name: str) -> None:
    assert compared(a, b, learned=4).endswith(
        f" Networks that learned nothing flag 4.0 ({name} untrained): about 43% of those flagged"
        f" need not be learned by {name}. This tests the training of {name} only. 4 are learned by"
        f" {name} by a margin of 0.3 over networks that learned nothing (by control: 0.3)."
    )


def test_one_control_bounds_no_learned_neurons() -> None:
    assert compared([4], [12], learned_by_control=None, margin=0.25).endswith(
        "flag 12.0 (B untrained) and 4.0 (A untrained): about 43% of those flagged need not be"
        " learned by both. 11 stand out by a margin of 0.25 over networks that learned nothing (a"
        " single control does not say how many do so by chance)."
    )


def test_the_verdict_ends_with_what_is_learned() -> None:
    said = compared([4, 5], [11, 12], unmatched=2, **details(), **layers(0.7))
    assert re.search(r"so narrow.* have no partner.* 11 are learned by both by a margin", said)
    assert said.endswith(" (by control: 0.3).")
    some = compared([4, 5], [11, 12], controls={"not_compared": 2})
    assert " 2 of those flagged have no r in controls, and cannot be called learned. 11 are" in some
    assert " by all by a margin of 0.3" in compared([4, 5], [11, 12], **THREE)


def test_no_more_than_controls() -> None:
    said = compared(
        [38, 40], [41, 45], more=False, universal_by_control=43.0, fdr_control=1.075, learned=0
    )
    assert said.endswith(
        " Networks that learned nothing flag 43.0 (B untrained) and 39.0 (A untrained), 43.0 in all"
        " by control: that is no more than controls, and no evidence that both networks learned"
        " these neurons. 0 are learned by both by a margin of 0.3 over networks that learned"
        " nothing (by control: 0.3)."
    )
    assert "%" not in said
    # None is flagged, and so no share of those flagged is known.
    none = compared([0], [0], more=False, universal=0, universal_by_control=0.0, fdr_control=None)
    assert (
        "flag 0 in 1 (95% limit 3; B untrained) and 0 in 1 (95% limit 3; A untrained), 0.0 in all"
    ) in none
    # Some stand out of it, and are not called learned where the counts do not bear it out.
    some = compared([9], [38], more=False, learned=2)
    assert some.endswith(
        " 2 stand out by a margin of 0.3 over networks that learned nothing (by control: 0.3)."
    )
    assert " 1 stands out by a margin" in compared([4], [11], learned=1)


def test_none_flagged_by_controls_is_said_with_what_it_bounds() -> None:
    said = compared([0, 0], [0, 0], universal_by_control=0.0, fdr_control=0.0)
    assert (
        " Networks that learned nothing flag 0 in 2 (95% limit 1.5; B untrained) and 0 in 2 (95%"
        " limit 1.5; A untrained): up to 4% of those flagged (95% limit) need not be learned by"
        " both."
    ) in said


def test_controls_on_fewer_tokens() -> None:
    fewer = {"controls": {"tokens": 16_384}}
    assert (
        " mutual. On the first 16,384 tokens 36 are universal, and there networks that learned"
        " nothing flag 11.7 (B untrained) and 4.7 (A untrained): about"
    ) in compared([4, 5, 5], [11, 12, 12], universal_on_control_tokens=36, **fewer)
    assert "On the first 16,384 tokens 1 is universal, and there networks that" in compared(
        [4], [11], universal_on_control_tokens=1, **fewer
    )


def test_controls_of_several_models() -> None:
    said = compared([3, 5], [11, 12], **THREE)
    assert said.startswith("Averaged over 3 models, 40 neurons of A are universal (excess")
    assert "flag 11.5 (the other models untrained) and 4.0 (A untrained): about 43%" in said
    assert "learned by the other models. This tests the training of the other models only." in (
        compared([], [11, 12], **THREE)
    )


def test_the_first_warning_of_controls_is_said() -> None:
    warnings = ["b0.pt: its median neuron is active otherwise", "b1.pt: too"]
    said = compared([4], [11], controls={"warnings": warnings})
    assert (
        "untrained). That is no fair comparison: b0.pt: its median neuron is active otherwise. 11"
        " stand out"
    ) in said
    assert "b1.pt" not in said
    assert "learned by" not in said
