"""What a summary means, in words."""

from __future__ import annotations

import math
from typing import Any

from univfast.search.matchings import MATCHINGS

__all__ = ["verdict"]

# How far a count must lie above the mean of the chance counts to be called more than chance, in
# standard deviations (of the draws' counts, or Poisson's if that is larger).
_SIGMAS = 3.0

_INDEX_NOTE = (
    "Index matching compares neuron i with neuron i, which means something only for models of one"
    " lineage (checkpoints of one run, a model and its fine-tuned, quantised or pruned copy)."
)


def verdict(summary: dict[str, Any]) -> str:
    """A few sentences: how many neurons are flagged, how many chance gives, what follows."""
    dead, unmatched = summary["dead"], summary["unmatched"]
    live = summary["neurons"] - dead
    if live == 0:
        where = "in one of the models" if _by_index(summary) else "in A"
        return f"{_all(dead)} dead (constant {where}), so none has a correlation."
    if live == unmatched:
        return f"{_without_partner(summary)} So none has a correlation."
    models = len(summary["models"]) - 1
    averaged = f"Averaged over {models} models, " if models > 1 else ""
    if summary["rotation"]["draws"] == 0:
        mean = f"the mean correlation of {_neurons(live - unmatched, 'live')} is"
        sentences = [
            _capital(f"{averaged}{mean} {summary['mean_correlation']:.3f}."),
            "Without a rotation there is no baseline to compare it with, so no neuron is called"
            " universal.",
        ]
    else:
        flagged, threshold = summary["universal"], summary["threshold"]
        share = f"{flagged} of {_neurons(live, 'live')} ({100 * flagged / live:.1f}%)"
        verb = "exceeds its" if flagged == 1 else "exceed their"
        sentences = [f"{averaged}{share} {verb} baseline by more than {threshold:g}."]
        sentences += _against_chance(summary)
    if unmatched:
        sentences.append(_without_partner(summary))
    return " ".join(sentences)


def _against_chance(summary: dict[str, Any]) -> list[str]:
    flagged, by_chance = summary["universal"], summary["universal_by_chance"]
    if by_chance is None:
        return ["How many chance gives is not known: that needs at least two draws."]
    counts = summary["chance_counts"]
    variance = sum((count - by_chance) ** 2 for count in counts) / (len(counts) - 1)
    limit = by_chance + _SIGMAS * math.sqrt(max(variance, by_chance, 1.0))
    sentences = [f"Chance alone gives {by_chance:.1f}."]
    if flagged > limit:
        sentences.append(
            f"That is about {flagged - by_chance:.0f} more than chance explains: about"
            f" {100 * by_chance / flagged:.0f}% of those flagged are expected to be false."
        )
    else:
        sentences.append(_no_evidence(summary))
    significant = summary["q_below_0.05"]
    verb = "correlates" if significant == 1 else "correlate"
    sentences.append(
        f"By any margin, {_neurons(significant)} {verb} more than with a rotation (q < 0.05)."
        if significant
        else "By any margin, no neuron correlates more than with a rotation (q < 0.05)."
    )
    if flagged <= limit and _by_index(summary):
        sentences.append(_INDEX_NOTE)
    return sentences


def _by_index(summary: dict[str, Any]) -> bool:
    return not MATCHINGS[summary["match"]].all_pairs


def _no_evidence(summary: dict[str, Any]) -> str:
    at_this = "" if _by_index(summary) else " at this threshold"
    if summary["universal"] == 0 and summary["universal_by_chance"] == 0:
        return f"Nothing here says that the models share neurons{at_this}."
    return (
        "So this count is about what chance gives, and is no evidence that the models share"
        f" neurons{at_this}."
    )


def _without_partner(summary: dict[str, Any]) -> str:
    """Says that there are live neurons without a partner, and why."""
    count = summary["unmatched"]
    verb = "has" if count == 1 else "have"
    several = len(summary["models"]) > 2
    where, others = (" in any model", "the others have") if several else ("", "B has")
    return f"{_neurons(count, 'live')} {verb} no partner{where}: {others} too few live neurons."


def _neurons(count: int, kind: str = "") -> str:
    words = f"{kind} neuron".strip()
    return f"{count} {words}" if count == 1 else f"{count} {words}s"


def _all(count: int) -> str:
    return "The only neuron is" if count == 1 else f"All {count} neurons are"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
