"""What is said of a result, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest

from support.summaries import (
    AT_CHANCE,
    FLAGGED,
    INDEX_NOTE,
    NO_CONTROLS,
    NO_SHIFTED_CONTROLS,
    SUMMARY,
    THREE,
    compared,
    details,
    layers,
    words,
)
from univfast.report.verdict import by_chance_in_words

# ---- how many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["best", "one-to-one"])
def test_partners_and_mutual_pairs_are_counted(match: str) -> None:
    assert words(match=match) == f"{FLAGGED} mutual. {NO_CONTROLS}"
    one = {"universal": 1, "universal_partners": 1, "universal_mutual": 1}
    assert words(match=match, **one).startswith(
        "1 neuron of A is universal (excess above 0.5): 1 distinct partner in B, 1 pair mutual. Not"
    )
    many = {"universal": 7006, "universal_partners": 5001, "universal_mutual": 3504}
    assert words(match=match, **many).startswith(
        "7,006 neurons of A are universal (excess above 0.5): 5,001 distinct partners in B, 3,504"
    )
    assert words(match=match, universal_mutual=0).startswith(f"{FLAGGED[:-8]}0 pairs mutual. Not")
    assert words(match=match, threshold=0.25).startswith(
        "40 neurons of A are universal (excess above 0.25): 13 distinct"
    )


def test_none_is_universal_and_results_from_before_partners_were_counted() -> None:
    none = words(universal=0, universal_partners=0, universal_mutual=0)
    assert none.startswith("0 neurons of A are universal (excess above 0.5). Not compared")
    old = words(universal_partners=None, universal_mutual=None)
    assert old == f"40 neurons of A are universal (excess above 0.5). {NO_CONTROLS}"


def test_by_index_every_neuron_has_its_own_partner() -> None:
    said = words(match="index", universal_mutual=None)
    assert said == f"40 neurons of A are universal (excess above 0.5). {NO_SHIFTED_CONTROLS}"


def test_several_models() -> None:
    assert words(**THREE) == (
        "Averaged over 3 models, 40 neurons of A are universal (excess above 0.5): 13 distinct"
        " partners in the other models. "
        + NO_CONTROLS.replace("rotations of B", "rotations of the other models")
    )
    assert "Averaged" not in words()


# ---- against chance ------------------------------------------------------------------------------


def test_as_many_as_chance_gives() -> None:
    for match in ("best", "one-to-one"):
        assert words(match=match, **AT_CHANCE).endswith(
            f"{NO_CONTROLS} This count is about what rotations of B give, and no evidence that the"
            " models share neurons at this threshold."
        )
    assert words(match="index", **AT_CHANCE).endswith(
        f"{NO_SHIFTED_CONTROLS} This count is about what shifted partners give, and no evidence"
        f" that the models share neurons. {INDEX_NOTE}"
    )


def test_the_index_note_is_for_index_at_chance_alone() -> None:
    for match in ("index", "best", "one-to-one"):
        for changes in (AT_CHANCE, {**AT_CHANCE, "universal": 0}, {}):
            noted = INDEX_NOTE in words(match=match, **changes)
            assert noted == (match == "index" and bool(changes))


def test_zero_by_chance_is_said_with_what_it_bounds() -> None:
    zero = {"universal_by_chance": 0.0, "chance_counts": [0] * 5}
    assert "; rotations of B, which give 0 in 5 draws (95% limit 0.6), say that" in words(**zero)
    assert by_chance_in_words({**zero, "chance_counts": [0] * 20}) == (
        "0 in 20 draws (95% limit 0.15)"
    )
    assert by_chance_in_words(SUMMARY) == "5.0"
    assert by_chance_in_words({**SUMMARY, "universal_by_chance": 0.2}) == "0.2"
    assert by_chance_in_words({**zero, "universal_by_chance": None}) is None


def test_none_and_none_by_chance() -> None:
    nothing = {"universal": 0, "universal_by_chance": 0.0, "chance_counts": [0, 0, 0]}
    assert words(**nothing).endswith(
        " Nothing here says that the models share neurons at this threshold."
    )
    assert words(**nothing, match="index").endswith(
        f" Nothing here says that the models share neurons. {INDEX_NOTE}"
    )


def test_the_limit_is_three_standard_deviations() -> None:
    # Poisson's, sqrt(5), is larger than that of the counts; then the counts' is; then 1 is.
    assert "no evidence" in words(universal=11)
    assert "no evidence" not in words(universal=12)
    spread = {"chance_counts": [0, 0, 15]}  # a standard deviation of 8.7
    assert "no evidence" in words(universal=30, **spread)
    assert "no evidence" not in words(universal=31, **spread)
    zero = {"universal_by_chance": 0.0, "chance_counts": [0, 0, 0]}
    assert "no evidence" in words(universal=3, **zero)
    assert "no evidence" not in words(universal=4, **zero)


def test_without_draws_to_compare() -> None:
    one = {"universal_by_chance": None, "chance_counts": None, "q_below_0.05": None}
    one |= {"rotation": {"kind": "haar", "draws": 1, "seed": 0}}
    assert words(**one) == (
        f"{FLAGGED} mutual. Not compared with untrained networks (--controls-b), and how many"
        " rotations of B give is not known: that needs at least two draws."
    )
    assert "how many shifted partners give is not known: that needs at least two shifts." in words(
        match="index", **one
    )
    none = {**one, "rotation": {"kind": "none", "draws": 0, "seed": 0}}
    assert words(**none) == (
        "The mean correlation of 100 live neurons is 0.250. Without a rotation there is no baseline"
        " to compare it with, so no neuron is called universal."
    )
    assert words(**none, method={"sums": "sparse"}).endswith(
        " so no neuron is called universal. Rotations say little of sparse features: compare r with"
        " that of dictionaries of networks that learned nothing (--controls-b)."
    )
    assert "(--controls-b)" in words(**none, method={"sums": "mixed"})
    assert "(--controls-b)" not in words(**none, method={"sums": "dense"})
    assert words(**none, unmatched=20).startswith("The mean correlation of 80 live neurons")
    assert words(**none, models=["a", "b", "c"]).startswith(
        "Averaged over 2 models, the mean correlation of"
    )


# ---- what they follow, and what else fits --------------------------------------------------------


def test_details() -> None:
    assert words(**details()) == (
        f"{FLAGGED} mutual. {NO_CONTROLS} 8 follow the current token in both models; 9 keep r above"
        " 0.5 beyond token and position; 3 rest on fewer than 30 tokens."
    )
    assert words(**details(follow_token=1, beyond_token_and_position=1, few_tokens=1)).endswith(
        " 1 follows the current token in both models; 1 keeps r above 0.5 beyond token and"
        " position; 1 rests on fewer than 30 tokens."
    )
    unknown = details(follow_token=None, beyond_token_and_position=None)
    assert words(**unknown).endswith(" not that they were learned. 3 rest on fewer than 30 tokens.")
    # Few samples are few blocks.
    assert words(**details(blocks=3)).endswith(
        " Intervals are those of 3 samples only, and as uncertain."
    )
    assert words(**details(blocks=1)).endswith(" Of a single sample there are no intervals.")
    # Between what controls say and what is learned.
    assert (
        "need not be learned by both. 8 follow the current token in both models; 9 keep r above 0.5"
        " beyond token and position; 3 rest on fewer than 30 tokens. 11 are learned by both by"
    ) in compared([4, 5], [11, 12], **details())


def test_layers_so_narrow_that_none_can_be_universal() -> None:
    assert words(**layers(0.2, 0.51)).endswith(
        " Layer 'mlp.1' has a mean baseline above 0.5: of layers so narrow, or of so few"
        " directions, match best can hardly find universal neurons."
    )
    assert words(match="one-to-one", threshold=0.25, **layers(0.76, 0.9, 0.74)).endswith(
        " Layers 'mlp.0', 'mlp.1' have a mean baseline above 0.75: of layers so narrow, or of"
        " so few directions, match one-to-one can hardly find universal neurons."
    )
    assert " Layers 'mlp.0', 'mlp.1', 'mlp.2' and 2 more have a" in words(**layers(*[0.9] * 5))
    assert "narrow" not in words(**layers(0.5, 0.2, None))
    assert "narrow" not in words(match="index", **layers(0.9))
    assert "narrow" not in words(threshold=3, **layers(0.9))  # which no width changes
    one = {"layer": "mlp.0", "mean_baseline": 0.9, "universal": 1}
    assert "narrow" not in words(layers=[one])
    assert "can hardly find universal neurons." in compared([4], [11], **layers(0.9))


def by_index(universal: int, by_chance: float | None, counts: list[int] | None) -> dict[str, Any]:
    numbers = {"universal": universal, "universal_by_chance": by_chance, "chance_counts": counts}
    return {"by_index": numbers}


def test_by_index_stands_beside() -> None:
    assert words(**by_index(3, 0.0, [0] * 20)).endswith(
        " By index 3 are universal, shifted partners give 0 in 20 draws (95% limit 0.15): the"
        " models look trained independently, for which match best fits."
    )
    assert words(**by_index(60, 2.5, [2, 3])).endswith(
        " By index 60 are universal, shifted partners give 2.5: the models look like those of one"
        " lineage, for which match index fits as well."
    )
    assert " By index 1 is universal, shifted" in words(**by_index(1, 0.5, [0, 1]))
    assert "By index" not in words(**by_index(60, None, None))
    assert "By index" not in words(by_index=None)
    assert "By index" not in words(threshold=2, **by_index(0, 0.0, [0] * 20))  # that none reaches


# ---- what has no r -------------------------------------------------------------------------------


def test_neurons_without_a_partner() -> None:
    assert words(unmatched=20).endswith(
        " 20 live neurons have no partner: B has too few live neurons."
    )
    assert words(unmatched=1).endswith(" 1 live neuron has no partner: B has too few live neurons.")
    assert words(unmatched=20, models=["a", "b", "c"]).endswith(
        " 20 live neurons have no partner in any model: the others have too few live neurons."
    )
    assert "no partner" not in words()


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
