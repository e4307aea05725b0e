"""What is said of a result."""

from __future__ import annotations

import re
from typing import Any

import pytest

from univfast.report.verdict import verdict

# Of 100 live neurons; the chance counts have a mean of 5 and a standard deviation of 1.
SUMMARY: dict[str, Any] = {
    "models": ["a", "b"],
    "match": "best",
    "rotation": {"kind": "haar", "draws": 3, "seed": 0},
    "threshold": 0.5,
    "neurons": 110,
    "dead": 10,
    "unmatched": 0,
    "universal": 40,
    "universal_by_chance": 5.0,
    "chance_counts": [4, 5, 6],
    "fdr": 0.125,
    "q_below_0.05": 30,
    "mean_correlation": 0.25,
}
AT_CHANCE = {"universal": 6, "q_below_0.05": 0}


def words(**changes: Any) -> str:
    said = verdict({**SUMMARY, **changes})
    assert "None" not in said
    assert "  " not in said
    assert re.fullmatch(r"[A-Z0-9].*\.", said)
    return said


@pytest.mark.parametrize("match", ["index", "best", "one-to-one"])
def test_more_than_chance(match: str) -> None:
    assert words(match=match) == (
        "40 of 100 live neurons (40.0%) exceed their baseline by more than 0.5. Chance alone gives"
        " 5.0. That is about 35 more than chance explains: about 12% of those flagged are expected"
        " to be false. By any margin, 30 neurons correlate more than with a rotation (q < 0.05)."
    )


def test_as_many_as_chance_gives() -> None:
    head = "6 of 100 live neurons (6.0%) exceed their baseline by more than 0.5. Chance alone gives"
    for match in ("best", "one-to-one"):
        assert words(match=match, **AT_CHANCE) == (
            f"{head} 5.0. So this count is about what chance gives, and is no evidence that the"
            " models share neurons at this threshold. By any margin, no neuron correlates more than"
            " with a rotation (q < 0.05)."
        )
    index = words(match="index", **AT_CHANCE)
    assert index.startswith(
        f"{head} 5.0. So this count is about what chance gives, and is no evidence that the models"
        " share neurons. By any margin, no neuron correlates more than with a rotation (q < 0.05)."
        " Index matching compares neuron i with"
    )
    # Few above the threshold, but some that stand out: they may share neurons all the same.
    assert words(**{**AT_CHANCE, "q_below_0.05": 1}).endswith(
        "at this threshold. By any margin, 1 neuron correlates more than with a rotation"
        " (q < 0.05)."
    )


def test_the_index_note_is_for_index_at_chance_alone() -> None:
    for match in ("index", "best", "one-to-one"):
        for changes in (AT_CHANCE, {**AT_CHANCE, "universal": 0}, {}):
            noted = "Index matching" in words(match=match, **changes)
            assert noted == (match == "index" and bool(changes))


def test_none_and_none_by_chance() -> None:
    nothing = {"universal": 0, "universal_by_chance": 0.0, "chance_counts": [0, 0, 0]}
    said = words(**{**nothing, "q_below_0.05": 3})
    assert "Nothing here says that the models share neurons at this threshold." in said
    assert said.endswith("3 neurons correlate more than with a rotation (q < 0.05).")


def test_the_limit_is_three_standard_deviations() -> None:
    # Poisson's, sqrt(5), is larger than that of the counts; then the counts' is.
    assert "about what chance" in words(universal=11)
    assert "more than chance" in words(universal=12)
    spread = {"chance_counts": [0, 0, 15]}  # a standard deviation of 8.7
    assert "about what chance" in words(universal=30, **spread)
    assert "more than chance" in words(universal=31, **spread)


def test_without_draws_to_compare() -> None:
    one = {"universal_by_chance": None, "chance_counts": None, "q_below_0.05": None}
    one |= {"rotation": {"kind": "haar", "draws": 1, "seed": 0}}
    assert words(**one).endswith(
        "How many chance gives is not known: that needs at least two draws."
    )
    none = {**one, "rotation": {"kind": "none", "draws": 0, "seed": 0}}
    assert words(**none).startswith("The mean correlation of 100 live neurons is 0.250. Without a")
    assert words(**none, unmatched=20).startswith("The mean correlation of 80 live neurons")
    assert words(**none, models=["a", "b", "c"]).startswith(
        "Averaged over 2 models, the mean correlation of"
    )


def test_several_models() -> None:
    said = words(models=["a", "b", "c", "d"])
    assert said.startswith("Averaged over 3 models, 40 of 100 live neurons (40.0%) exceed")
    assert "Averaged" not in words()


def test_neurons_without_a_partner() -> None:
    assert words(unmatched=20).endswith(
        " 20 live neurons have no partner: B has too few live neurons."
    )
    assert words(unmatched=1).endswith(" 1 live neuron has no partner: B has too few live neurons.")
    assert words(unmatched=20, models=["a", "b", "c"]).endswith(
        " 20 live neurons have no partner in any model: the others have too few live neurons."
    )
    assert "partner" not in words()


def test_no_correlation_at_all() -> None:
    nothing = {"universal": 0, "mean_correlation": None, "universal_by_chance": 0.0}
    dead = {**nothing, "dead": 110}
    assert words(match="index", **dead) == (
        "All 110 neurons are dead (constant in one of the models), so none has a correlation."
    )
    assert "dead (constant in A)" in words(**dead)
    assert "The only neuron is dead" in words(**{**dead, "neurons": 1, "dead": 1})
    for draws in (0, 3):
        rotation = {"kind": "haar", "draws": draws, "seed": 0}
        assert words(**nothing, unmatched=100, rotation=rotation) == (
            "100 live neurons have no partner: B has too few live neurons. So none has a"
            " correlation."
        )


def test_one_neuron() -> None:
    assert words(
        neurons=11, universal=1, universal_by_chance=0.0, chance_counts=[0, 0, 0]
    ).startswith("1 of 1 live neuron (100.0%) exceeds its baseline")
