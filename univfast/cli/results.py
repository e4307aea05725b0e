"""A result as it is printed: counts, a row a layer, the first neurons, and what it means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from univfast.cli.printing import say, shown
from univfast.cli.tables import (
    Cell,
    Column,
    Fitted,
    decimal,
    named,
    print_flow,
    print_table,
    terminal_width,
    wrapped,
)
from univfast.contexts.shown import display_width, in_context, one_line, shorten, texts_of
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    from univfast.contexts.records import PairRecord
    from univfast.result import CorrelationResult

__all__ = ["print_result", "print_side_by_side"]

_LAYERS = 12  # rows, unless all are asked for
_NEURONS = 5
_NAME = 16  # columns that a longer name keeps


def print_result(
    result: CorrelationResult, as_json: bool, out: str | None, every: bool = False
) -> None:
    """The summary on stdout: as JSON, or as tables and a verdict; ``every`` layer."""
    from univfast.report.files import summary_json
    from univfast.report.verdict import verdict

    if as_json:
        say(summary_json(result.summary), nl=False)
        return
    _print_counts(result, every)
    if result.reverse is not None:
        say("Neurons of B, matched in A:\n")
        _print_counts(result.reverse, every, "BA")
    # Warnings stand on stderr, in the words of options.
    say(wrapped(verdict({**result.summary, "warnings": []})))
    if out is not None:
        say(f"Report: {shown(os.path.join(out, 'report.html'))}")


def print_side_by_side(results: Sequence[CorrelationResult]) -> None:
    """A line for each of several results on the same models, which have titles."""
    names = ("universal", "chance", "control", "learned", "mean r", "baseline", "excess")
    columns = [Column(name, extra=int(name in ("baseline", "mean r"))) for name in names]
    rows: list[list[Cell]] = []
    for summary in (result.summary for result in results):
        counts = (summary["universal_by_chance"], summary["universal_by_control"])
        rows.append(
            [
                named(summary["title"]),
                f"{summary['universal']:,}",
                *map(_mean, counts),
                "-" if summary["learned"] is None else f"{summary['learned']:,}",
                *_means(summary),
            ]
        )
    print_table([Column("", least=27), *columns], rows, total=False)
    say("")


def _print_counts(result: CorrelationResult, every: bool, letters: str = ascii_uppercase) -> None:
    print_flow([*_models(result.summary["models"], letters), *_settings(result.summary)])
    print_flow(_headline(result.summary))
    say("")
    _print_layers(result, every)
    say("")
    _print_neurons(result)


def _models(names: Sequence[str], letters: str) -> Iterator[str]:
    """Each model with its letter; two long paths share a line."""
    room = max(_NAME, terminal_width() // 2 - 4)
    for i, name in enumerate(names):
        label = letters[i] if i < len(letters) else f"model {i + 1}"
        yield f"{label} {shorten(shown(name), room)}"


def _settings(summary: Mapping[str, Any]) -> Iterator[str]:
    yield f"{summary['tokens']:,} tokens"
    yield f"match {summary['match']}"
    rotation = summary["rotation"]
    if rotation["draws"]:
        yield f"{rotation['kind']} x {rotation['draws']}"
    else:
        yield "rotation none"


def _headline(summary: Mapping[str, Any]) -> Iterator[str]:
    """Counts beside their nulls, and what a count of 0 bounds."""
    from univfast.report.verdict import by_chance_in_words, can_be_universal

    live, universal = summary["neurons"] - summary["dead"], summary["universal"]
    by_index = not MATCHINGS[summary["match"]].all_pairs
    if can_be_universal(summary):
        share = f" ({universal / live:.1%})" if live else ""
        partners, mutual = summary["universal_partners"], summary["universal_mutual"]
        one = "partner" if partners == 1 else "partners"
        words = {one: None if by_index else partners, "mutual": mutual}
        known = [f"{count:,} {word}" for word, count in words.items() if count is not None]
        more = f": {', '.join(known)}" if known and universal else ""
        yield f"{universal:,} of {live:,} live neurons universal{share}{more}"
    else:
        yield f"{live:,} live neurons, none called universal without a baseline"
    if summary["universal_by_control"] is not None:
        yield f"by control {summary['universal_by_control']:.1f}"
    if (by_chance := by_chance_in_words(summary)) is not None:
        yield f"by {'shift' if by_index else 'rotation'} {by_chance}"
    if summary["learned"] is not None:
        by_control = summary["learned_by_control"]
        beside = "" if by_control is None else f" (by control {by_control:.1f})"
        yield f"{summary['learned']:,} stand out from controls{beside}"
    for name in ("dead", "unmatched"):
        if summary[name]:
            yield f"{summary[name]:,} {name}"


def _print_layers(result: CorrelationResult, every: bool) -> None:
    """A row a layer, a row of those that are left out, and the total."""
    from univfast.report.verdict import can_be_universal

    summary = result.summary
    controls = summary["controls"] is not None
    matched = {} if not MATCHINGS[summary["match"]].all_pairs else _mostly_matched(result)
    can_be = can_be_universal(summary)
    names = [row["layer"] for row in summary["layers"]]
    columns = [Column("layer", least=_NAME)]
    columns += [Column("live"), *([Column("dead", extra=4)] if summary["dead"] else [])]
    columns += [Column("universal"), Column("chance")]
    columns += [Column("control")] if controls else []
    columns += [Column("mean r", extra=1), Column("baseline", extra=2), Column("excess")]
    if matched:
        widest = max(cell.most for cell in matched.values())
        columns.append(Column("mostly matched in", least=max(min(widest, _NAME), 10), extra=3))

    def cells(name: Cell, row: Mapping[str, Any], where: Cell = "") -> list[Cell]:
        dead = [row["dead"]] if summary["dead"] else []
        live, universal = row["neurons"] - row["dead"], row["universal"]
        by_control = [_mean(row["universal_by_control"])] if controls else []
        return [
            name,
            *(f"{count:,}" for count in (live, *dead)),
            f"{universal:,}" if can_be else "-",
            _mean(row["universal_by_chance"]),
            *by_control,
            *_means(row),
            *([where] if matched else []),
        ]

    kept, others = _chosen(summary["layers"], every)
    rows = [cells(named(row["layer"], names), row, matched.get(row["layer"], "-")) for row in kept]
    if others:
        more = f"{len(others)} more"
        whole = f"{more} (--all)"
        name = Fitted(lambda width: whole if width >= len(whole) else more, len(whole))
        rows.append(cells(name, _sums(others)))
    rows.append(cells("total", {**summary, "layers": None}))
    print_table(columns, rows, total=True)


def _chosen(
    rows: Sequence[Mapping[str, Any]], every: bool
) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """Those with most universal neurons, in the order of the model; and the others."""
    if every or len(rows) <= _LAYERS + 1:
        return rows, []
    most = sorted(range(len(rows)), key=lambda i: -rows[i]["universal"])[:_LAYERS]
    return (
        [row for i, row in enumerate(rows) if i in most],
        [row for i, row in enumerate(rows) if i not in most],
    )


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of several layers; what is no sum is not known."""
    chance = [row["universal_by_chance"] for row in rows]
    return {
        **{name: sum(row[name] for row in rows) for name in ("neurons", "dead", "universal")},
        "universal_by_chance": None if None in chance else sum(chance),
        "universal_by_control": None,
        **dict.fromkeys(("mean_correlation", "mean_baseline", "mean_excess")),
    }


