"""The report's section on what neurons do: a pair's examples side by side, folded."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from univfast.contexts.records import CONTEXTS, Example, PairRecord
from univfast.contexts.shown import (
    AGREEMENT,
    DISAGREEMENT,
    explained,
    grouped,
    levels_of,
    one_line,
    texts_of,
)
from univfast.report.page import folded, number, section, table, text, whole

__all__ = ["contexts_section"]

_PAIRS = 200  # shown: a page of more is slow to open
_EXAMPLES = 6  # of each group
_NONE = "none of them"


@dataclass(frozen=True)
class _Shown:
    """A pair, without the examples that are not shown, and how many of each group there are."""

    place: int
    record: PairRecord
    counts: dict[str, int]

    @property
    def rank(self) -> tuple[float, int]:
        """By excess, or r where there is none; of equal ones the first."""
        record = self.record
        value = record.correlation if record.excess is None else record.excess
        return -math.inf if value is None else value, -self.place


@dataclass
class _Family:
    """How many neurons a family explains best, and the sum of their r2."""

    in_a: int = 0
    in_match: int = 0
    in_both: int = 0
    r2: float = 0.0
    match_r2: float = 0.0

    def cells(self) -> tuple[str, ...]:
        means = ((self.r2, self.in_a), (self.match_r2, self.in_match))
        return (
            *map(whole, (self.in_a, self.in_match, self.in_both)),
            *(number(total / count if count else None, ".2f") for total, count in means),
        )


def contexts_section(records: Iterable[PairRecord]) -> str:
    """The section, of the records of a result, which are taken one at a time."""
    families: dict[str, _Family] = {}
    pairs, best = 0, list[_Shown]()
    seen: set[tuple[str, int]] = set()

    def counted() -> Iterator[_Shown]:
        nonlocal pairs
        for pairs, record in enumerate(records, 1):
            _count(record, families, seen)
            yield _trimmed(pairs, record)

    best = heapq.nlargest(_PAIRS, counted(), key=lambda one: one.rank)
    if not best:
        return section("What they do", '<p class="note">No pairs were looked at.</p>', "contexts")
    parts = [_note(pairs, len(best)), _families(families)]
    several = len({one.record.model for one in best}) > 1
    body = "\n".join([*parts, *(_pair(one, several) for one in best)])
    return section("What they do", body, "contexts")


def _note(pairs: int, shown: int) -> str:
    more = (
        f" These are the {shown:,} of {pairs:,} pairs with the largest excess; see {CONTEXTS} for"
        " the others."
        if pairs > shown
        else ""
    )
    keys = ('<span class="key a9">A&#8217;s neuron</span>', '<span class="key b9">its match</span>')
    return (
        '<p class="note">Tokens around those where a neuron of A or its match is highest. The upper'
        f" half of a token is coloured for {keys[0]}, the lower half for {keys[1]}, the more, the"
        " nearer to the highest value of that neuron here; below a tenth of it, not at all. The"
        " token in question is underlined. Values stand where the pointer rests on a coloured"
        f" token.{more}</p>"
    )


def _count(record: PairRecord, families: dict[str, _Family], seen: set[tuple[str, int]]) -> None:
    """Counts a pair, if it is universal; its neuron of A once, of however many other models."""
    a, match = record.explanation, record.match_explanation
    if not record.universal:
        return
    neuron = (record.layer, record.neuron)
    if a is not None and neuron not in seen:
        family = families.setdefault(a.family or _NONE, _Family())
        family.in_a += 1
        family.r2 += a.r2
    if match is not None:
        family = families.setdefault(match.family or _NONE, _Family())
        family.in_match += 1
        family.match_r2 += match.r2
        family.in_both += a is not None and match.family == a.family
    seen.add(neuron)


def _families(families: dict[str, _Family]) -> str:
    if not families:
        return '<p class="note">Neurons are not explained, as token ids are not known.</p>'
    order = sorted(families, key=lambda name: (-families[name].in_a, name))
    rows = ((text(one_line(name)), *families[name].cells()) for name in order)
    head = ("family", "in A", "of matches", "of both", "mean r2 in A", "mean r2 of matches")
    note = (
        "Of universal neurons: the family of the feature that explains half of a neuron&#8217;s"
        " variance or more; mixture, where several together do; r2 is that of the best feature."
    )
    return f'<p class="note">{note}</p>\n{table(head, rows, ("family",))}'


def _trimmed(place: int, record: PairRecord) -> _Shown:
    groups = grouped(record.examples)
    kept = tuple(example for group in groups.values() for example in group[:_EXAMPLES])
    counts = {name: len(group) for name, group in groups.items()}
    return _Shown(place, replace(record, examples=kept), counts)


def _pair(shown: _Shown, several: bool) -> str:
    record = shown.record
    match = f"{record.match_layer}/{record.match_neuron}"
    best = record.explanation
    said = [
        f"{record.layer}/{record.neuron} \N{RIGHTWARDS ARROW} "
        + (f"{record.model}: {match}" if several else match),
        f"r {number(record.correlation)}",
        f"excess {number(record.excess)}",
        *([] if best is None else [f"{one_line(best.feature)} (r2 {best.r2:.2f})"]),
    ]
    if record.learned:
        said.append("learned")
    elif not record.universal:
        said.append("not universal")
    lines = [
        f"<p>A: {text(explained(record.explanation))}<br>\n"
        f"Match: {text(explained(record.match_explanation))}</p>"
    ]
    levels = {id(x): y for x, y in zip(record.examples, levels_of(record), strict=True)}
    groups = grouped(record.examples)
    for title, names in (("Agreement", AGREEMENT), ("Disagreement", DISAGREEMENT)):
        found = any(groups[name] for name in names)
        lines.append(f"<h3>{title}{'' if found else ': no examples'}</h3>")
        for name, words in names.items():
            if groups[name]:
                lines.append(f"<p>{text(_heading(words, len(groups[name]), shown.counts[name]))}")
                lines += [_example(example, *levels[id(example)]) for example in groups[name]]
    neuron = f"{record.layer}/{record.neuron}"
    return folded(" \N{MIDDLE DOT} ".join(said), "\n".join(lines), neuron)


def _heading(words: str, shown: int, there: int) -> str:
    more = f" ({shown} of {there}; see {CONTEXTS})" if there > shown else ""
    return f"{words[0].upper()}{words[1:]}{more}"


def _example(example: Example, of_a: Sequence[int], of_b: Sequence[int]) -> str:
    cells = []
    of_a_values, of_b_values = example.values(False), example.values(True)
    for i, token in enumerate(texts_of(example)):
        names = [f"a{of_a[i]}"] if of_a[i] else []
        names += [f"b{of_b[i]}"] if of_b[i] else []
        names += ["at"] if i == example.at else []
        if not names:
            cells.append(text(token))
            continue
        values = f"A {of_a_values[i]:.4g}, match {of_b_values[i]:.4g}"
        cells.append(f'<b class="{" ".join(names)}" title="{values}">{text(token)}</b>')
    at = example.at
    place = f"{example.place}: A {of_a_values[at]:.4g}, match {of_b_values[at]:.4g}"
    return f'<div class="window" dir="ltr">{"".join(cells)}<small>{place}</small></div>'
