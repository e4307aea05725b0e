"""Words of a report, and what they mean in its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from univfast.nulls.kinds import ROTATIONS
from univfast.search.matchings import MATCHINGS

__all__ = ["definitions"]


def definitions(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each word with its meaning."""
    matching, rotation = MATCHINGS[summary["match"]], ROTATIONS[summary["rotation"]["kind"]]
    models = len(summary["models"]) - 1
    averaged = (
        f" Each of the {models} other models is a B of its own; the numbers are means over those "
        "in which the neuron has a match."
        if models > 1
        else ""
    )
    yield (
        "correlation, r",
        f"Pearson's correlation, over all tokens, {matching.meaning}{averaged}",
    )
    yield (
        "baseline",
        "The same statistic after each layer of B is multiplied by a random matrix R; the mean "
        + " ".join(filter(None, ("over draws of R.", matching.baseline, rotation.meaning))),
    )
    yield "excess", "Correlation minus baseline."
    yield (
        "universal",
        "The excess is above the threshold: the axes of the two networks agree here more than "
        "random ones do. That alone does not say that it was learned: networks that were never "
        "trained have such neurons too.",
    )
    yield "by chance", _chance(matching.all_pairs)
    yield (
        "fdr",
        "The number by chance over the number flagged. It is about axes that agree by chance, and "
        "not about what was learned.",
    )
    yield from _of_controls(summary)
    yield (
        "p",
        "The share of the excesses that chance gives in the same layer that reach the neuron's own "
        "excess: (1 + hits) / (1 + number of them).",
    )
    yield "q", "p after the correction of Benjamini and Hochberg over all live neurons."
    dead = matching.dead
    if not matching.all_pairs and models > 1:
        dead = "A neuron without variance in A, or in all of the others."
    yield "dead", f"{dead} It has no correlation and is never universal."
    if matching.all_pairs:
        yield (
            "mutual",
            "The match is the neuron of B that the neuron correlates with most, and the neuron is "
            "the one of A that its match correlates with most.",
        )
        yield (
            "distinct partners",
            "The different neurons that universal neurons are matched with: several may have the "
            "same match.",
        )
        yield (
            "without a partner",
            "A live neuron for which there was no neuron of B left, or none that is live. It has "
            "no correlation and is never universal.",
        )


def _chance(all_pairs: bool) -> str:
    if all_pairs:
        return (
            "Each draw in turn is taken as if it were the real one: the mean of the other draws is "
            "subtracted from it, and the neurons that pass the threshold are counted. The mean of "
            "these counts is what random axes flag. In every draw the matches are those of that "
            "draw. It needs at least two draws."
        )
    return (
        "Shifted partners: neuron i of A with neuron i + s of B, the same s for all neurons of a "
        "layer, less the same baseline; the neurons that pass the threshold are counted. The mean "
        "over several s is what is flagged where the number of a neuron means nothing."
    )


def _of_controls(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if summary["controls"] is None:
        return
    yield (
        "control",
        "A network of the same architecture that learned nothing, on the same tokens. The same is "
        "counted with a control in the place of B, in that of A, and in both.",
    )
    yield (
        "by control",
        "The largest of F_A (flagged with A untrained), F_B (with B untrained) and F_A + F_B - F_0 "
        "(F_0: with both), means over controls: so many of those flagged need not be learned by "
        "both networks.",
    )
    yield (
        "above controls",
        "r minus the highest of the baseline, the mean r of the match with controls of A, and the "
        "mean r of the neuron with its match in controls of B.",
    )
    margin = f"{summary['controls']['margin']:g}"
    yield (
        "learned",
        f"Universal, and above controls by more than {margin}. By control: "
        "how many are so where a control takes the place of a network, and the others are its "
        "controls.",
    )
