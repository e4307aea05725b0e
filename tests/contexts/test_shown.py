"""What is shown of examples: groups, strengths, and tokens that do nothing but stand there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.contexts import example, record
from univfast.contexts.pair_record import PairRecord, parsed_record
from univfast.contexts.shown import (
    display_width,
    explained,
    grouped,
    in_context,
    levels_of,
    pieces,
    shorten,
    texts_of,
)


def made(**changes: Any) -> PairRecord:
    return parsed_record(json.loads(json.dumps(record(**changes))))


def of(*values: float) -> dict[str, Any]:
    zeros, none = [0.0] * len(values), None
    return example(
        at=0, ids=none, tokens=none, activation=[*values], match_activation=[*map(float, zeros)]
    )


def test_levels_are_tenths_of_the_highest_in_all_examples() -> None:
    values = (0.0, 0.99, 1.0, 2.0, 5.5, 8.99, 9.0, 10.0, -3.0)
    found = list(levels_of(made(examples=[of(*values), of(4.0)])))
    assert found[0] == ([0, 0, 1, 2, 5, 8, 9, 9, 0], [0] * 9)
    assert found[1] == ([4], [0])


def test_each_neuron_has_its_own_scale() -> None:
    ((a, match), _) = levels_of(made())
    assert a == [0, 2, 0, 9, 0, 5, 0]
    assert match == [0, 0, 2, 9, 0, 0, 0]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ((-4.0, -2.0, -3.0), [0, 9, 5]),  # nothing above 0: from the lowest on
        ((-1.0, -1.0), [0, 0]),
        ((0.0, 0.0), [0, 0]),
        ((-1.7e308, 1.7e308, 1e308), [0, 9, 5]),
        ((5e-324, 0.0), [9, 0]),
    ],
)
def test_levels_of_odd_values(values: tuple[float, ...], levels: list[int]) -> None:
    ((found, _),) = levels_of(made(examples=[of(*values)]))
    assert found == levels


def test_an_example_stands_once_and_disagreement_goes_first() -> None:
    kinds = [["top"], ["top", "match_top"], ["match_top"], ["top", "only"], ["match_only"]]
    one = made(examples=[example(i, kinds=k) for i, k in enumerate(kinds)])
    numbers = {name: [x.token for x in group] for name, group in grouped(one.examples).items()}
    assert numbers == {"top": [0, 1], "match_top": [2], "only": [3], "match_only": [4]}
    assert list(numbers) == ["top", "match_top", "only", "match_only"]
    some = grouped(one.examples, ["match_top", "match_only"])
    assert [[x.token for x in group] for group in some.values()] == [[1], [2], [], [4]]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("\n", "\u21b5"),
        ("a\t\r", "a\u21e5\\r"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("\u202eab\u2066", "\\u202eab\\u2066"),  # text that would run backwards
        ("\u2028\xa0\u200b", "\\u2028\\xa0\\u200b"),
        ("\ud800", "\\ud800"),
        ("", "\xb7"),
        (" ", " "),
        ("\u0301x", "\u25cc\u0301x"),  # would stand on the mark before it
        ("e\u0301", "e\u0301"),
        ("\u5e9c", "\u5e9c"),
        ("\u05e9\u05dc", "\u05e9\u05dc"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("x" * 41, "x" * 40 + "\u2026"),
        ("x" * 10**6, "x" * 40 + "\u2026"),
    ],
)
def test_tokens_do_nothing(token: str, shown: str) -> None:
    one = made(examples=[example(tokens=[token] * 7)])
    assert texts_of(one.examples[0]) == [shown] * 7


def test_tokens_without_text() -> None:
    ids, nothing = made(examples=[example(tokens=None), example(tokens=None, ids=None)]).examples
    assert "".join(texts_of(ids)) == "5 6 1 7 8 9 2 "
    assert texts_of(nothing) == ["\xb7"] * 7


def test_widths_are_columns() -> None:
    assert display_width("ab") == 2
    assert display_width("\u65e5\u672c") == 4
    assert display_width("e\u0301") == 1
    assert display_width("\U0001f469\u200d\U0001f4bb") == 4
    for width in range(8):
        for text in ("abcdefghij", "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e"):
            assert display_width(shorten(text, width)) <= width
    assert shorten("abcdefghij", 5) == "ab\u2026ij"
    assert shorten("abcde", 5) == "abcde"


def test_a_token_in_its_context() -> None:
    texts = ["aaaa", "bbbb", "T", "cccc", "dddd"]
    assert in_context(texts, 2, 100) == "aaaabbbb[T]ccccdddd"
    assert in_context(texts, 2, 11) == "bbbb[T]cccc"
    assert in_context(texts, 0, 8) == "[aaaa]bb"
    assert in_context(["x" * 40], 0, 9) == "[xxx\u2026xxx]"


def test_rows_are_cut_between_cells() -> None:
    assert [*pieces([3, 3, 3, 9, 1], 6)] == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert [*pieces([9], 6)] == [slice(0, 1)]
    assert [*pieces([], 6)] == []


def test_explanations_in_words() -> None:
    one = made()
    said = "token 'T' (r2 0.93), position 0 (r2 0.02); together 0.95"
    assert explained(one.explanation) == said
    assert explained(None) == "not explained (token ids are not known)"
    alone = {"family": "token", "feature": "token '\n'", "r2": 0.5}
    single = made(explanation={**alone, "r2_together": None, "features": []})
    assert explained(single.explanation) == "token '\u21b5' (r2 0.50)"
