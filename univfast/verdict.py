"""What a summary means, in words."""

from __future__ import annotations

import math
from typing import Any

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
    live = summary["neurons"] - summary["dead"]
    if live == 0:
        return (
            f"All {summary['neurons']} neurons are dead (constant in one of the models), so none"
            " has a correlation."
        )
    if summary["rotation"]["draws"] == 0:
        mean = summary["mean_correlation"]
        return (
            f"The mean correlation of {live} live neurons is {mean:.3f}. Without a rotation there"
            " is no baseline to compare it with, so no neuron is called universal."
        )
    flagged, threshold = summary["universal"], summary["threshold"]
    share = f"{flagged} of {live} live neurons ({100 * flagged / live:.1f}%)"
    head = f"{share} exceed their baseline by more than {threshold:g}."
    if summary["universal_by_chance"] is None:
        return f"{head} How many chance gives is not known: that needs at least two draws."
    return f"{head} {_against_chance(summary, flagged)}"


def _against_chance(summary: dict[str, Any], flagged: int) -> str:
    by_chance = summary["universal_by_chance"]
    counts = summary["chance_counts"]
    variance = sum((count - by_chance) ** 2 for count in counts) / (len(counts) - 1)
    limit = by_chance + _SIGMAS * math.sqrt(max(variance, by_chance, 1.0))
    head = f"Chance alone gives {by_chance:.1f}."
    if flagged > limit:
        false = 100 * by_chance / flagged
        return (
            f"{head} That is more than chance explains: about {false:.0f}% of those flagged are"
            " expected to be false."
        )
    if flagged == 0 and by_chance == 0:
        return f"{head} Nothing here says that the models share neurons. {_INDEX_NOTE}"
    return (
        f"{head} So this count is about what chance gives, and is no evidence that the models share"
        f" neurons. {_INDEX_NOTE}"
    )