def _mostly_matched(result: CorrelationResult) -> dict[str, Fitted]:
    """Of each layer with universal neurons, where most of their matches are, and their share."""
    found: dict[str, Counter[str]] = {}
    for i in result.universal.nonzero()[:, 0].tolist():
        if result.match_layer[i]:
            found.setdefault(result.layer[i], Counter())[result.match_layer[i]] += 1
    alike = sorted({*result.match_layer} - {""})
    where: dict[str, Fitted] = {}
    for layer, counts in found.items():
        name, count = counts.most_common(1)[0]
        where[layer] = named(name, alike, f" {count / counts.total():.0%}")
    return where


def _print_neurons(result: CorrelationResult) -> None:
    """The universal neurons of the largest excess."""
    universal = result.universal.nonzero()[:, 0]
    order = result.excess[universal].argsort(descending=True, stable=True)
    chosen = universal[order[:_NEURONS]].tolist()
    if not chosen:
        return
    records = _records(result, chosen)
    low, high = result.correlation_low, result.correlation_high
    columns = [Column("top neurons", least=24), Column("r")]
    columns += [] if low is None else [Column("95% interval", extra=1)]
    columns += [Column("baseline"), Column("excess")]
    columns += [
        Column("explained by (r2)", least=14, extra=2),
        Column("highest token", least=14, extra=3),
    ][: 2 if records else 0]
    layers = {*result.layer}, {*result.match_layer} - {""}
    rows = []
    for i in chosen:
        pair = named(result.layer[i], [*layers[0]], f"/{int(result.neuron[i])}")
        match = named(result.match_layer[i], [*layers[1]], f"/{int(result.match_neuron[i])}")
        row: list[Cell] = [_arrow(pair, match), decimal(float(result.correlation[i]))]
        if low is not None and high is not None:
            row.append(_interval(float(low[i]), float(high[i])))
        row += [decimal(float(result.baseline[i])), decimal(float(result.excess[i]), signed=True)]
        if records:
            row += _what_it_does(records.get(i))
        rows.append(row)
    print_table(columns, rows, total=False)
    say("")


