"""How examples are shown, in a terminal as on a page: groups, strengths and visible tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

from univfast.contexts.records import KINDS, Example, ExplanationRecord, PairRecord

__all__ = [
    "AGREEMENT",
    "DISAGREEMENT",
    "LEVELS",
    "display_width",
    "explained",
    "grouped",
    "in_context",
    "levels_of",
    "one_line",
    "pieces",
    "shorten",
    "texts_of",
]

AGREEMENT = {"top": "A's neuron is among its highest", "match_top": "its match is"}
DISAGREEMENT = {
    "only": "A's neuron is high, its match at or below its mean",
    "match_only": "the match is high, A's neuron at or below its mean",
}
"""What each group of examples is, in words."""

LEVELS = 10
"""Of strength: level n is at least n tenths of the neuron's highest value in the examples."""

_JOINER = "\N{ZERO WIDTH JOINER}"  # within emoji
_SEEN = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
_ROUNDING = 1e-6  # of tenths: values have 6 digits
_LONGEST = 40  # characters of a token
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def grouped(
    examples: Iterable[Example], kinds: Collection[str] = KINDS
) -> dict[str, list[Example]]:
    """The examples of these kinds, each once: disagreement before what they are besides.

    By the names of `AGREEMENT` and `DISAGREEMENT`, in this order; groups may be empty.
    """
    found: dict[str, list[Example]] = {name: [] for name in (*AGREEMENT, *DISAGREEMENT)}
    for example in examples:
        if {*example.kinds} & {*kinds}:
            name = next(x for x in (*DISAGREEMENT, *AGREEMENT) if x in example.kinds)
            found[name].append(example)
    return found


def levels_of(record: PairRecord) -> Iterator[tuple[list[int], list[int]]]:
    """Of each example, the levels of A's neuron and of its match at each token, 0 to 9.

    Each neuron's level is a share of its own highest value in all examples of the pair. Where none
    is above 0, the lowest stands for 0.
    """
    sides = [[one.values(of_match) for one in record.examples] for of_match in (False, True)]
    return zip(*(_levels(windows) for windows in sides), strict=True)


def texts_of(example: Example) -> list[str]:
    """What stands for each token, in which nothing moves a cursor or hides.

    Its text; its id where no text is known, with a space behind; else a dot.
    """
    if example.tokens is not None:
        return [_visible(token) for token in example.tokens]
    if example.ids is not None:
        return [f"{token} " for token in example.ids]
    return ["\N{MIDDLE DOT}"] * len(example.activation)


def explained(explanation: ExplanationRecord | None) -> str:
    """An explanation in words: its best features, each with its r2."""
    if explanation is None:
        return "not explained (token ids are not known)"
    features = explanation.features or (explanation,)
    words = ", ".join(f"{one_line(one.feature)} (r2 {one.r2:.2f})" for one in features)
    together = explanation.r2_together
    alone = together is None or len(features) == 1
    return words if alone else f"{words}; together {together:.2f}"


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes: two for what is wide, none for what combines."""
    return sum(map(_columns, text))


def shorten(text: str, width: int) -> str:
    """A text of at most so many columns, with an ellipsis in its middle where it was longer."""
    if display_width(text) <= width:
        return text
    room = max(width - 1, 0)
    front, back = room - room // 2, room // 2
    return _fitting(text, front) + _ELLIPSIS[:width] + _fitting(text[::-1], back)[::-1]


def one_line(text: str) -> str:
    """A text in which nothing moves a cursor or hides; line ends and tabs become arrows."""
    return "".join(map(_seen, text))


def in_context(texts: Sequence[str], at: int, width: int) -> str:
    """The marked one of these texts in brackets, and of what stands around it what has room."""
    marked = f"[{texts[at]}]"
    room = max(width - display_width(marked), 0)
    before = _fitting("".join(texts[:at])[::-1], room // 2)[::-1]
    after = _fitting("".join(texts[at + 1 :]), room - display_width(before))
    return shorten(before + marked + after, width)


def pieces(widths: Sequence[int], width: int) -> Iterator[slice]:
    """Parts of a row of cells, each no wider than this, or of one cell."""
    start, taken = 0, 0
    for i, own in enumerate(widths):
        if taken + own > width and i > start:
            yield slice(start, i)
            start, taken = i, 0
        taken += own
    if start < len(widths):
        yield slice(start, len(widths))


def _levels(windows: Sequence[Sequence[float]]) -> list[list[int]]:
    highest = max((value for window in windows for value in window), default=0.0)
    floor = 0.0
    if highest <= 0:
        floor = min((value for window in windows for value in window), default=0.0)
    span = highest - floor
    return [[_level(value - floor, span) for value in window] for window in windows]


def _level(value: float, span: float) -> int:
    if value <= 0 or span <= 0:
        return 0
    return min(int(value / span * LEVELS + _ROUNDING), LEVELS - 1)


def _visible(token: str) -> str:
    text = "".join(map(_seen, token[: _LONGEST + 1]))
    if len(token) > _LONGEST:
        text = text[:_LONGEST] + _ELLIPSIS
    if not text:
        return "\N{MIDDLE DOT}"
    # What combines would change the mark before it.
    return f"\N{DOTTED CIRCLE}{text}" if _columns(text[0]) == 0 else text


def _seen(character: str) -> str:
    if character in _SEEN:
        return _SEEN[character]
    if character.isprintable() or character == _JOINER:
        return character
    return ascii(character)[1:-1]


def _columns(character: str) -> int:
    if character == _JOINER or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, width: int) -> str:
    """The first characters, of at most so many columns."""
    for i, character in enumerate(text):
        width -= _columns(character)
        if width < 0:
            return text[:i]
    return text
