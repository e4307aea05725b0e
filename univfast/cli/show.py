"""`univfast show`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from univfast.cli.options import PATH, Command
from univfast.cli.printing import heard, say, shown
from univfast.contexts.records import (
    KINDS,
    Example,
    Head,
    PairRecord,
    read_head,
    read_records,
    record_json,
)
from univfast.contexts.selection import selected_records
from univfast.contexts.shown import (
    AGREEMENT,
    DISAGREEMENT,
    display_width,
    explained,
    grouped,
    in_context,
    levels_of,
    one_line,
    pieces,
    shorten,
    texts_of,
)

__all__ = ["show"]

_NARROWEST, _WIDEST, _ELSEWHERE = 80, 200, 100
_EXAMPLES = 5  # of each group
_LEAST = 12  # columns that a match, an explanation or a context keeps beside a long name
# Of the 256 colours, backgrounds of each level for black text; A's are orange, those of B blue.
_HUES = {
    "A": (None, 230, 229, 223, 222, 221, 215, 214, 208, 202),
    "B": (None, 195, 159, 153, 123, 117, 81, 75, 39, 33),
}


class _Kinds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Some kinds of examples, with commas between."""

    name = "kinds"

    def convert(
        self,
        value: str | tuple[str, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        kinds = tuple(value.split(",")) if isinstance(value, str) else value
        for kind in kinds:
            if kind not in KINDS:
                self.fail(f"{kind!r} is none of {', '.join(KINDS)}.", param, ctx)
        return kinds


@click.command(
    cls=Command,
    short_help="Show what the neurons of a saved result do.",
    epilog="""\b
Examples:
  univfast show result/
  univfast show result/ mlp.0/19 mlp.1/3
  univfast show result/ mlp.0/19 --kinds only,match_only --limit 20""",
)
@click.argument("result", type=PATH)
@click.argument("neurons", nargs=-1, metavar="[LAYER/NEURON ...]")
@click.option(
    "--kinds",
    type=_Kinds(),
    metavar="KIND,...",
    help="Of the examples, those that are of such a kind: 'top' (among the highest of A's neuron),"
    " 'match_top' (of its match), 'only' (high in A's neuron, at or below its mean in the match),"
    " 'match_only' (the reverse).  [default: all]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show the first N examples of each kind, or without neurons the first N pairs.  [default:"
    f" {_EXAMPLES}, and all pairs]",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour tokens by strength. 'auto': on a terminal, unless NO_COLOR is set. Without colour,"
    " a digit n below a token stands for n tenths of the neuron's highest value.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON, one a line.")
def show(
    result: str,
    neurons: tuple[str, ...],
    kinds: tuple[str, ...] | None,
    limit: int | None,
    color: str,
    as_json: bool,
) -> None:
    """Show what the neurons of a saved result do, and their matches.

    RESULT is the directory that 'univfast correlate --out' wrote, or its contexts.jsonl. Without
    neurons, each pair has a line: r and excess, what explains the neuron best, and its highest
    token. With neurons of A, their examples: tokens around those where the neuron or its match is
    highest, with the strength of both at each; first where they agree, then where they do not.
    """
    if kinds is not None and not (neurons or as_json):
        raise click.UsageError("--kinds is of examples: name neurons (LAYER/NEURON), or --json")
    head = read_head(result)
    page = _Page(head, _width(), _coloured(color), kinds or KINDS, limit)
    records = selected_records(result, neurons) if neurons else read_records(result)
    print_one = page.json if as_json else page.pair if neurons else page.line
    if not (neurons or as_json):
        page.heading()
    left = None if neurons else limit
    for record in records:
        if left == 0:
            if not as_json:
                say(f"More pairs follow: --limit is {limit}.")
            break
        print_one(record)
        left = None if left is None else left - 1
        if not heard():
            break


def _width() -> int:
    columns = shutil.get_terminal_size((_ELSEWHERE, 24)).columns
    return min(max(columns, _NARROWEST), _WIDEST)


def _coloured(choice: str) -> bool:
    if choice != "auto":
        return choice == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


@dataclass(frozen=True)
class _Page:
    """Where records are shown, and how."""

    head: Head
    width: int
    coloured: bool
    kinds: tuple[str, ...]
    limit: int | None

    def heading(self) -> None:
        """Above a list of pairs."""
        say(f"A {shown(self.head.models[0])}   " + self._others())
        cells = ("neuron -> match", "r", "excess", "best explanation (r2)", "highest token")
        _row(cells, self._columns())

    def line(self, record: PairRecord) -> None:
        """A pair in a line, in which A's neuron can be read in full."""
        pair = f"{_neuron(record)} -> "
        widths = self._columns(display_width(pair) + _LEAST)
        pair += shorten(self._match(record), widths[0] - display_width(pair))
        best, other = record.explanation, record.match_explanation
        explanation = "-"
        if best is not None:
            same = other is not None and other.feature == best.feature
            also = f"/{other.r2:.2f}" if same and other is not None else ""
            explanation = f"{one_line(best.feature)} {best.r2:.2f}{also}"
        context = ""
        if record.examples:
            example = next((x for x in record.examples if "top" in x.kinds), record.examples[0])
            context = in_context(texts_of(example), example.at, widths[-1])
        numbers = _signed(record.correlation), _signed(record.excess)
        _row((pair, *numbers, explanation, context), widths)

    def json(self, record: PairRecord) -> None:
        """A pair as it stands in the file, but for the examples that were not asked for."""
        chosen = [x for x in record.examples if {*x.kinds} & {*self.kinds}]
        if self.limit is not None:
            groups = grouped(chosen, self.kinds).values()
            kept = {id(x) for group in groups for x in group[: self.limit]}
            chosen = [x for x in chosen if id(x) in kept]
        say(record_json(replace(record, examples=tuple(chosen)), plain=True))

    def pair(self, record: PairRecord) -> None:
        """A pair with its examples."""
        says = (
            ", ".join(word for word in ("universal", "learned") if getattr(record, word))
            or "not universal"
        )
        say(
            f"{_neuron(record)} -> {self._match(record)}   r {_signed(record.correlation)}"
            f"   excess {_signed(record.excess)}   {says}"
        )
        say(f"A  {shown(self.head.models[0])} {_neuron(record)}: {explained(record.explanation)}")
        match = f"{shown(record.match_layer)}/{record.match_neuron}"
        say(f"B  {shown(record.model)} {match}: {explained(record.match_explanation)}")
        levels = {id(x): y for x, y in zip(record.examples, levels_of(record), strict=True)}
        groups = grouped(record.examples, self.kinds)
        limit = self.limit or _EXAMPLES
        for title, names in (("Agreement", AGREEMENT), ("Disagreement", DISAGREEMENT)):
            if not {*names} & {*self.kinds} and not any(groups[name] for name in names):
                continue
            found = sum(len(groups[name]) for name in names)
            say(f"\n{title}" if found else f"\n{title}: no examples")
            for name, words in names.items():
                examples = groups[name][:limit]
                if examples:
                    say(f"  {words} ({len(examples)} of {len(groups[name])})")
                for example in examples:
                    self._example(example, *levels[id(example)])
        say("")

    def _example(self, example: Example, of_a: Sequence[int], of_b: Sequence[int]) -> None:
        at = example.at
        say(
            f"    {example.place}"
            f"   A {example.values(False)[at]:.4g}   B {example.values(True)[at]:.4g}"
        )
        texts = texts_of(example)
        if not self.coloured:
            texts[at] = f"[{texts[at]}]"
        print_part = self._part_in_colour if self.coloured else self._part_in_digits
        for part in pieces([*map(display_width, texts)], self.width - len(_MARGIN.format(""))):
            marked = at - part.start if part.start <= at < part.stop else None
            print_part(texts[part], of_a[part], of_b[part], marked)

    def _part_in_colour(
        self, texts: Sequence[str], of_a: Sequence[int], of_b: Sequence[int], marked: int | None
    ) -> None:
        for name, levels in (("A", of_a), ("B", of_b)):
            cells = "".join(
                _in_colour(text, _HUES[name][level], i == marked)
                for i, (text, level) in enumerate(zip(texts, levels, strict=True))
            )
            say(_MARGIN.format(name) + cells, styled=True)

    def _part_in_digits(
        self, texts: Sequence[str], of_a: Sequence[int], of_b: Sequence[int], marked: int | None
    ) -> None:
        say((_MARGIN.format("") + "".join(texts)).rstrip())
        for name, levels in (("A", of_a), ("B", of_b)):
            cells = "".join(map(_below, texts, levels))
            say((_MARGIN.format(name) + cells).rstrip())

    def _columns(self, least: int = 0) -> tuple[int, ...]:
        """Widths of a list's columns; the first has at least so much, which the last two lack."""
        names, explanation = int(self.width * 0.3), int(self.width * 0.25)
        context = self.width - names - explanation - 12 - 8
        lacking = max(least - names, 0)
        from_context = min(lacking, context - _LEAST)
        from_explanation = min(lacking - from_context, explanation - _LEAST)
        return names + lacking, 6, 6, explanation - from_explanation, context - from_context

    def _others(self) -> str:
        _, *others = map(shown, self.head.models)
        return f"B {others[0]}" if len(others) == 1 else f"B one of {', '.join(others)}"

    def _match(self, record: PairRecord) -> str:
        several = len(self.head.models) > 2
        model = f"{shown(record.model)}: " if several else ""
        return f"{model}{shown(record.match_layer)}/{record.match_neuron}"


_MARGIN = "    {:<1}  "
_NUMBERS = (1, 2)  # of a list's columns, which end below each other


def _row(cells: Sequence[str], widths: Sequence[int]) -> None:
    """Cells of a list, each in its column."""
    line = ""
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = shorten(cell, width)
        fill = " " * (width - display_width(text))
        line += (fill + text if i in _NUMBERS else text + fill) + "  "
    say(line.rstrip())


def _in_colour(text: str, background: int | None, marked: bool) -> str:
    codes = ["1", "4"] if marked else []
    codes += [] if background is None else ["38;5;16", f"48;5;{background}"]
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text


def _below(text: str, level: int) -> str:
    """What stands below a token: its level, under the first character that can be seen."""
    room = display_width(text)
    at = min(len(text) - len(text.lstrip(" [")), room - 1)
    return (" " * at + (str(level) if level else " ")).ljust(room)


def _neuron(record: PairRecord) -> str:
    return f"{shown(record.layer)}/{record.neuron}"


def _signed(number: float | None) -> str:
    return "-" if number is None else f"{number:+.3f}"