def _arrow(neuron: Fitted, match: Fitted) -> Fitted:
    """A neuron and its match, which share the room."""
    arrow = " -> "

    def fit(width: int) -> str:
        room = max(width - len(arrow), 0)
        own = neuron.fit(max(room - room // 2, room - match.most))
        return own + arrow + match.fit(room - display_width(own))

    return Fitted(fit, neuron.most + len(arrow) + match.most)


def _interval(low: float, high: float) -> str:
    return "-" if low != low else f"[{low:.2f}, {high:.2f}]"


def _records(result: CorrelationResult, chosen: Sequence[int]) -> dict[int, PairRecord]:
    """What is known of what these neurons do."""
    if result.explained is None:
        return {}
    wanted = {(result.layer[i], int(result.neuron[i])): i for i in chosen}
    found: dict[int, PairRecord] = {}
    for record in result.explained.records(result):
        number = wanted.get((record.layer, record.neuron))
        if number is not None and number not in found:
            found[number] = record
            if len(found) == len(chosen):
                break
    return found


def _what_it_does(record: PairRecord | None) -> list[Cell]:
    """What explains a neuron best, and where it is highest."""
    if record is None:
        return ["-", "-"]
    explanation: Cell = "-"
    if record.explanation is not None:
        text = f"{one_line(record.explanation.feature)} {record.explanation.r2:.2f}"
        explanation = Fitted(lambda width: shorten(text, width), display_width(text))
    context: Cell = "-"
    if record.examples:
        example = next((x for x in record.examples if "top" in x.kinds), record.examples[0])
        texts = texts_of(example)
        at, most = example.at, sum(map(display_width, texts)) + 2
        context = Fitted(lambda width: in_context(texts, at, width), min(most, 60))
    return [explanation, context]


def _means(row: Mapping[str, Any]) -> list[str]:
    """Mean correlation, baseline and excess."""
    means = [row[f"mean_{name}"] for name in ("correlation", "baseline", "excess")]
    return [decimal(mean) for mean in means]


def _mean(count: float | None) -> str:
    return decimal(count, digits=1)
