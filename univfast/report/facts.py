"""All settings and counts of a summary, in words: what a report folds away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from univfast.report.page import number, whole
from univfast.report.verdict import by_chance_in_words, can_be_universal
from univfast.search.matchings import MATCHINGS

__all__ = ["NEEDS_DRAWS", "all_pairs", "control_facts", "means", "summary_facts"]

NEEDS_DRAWS = "not available (needs at least two draws)"

Facts = list[tuple[str, object]]


def summary_facts(summary: Mapping[str, Any]) -> Facts:
    """Names and values, in the order to show them."""
    rotation = summary["rotation"]
    neurons, universal = summary["neurons"], summary["universal"]
    live = neurons - summary["dead"]
    share = f" ({universal / live:.1%} of live neurons)" if live else ""
    if live and not can_be_universal(summary):
        share = " (none can be, without a baseline)"
    significant = summary["q_below_0.05"]
    first, *others = summary["models"]
    correlation, baseline, excess = means(summary)
    rows: Facts = [
        ("A", first),
        *(("B" if len(others) == 1 else "compared with", other) for other in others),
        ("matching", summary["match"]),
        ("tokens", f"{summary['tokens']:,}"),
        ("neurons of A", whole(neurons)),
        ("dead", whole(summary["dead"])),
        ("without a partner", whole(summary["unmatched"])),
        ("mutual matches", whole(summary["mutual"])),
        ("universal", f"{universal:,}{share}"),
        ("their distinct partners", whole(summary["universal_partners"])),
        ("of them in mutual pairs", whole(summary["universal_mutual"])),
        ("universal by chance", by_chance_in_words(summary) or NEEDS_DRAWS),
        ("fdr (by chance / universal)", _fdr(summary)),
        ("q < 0.05", NEEDS_DRAWS if significant is None else whole(significant)),
        *_by_index(summary),
        *_screened(summary),
        ("mean correlation", correlation),
        ("mean baseline", baseline),
        ("mean excess", excess),
        ("threshold of the excess", f"{summary['threshold']:g}"),
        ("rotation", rotation["kind"]),
        ("draws", rotation["draws"]),
        ("seed", rotation["seed"]),
        *_method(summary),
        ("device", summary["device"]),
        ("computed in", f"{number(summary['seconds'], '.2f')} s"),
        ("univfast", summary["univfast"]),
        *_provenance(summary),
    ]
    # By index every neuron has its match, and with several models each has its own matches.
    absent = set() if all_pairs(summary) else {"without a partner"}
    absent |= {"mutual matches"} if summary["mutual"] is None else set()
    absent |= {"of them in mutual pairs"} if summary["universal_mutual"] is None else set()
    return [row for row in rows if row[0] not in absent]


def control_facts(summary: Mapping[str, Any]) -> Facts:
    """What networks that learned nothing say."""
    controls = summary["controls"]
    if controls is None:
        return [("universal by control", "not compared with networks that learned nothing")]
    rows: Facts = [
        ("tokens of controls", f"{controls['tokens']:,}"),
        ("universal on these", whole(summary["universal_on_control_tokens"])),
        ("universal by control", number(summary["universal_by_control"], ",.1f")),
        ("fdr by control", number(summary["fdr_control"], ".3f")),
    ]
    for side, name in (("b", "B"), ("a", "A"), ("both", "both")):
        if controls[f"flagged_{side}"]:
            counts = ", ".join(map(str, controls[f"flagged_{side}"]))
            rows.append((f"flagged with {name} untrained", counts))
    if controls["smallest_p"] is not None:
        rows.append(("smallest p that so few controls give", f"{controls['smallest_p']:.3g}"))
    by_control = number(summary["learned_by_control"], ",.1f")
    return [*rows, ("learned", f"{whole(summary['learned'])} (by control: {by_control})")]


def means(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Mean correlation, baseline and excess of a summary, or of a row of one."""
    return tuple(number(numbers[f"mean_{of}"]) for of in ("correlation", "baseline", "excess"))


def all_pairs(summary: Mapping[str, Any]) -> bool:
    """Whether matches were searched among all neurons."""
    return MATCHINGS[summary["match"]].all_pairs


_SUMS = {
    "paired": "neuron by neuron, as tokens come",
    "dense": "all pairs, by products of layers",
    "mixed": "all pairs, by products of layers or by what is active together",
    "screened": "candidates of a sample, pair by pair",
    "sparse": "all pairs, by what is active together",
}


def _method(summary: Mapping[str, Any]) -> Facts:
    """How r was computed; nothing of a result that was saved before that was kept."""
    method = summary.get("method")
    if method is None:
        return []
    way = _SUMS[method["sums"]]
    made_of = f" ({', '.join(method['products'])})" if method["products"] else ""
    rows: Facts = [("r computed", f"{way}{made_of}; within {method['largest_error']:g}")]
    if dealt := method["dealt"]:
        held = f"co-moments of {dealt['layers']} layers of A in {dealt['processes']} processes"
        rows.append(("dealt", held))
    return rows


def _by_index(summary: Mapping[str, Any]) -> Facts:
    """What neuron i with neuron i gives, where that was looked at too."""
    beside = summary.get("by_index")
    if beside is None:
        return []
    by_chance = by_chance_in_words(beside) or NEEDS_DRAWS
    return [("by index, universal", f"{beside['universal']:,} (by chance {by_chance})")]


def _screened(summary: Mapping[str, Any]) -> Facts:
    """How candidates were found, and how many matches are missed."""
    screen = summary.get("screen")
    if not screen:
        return []
    limit = screen["missed_limit"]
    rows: Facts = [
        ("screened on", f"{screen['tokens']:,} tokens"),
        ("of them chosen by activity", whole(screen["by_activity"])),
        ("candidates of a neuron, in either direction", screen["candidates"]),
        ("searched whole", whole(screen["checked"])),
        ("of them with their best match among the candidates", whole(screen["found"])),
        ("matches missed at most (95% limit)", "not known" if limit is None else f"{limit:.2%}"),
        ("largest shortfall of r", number(screen["shortfall"], ".4f")),
    ]
    above = screen["above"]
    high = f"found, of neurons searched whole with r above {above['r']:g}"
    rows.append((high, f"{above['found']:,} of {above['checked']:,}"))
    for third in screen["thirds"]:
        between = f"{third['lowest']:,.3g} to {third['highest']:,.3g}"
        found = f"{third['found']:,} of {third['checked']:,}"
        rows.append((f"found, of neurons that rest on {between} tokens of the sample", found))
    hardly = f"rest on fewer than {screen['few']} tokens of the sample"
    rows.append((hardly, whole(screen["rare"])))
    if screen["chosen_alone"]:
        rows.append(("screened because", screen["chosen_alone"]))
    return rows


def _provenance(summary: Mapping[str, Any]) -> Facts:
    """Versions and fingerprints, where the summary knows them."""
    rows: Facts = []
    for name in ("versions", "fingerprints"):
        known = summary.get(name)
        if isinstance(known, dict):
            rows += [(f"{name[:-1]} of {key}", value) for key, value in known.items()]
        elif isinstance(known, list):
            rows += [
                (f"{name[:-1]} of {model}", value)
                for model, value in zip(summary["models"], known, strict=False)
            ]
    return rows


def _fdr(summary: Mapping[str, Any]) -> str:
    if summary["universal_by_chance"] is None:
        return NEEDS_DRAWS
    if summary["fdr"] is None:
        return "not defined (no neuron was flagged)"
    return number(summary["fdr"], ".3f")
