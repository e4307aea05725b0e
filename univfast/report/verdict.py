"""What a summary means, in words.

How many are flagged, and what networks that learned nothing, rotations and the tokens themselves
say of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from univfast.nulls.controls import exceeds
from univfast.search.matchings import MATCHINGS

__all__ = ["by_chance_in_words", "can_be_universal", "verdict"]

# Of draws in none of which a neuron is flagged, the mean is below this over their number, at 95%
# (Poisson's limit, -ln 0.05).
_RULE_OF_THREE = 3.0
_SHOWN = 3  # names of layers
_FEW_BLOCKS = 8  # that an interval is made of

_INDEX_NOTE = (
    "Index matching compares neuron i with neuron i, which means something only for models of one"
    " lineage (checkpoints of one run, a model and its fine-tuned, quantised or pruned copy)."
)


def verdict(summary: Mapping[str, Any]) -> str:
    """A few sentences: how many neurons are flagged, how many controls flag, what follows."""
    dead, unmatched = summary["dead"], summary["unmatched"]
    live = summary["neurons"] - dead
    if live == 0:
        where = "in one of the models" if _by_index(summary) else "in A"
        return f"{_all(dead)} dead (constant {where}), so none has a correlation."
    if live == unmatched:
        return f"{_without_partner(summary)} So none has a correlation."
    return " ".join(_sentences(summary, live))


def _sentences(summary: Mapping[str, Any], live: int) -> Iterator[str]:
    models = len(summary["models"]) - 1
    averaged = f"Averaged over {models} models, " if models > 1 else ""
    compared = can_be_universal(summary)
    if not compared:
        mean = f"the mean correlation of {_neurons(live - summary['unmatched'], 'live')} is"
        yield _capital(f"{averaged}{mean} {summary['mean_correlation']:.3f}.")
        yield from _without_baseline(summary)
    else:
        yield averaged + _flagged(summary)
        yield from _against_controls(summary) if summary["controls"] else _against_chance(summary)
        if summary.get("details") and summary["universal"]:
            yield from _of_details(summary)
        yield from _narrow_layers(summary)
    yield from _index_beside(summary)
    if summary.get("screen"):
        yield from _screened(summary["screen"], models > 1)
        yield from _baselines_of_sample(summary)
    if summary["unmatched"]:
        yield _without_partner(summary)
    for warning in summary.get("warnings", ()):
        yield f"Warning: {warning}."
    if summary["controls"] and compared:
        yield from _learned(summary)  # last: it is what a reader takes away


def can_be_universal(summary: Mapping[str, Any]) -> bool:
    """Whether there is a baseline to have an excess over."""
    return summary["rotation"]["draws"] > 0 or _by_index(summary)


def _without_baseline(summary: Mapping[str, Any]) -> Iterator[str]:
    """That no neuron is called anything, and what r can be compared with all the same."""
    nor = ", and none learned" if summary["controls"] else ""
    yield (
        "Without a rotation there is no baseline to compare it with, so no neuron is called"
        f" universal{nor}."
    )
    if summary["controls"]:
        yield (
            "How far r is above that of networks that learned nothing stands in the columns"
            " excess_control and p_control."
        )
    elif (summary.get("method") or {}).get("sums") in ("sparse", "mixed"):
        yield (
            "Rotations say little of sparse features: compare r with that of dictionaries of"
            " networks that learned nothing (--controls-b)."
        )


def _flagged(summary: Mapping[str, Any]) -> str:
    """How many are universal, and how many partners they have."""
    count, threshold = summary["universal"], summary["threshold"]
    verb = "is" if count == 1 else "are"
    head = f"{_neurons(count)} of A {verb} universal (excess above {threshold:g})"
    if count == 0 or _by_index(summary):
        return f"{head}."
    partners, mutual = summary["universal_partners"], summary["universal_mutual"]
    where = "B" if len(summary["models"]) == 2 else "the other models"
    if partners is None:  # of a result that was saved before they were counted
        return f"{head}."
    parts = [f"{partners:,} distinct partner{_s(partners)} in {where}"]
    if mutual is not None:
        parts.append(f"{mutual:,} pair{_s(mutual)} mutual")
    return f"{head}: {', '.join(parts)}."


def _against_controls(summary: Mapping[str, Any]) -> Iterator[str]:
    controls = summary["controls"]
    flagged = summary["universal_on_control_tokens"]
    names = (_others(summary), controls["flagged_b"]), ("A", controls["flagged_a"])
    sides = [(_flag_count(counts, name), name) for name, counts in names if counts]
    where = ""
    if controls["tokens"] < summary["tokens"]:
        verb = "is" if flagged == 1 else "are"
        tokens = f"{controls['tokens']:,}"
        where = f"On the first {tokens} tokens {flagged:,} {verb} universal, and there "
    said = _capital(
        f"{where}networks that learned nothing flag {' and '.join(text for text, _ in sides)}"
    )
    by_control = summary["universal_by_control"]
    if controls["warnings"]:
        yield f"{said}. That is no fair comparison: {controls['warnings'][0]}."
    elif not controls["more_than_controls"]:
        yield (
            f"{said}, {by_control:,.1f} in all by control: that is no more than controls, and no"
            " evidence that both networks learned these neurons."
        )
    else:
        yield f"{said}: {_need_not(summary)} need not be learned by {_trained(summary)}."
    if len(sides) == 1:
        yield f"This tests the training of {sides[0][1]} only."


def _flag_count(counts: list[int], untrained: str) -> str:
    """How many are flagged with controls on one side; what it bounds, if that is none."""
    if any(counts):
        return f"{_mean(counts):,.1f} ({untrained} untrained)"
    limit = _RULE_OF_THREE / len(counts)
    return f"0 in {len(counts)} (95% limit {limit:.2g}; {untrained} untrained)"


def _need_not(summary: Mapping[str, Any]) -> str:
    """The share of those flagged that controls explain."""
    if summary["universal_by_control"] > 0:
        return f"about {100 * summary['fdr_control']:.0f}% of those flagged"
    controls = summary["controls"]
    number = max(len(controls["flagged_a"]), len(controls["flagged_b"]))
    share = _RULE_OF_THREE / number / summary["universal_on_control_tokens"]
    return f"up to {100 * share:.0f}% of those flagged (95% limit)"


def _trained(summary: Mapping[str, Any]) -> str:
    """Whose training is tested."""
    controls = summary["controls"]
    if controls["flagged_a"] and controls["flagged_b"]:
        return "both" if len(summary["models"]) == 2 else "all"
    return "A" if controls["flagged_a"] else _others(summary)


def _learned(summary: Mapping[str, Any]) -> Iterator[str]:
    """What a reader may call universal; only where the counts as a whole bear it out."""
    controls, by_control = summary["controls"], summary["learned_by_control"]
    count, unknown = summary["learned"], controls.get("not_compared")
    if unknown:
        verb = "has" if unknown == 1 else "have"
        yield f"{unknown:,} of those flagged {verb} no r in controls, and cannot be called learned."
    over = f"by a margin of {controls['margin']:g} over networks that learned nothing"
    if by_control is None:
        one = " (a single control does not say how many do so by chance)" if count else ""
        yield f"{count:,} {'stands' if count == 1 else 'stand'} out {over}{one}."
        return
    expected = f" (by control: {by_control:,.1f})"
    borne_out = controls["more_than_controls"] and exceeds(count, [by_control])
    if count and (controls["warnings"] or not borne_out):
        yield f"{count:,} {'stands' if count == 1 else 'stand'} out {over}{expected}."
        return
    verb = "is" if count == 1 else "are"
    yield f"{count:,} {verb} learned by {_trained(summary)} {over}{expected}."


def _against_chance(summary: Mapping[str, Any]) -> Iterator[str]:
    """What rotations say, or shifted partners by index: less than controls would."""
    by_chance = by_chance_in_words(summary)
    nulls = "shifted partners" if _by_index(summary) else f"rotations of {_others(summary)}"
    if by_chance is None:
        least = "two shifts" if _by_index(summary) else "two draws"
        yield (
            f"Not compared with untrained networks (--controls-b), and how many {nulls} give is"
            f" not known: that needs at least {least}."
        )
        return
    agree = "numbers agree" if _by_index(summary) else "axes agree"
    yield (
        f"Not compared with untrained networks (--controls-b); {nulls}, which give {by_chance}, say"
        f" that {agree}, not that they were learned."
    )
    if not exceeds(summary["universal"], summary["chance_counts"]):
        yield _no_evidence(summary, nulls)
        if _by_index(summary):
            yield _INDEX_NOTE


def by_chance_in_words(numbers: Mapping[str, Any]) -> str | None:
    """A count by chance, and what it bounds where it is 0; None where it is not known."""
    by_chance, counts = numbers["universal_by_chance"], numbers["chance_counts"]
    if by_chance is None:
        return None
    if by_chance == 0:
        draws = len(counts)
        return f"0 in {draws} draws (95% limit {_RULE_OF_THREE / draws:.2g})"
    return f"{by_chance:,.1f}"


def _no_evidence(summary: Mapping[str, Any], nulls: str) -> str:
    at_this = "" if _by_index(summary) else " at this threshold"
    if summary["universal"] == 0 and summary["universal_by_chance"] == 0:
        return f"Nothing here says that the models share neurons{at_this}."
    return (
        f"This count is about what {nulls} give, and no evidence that the models share"
        f" neurons{at_this}."
    )


def _of_details(summary: Mapping[str, Any]) -> Iterator[str]:
    """What universal neurons follow, and how many tokens they rest on."""
    details, said = summary["details"], []
    if details["follow_token"] is not None:
        count = details["follow_token"]
        said.append(f"{count:,} follow{'s' if count == 1 else ''} the current token in both models")
    if details["beyond_token_and_position"] is not None:
        count = details["beyond_token_and_position"]
        verb = "keeps" if count == 1 else "keep"
        said.append(f"{count:,} {verb} r above 0.5 beyond token and position")
    few = details["few_tokens"]
    verb = "rests" if few == 1 else "rest"
    said.append(f"{few:,} {verb} on fewer than {details['few']} tokens")
    yield "; ".join(said) + "."
    blocks = details["blocks"]
    if blocks == 1:
        yield "Of a single sample there are no intervals."
    elif blocks < _FEW_BLOCKS:
        yield f"Intervals are those of {blocks} samples only, and as uncertain."


def _narrow_layers(summary: Mapping[str, Any]) -> Iterator[str]:
    """Layers whose baseline leaves no room for an excess above the threshold."""
    highest = 1 - summary["threshold"]
    if _by_index(summary) or highest < 0:  # of no baseline is there room, which a warning says
        return
    narrow = [
        layer["layer"]
        for layer in summary["layers"]
        if layer["mean_baseline"] is not None
        and layer["mean_baseline"] > highest
        and layer["universal"] == 0
    ]
    if narrow:
        shown = ", ".join(map(repr, narrow[:_SHOWN]))
        more = f" and {len(narrow) - _SHOWN} more" if len(narrow) > _SHOWN else ""
        of = "Layers" if len(narrow) > 1 else "Layer"
        has = "have" if len(narrow) > 1 else "has"
        yield (
            f"{of} {shown}{more} {has} a mean baseline above {highest:g}: of layers so narrow,"
            f" or of so few directions, match {summary['match']} can hardly find universal neurons."
        )


def _index_beside(summary: Mapping[str, Any]) -> Iterator[str]:
    """What neuron i with neuron i gives, and which matching fits."""
    beside = summary.get("by_index")
    if beside is None or beside["universal_by_chance"] is None or summary["threshold"] >= 2:
        return  # nothing is known of it, or no excess could be above
    by_chance = by_chance_in_words(beside)
    verb = "is" if beside["universal"] == 1 else "are"
    head = f"By index {beside['universal']:,} {verb} universal, shifted partners give {by_chance}:"
    if exceeds(beside["universal"], beside["chance_counts"]):
        yield (
            f"{head} the models look like those of one lineage, for which match index fits as well."
        )
    else:
        yield f"{head} the models look trained independently, for which match best fits."


def _others(summary: Mapping[str, Any]) -> str:
    return "B" if len(summary["models"]) == 2 else "the other models"


def _by_index(summary: Mapping[str, Any]) -> bool:
    return not MATCHINGS[summary["match"]].all_pairs


def _screened(screen: Mapping[str, Any], several: bool) -> Iterator[str]:
    """How pairs were screened, and what may be missed, in one other model or in several."""
    tokens = f"a sample of {screen['tokens']:,} tokens"
    if screen["by_activity"]:
        tokens += f", {screen['by_activity']:,} of them where rare neurons are active"
    yield f"Candidates were searched on {tokens}; r of these is over all tokens."
    checked, found = screen["checked"], screen["found"]
    if checked:
        verb, have = ("was", "has its") if checked == 1 else ("were", "have their")
        share = f"at most {100 * screen['missed_limit']:.2g}% of matches are missed (95% limit)"
        of = ", counted in each other model," if several else ""
        said = (
            f"{_neurons(checked)}{of} {verb} searched whole, {found:,} of which {have} best match"
        )
        short = f", by {screen['shortfall']:.3f} of r at most" if found < checked else ""
        yield f"{said} among the candidates{short}: {share}."
        above = screen["above"]
        if above["checked"]:
            limit = f"at most {100 * above['limit']:.2g}% of such matches are missed"
            yield (
                f"Of those with r above {above['r']:g}, {above['found']:,} of {above['checked']:,}"
                f" have it: {limit}."
            )
    rare = screen["rare"]
    if rare:
        verb, whose = ("rests", "whose match") if rare == 1 else ("rest", "whose matches")
        yield (
            f"{_neurons(rare)} {verb} on fewer than {screen['few']} tokens of the sample,"
            f" {whose} may be missed."
        )


def _baselines_of_sample(summary: Mapping[str, Any]) -> Iterator[str]:
    """That excess is r over all tokens less the baseline of fewer, by which it is low."""
    screen = summary["screen"]
    even = screen["tokens"] - screen["by_activity"]
    if summary["rotation"]["draws"] and even < summary["tokens"]:
        yield (
            f"Baselines are of {even:,} tokens of the sample, where r by chance is higher than over"
            f" all {summary['tokens']:,}: excess, and with it the number of universal neurons, is"
            " low rather than high."
        )


def _without_partner(summary: Mapping[str, Any]) -> str:
    """Says that there are live neurons without a partner, and why."""
    count = summary["unmatched"]
    verb = "has" if count == 1 else "have"
    several = len(summary["models"]) > 2
    where, others = (" in any model", "the others have") if several else ("", "B has")
    if summary.get("screen"):
        return (
            f"{_neurons(count, 'live')} {verb} no partner{where}: constant in the sample, or"
            f" {others} too few live neurons."
        )
    return f"{_neurons(count, 'live')} {verb} no partner{where}: {others} too few live neurons."


def _neurons(count: int, kind: str = "") -> str:
    words = f"{kind} neuron".strip()
    return f"{count:,} {words}{_s(count)}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _mean(counts: list[int]) -> float:
    return sum(counts) / len(counts)


def _all(count: int) -> str:
    return "The only neuron is" if count == 1 else f"All {count:,} neurons are"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
