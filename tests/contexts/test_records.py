"""`contexts.jsonl`: read as it was written; what is damaged is refused by its line."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.contexts import HEAD, example, explanation, lines, record, write
from univfast.contexts.records import (
    Head,
    contexts_file,
    read_head,
    read_records,
    record_at,
    record_json,
    records_with_offsets,
    write_records,
)
from univfast.errors import InputError


def test_what_is_read_is_what_stands_there(tmp_path: Path) -> None:
    path = write(tmp_path / "contexts.jsonl", record(), record(7, learned=True, excess=None))
    first, second = read_records(tmp_path)
    assert (first.layer, first.neuron, first.match_layer, first.match_neuron) == (
        *("mlp.0", 3),
        *("mlp.1", 17),
    )
    assert (first.correlation, first.excess, first.universal, first.learned) == (
        0.91,
        0.7,
        True,
        None,
    )
    assert first.explanation is not None
    assert (first.explanation.r2, first.explanation.r2_together) == (0.93, 0.95)
    assert [one.feature for one in first.explanation.features] == ["token 'T'", "position 0"]
    assert first.examples[0].tokens == ("the", " cat", "\n", "T", "he", " dog", "\t")
    assert first.examples[1].kinds == ("only",)
    assert (second.excess, second.learned) == (None, True)
    assert read_head(path) == Head(("a.pt", "b.pt"), 3)
    for text, one in zip(path.read_text().splitlines()[1:], (first, second), strict=True):
        assert json.loads(record_json(one)) == json.loads(text)
        assert json.loads(record_json(one, plain=True)) == json.loads(text)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    found = next(read_records(write(tmp_path / "c", spoilt(activation=[0, 1.5, 2, 3, 4, 5, 6]))))
    assert found.examples[0].activation == (0, 1.5, 2, 3, 4, 5, 6)
    assert {*map(type, found.examples[0].activation)} == {float}


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    unknown = record(
        explanation=None, match_explanation=None, examples=[example(ids=None, tokens=None)]
    )
    (found,) = read_records(write(tmp_path / "c.jsonl", unknown))
    assert found.explanation is found.match_explanation is None
    assert found.examples[0].ids is found.examples[0].tokens is None


def test_the_writer_writes_what_is_read(tmp_path: Path) -> None:
    odd = ["\ud800", "b\udcff", "é", "\u2028", "\x7f\x00", "a\nb"]
    texts = example(tokens=[*odd, "x"], activation=[1 / 3] * 7)
    source = write(tmp_path / "from.jsonl", record(examples=[texts]), models=["a\udcff", "b.pt"])
    (one,) = read_records(source)
    written = tmp_path / "to.jsonl"
    with written.open("wb") as file:
        write_records(file, read_head(source).models, 3, [one, replace(one, neuron=4)])
    first, second = read_records(written)
    assert first.examples[0].activation == (0.333333,) * 7  # 6 significant digits
    assert replace(first, examples=()) == replace(one, examples=())
    assert first.examples[0].tokens == (*odd, "x")
    assert second == replace(first, neuron=4)
    assert read_head(written) == read_head(source)
    assert written.read_bytes().count(b"\n") == 3
    plain = record_json(first, plain=True)
    assert plain.isascii()
    assert plain.isprintable()


def test_text_is_written_as_text(tmp_path: Path) -> None:
    (one,) = read_records(write(tmp_path / "from", record(examples=[example(tokens=["é語"] * 7)])))
    with (tmp_path / "to").open("wb") as file:
        write_records(file, ["a", "b.pt"], 3, [one])
    assert "é語" in (tmp_path / "to").read_text(encoding="utf-8")


def spoilt(**changes: Any) -> dict[str, Any]:
    return record(examples=[example(**changes)])


WRONG: dict[str, tuple[object, str]] = {
    "not JSON": ("{", "line 3: "),
    "a list": ([], "no JSON object"),
    "no layer": ({k: v for k, v in record().items() if k != "layer"}, "'layer' is missing"),
    "layer": (record(layer=3), "a int where a text belongs"),
    "neuron": (record(-1), "no number of 0 or more"),
    "a large neuron": (record(2**63), "no number of 0 or more"),
    "a flag for a number": (record(True), "no number of 0 or more"),
    "r": (record(correlation=1.5), "the number 1.5"),
    "r that is none": (record(correlation=float("nan")), "the number nan"),
    "excess": (record(excess="x"), "a str where a number belongs"),
    "universal": (record(universal=1), "neither true nor false"),
    "learned": (record(learned=0), "neither true nor false"),
    "model": (record(model="c.pt"), "model 'c.pt' is none"),
    "A as the other model": (record(model="a.pt"), "model 'a.pt' is none"),
    "the pair before": (record(2), "mlp.0/2 is there twice"),
    "examples": (record(examples={}), "examples is no list"),
    "an example": (record(examples=[3]), "something is no JSON object"),
    "kinds": (spoilt(kinds=["best"]), "kinds ['best']"),
    "no kinds": (spoilt(kinds=[]), "kinds []"),
    "kinds twice": (spoilt(kinds=["top", "top"]), "kinds ['top', 'top']"),
    "at": (spoilt(at=7), "at 7, of 7 tokens"),
    "lengths": (spoilt(match_activation=[1.0]), "differ in length"),
    "ids of another length": (spoilt(ids=[1]), "differ in length"),
    "no tokens": (
        spoilt(at=0, ids=[], tokens=[], activation=[], match_activation=[]),
        "at 0, of 0 tokens",
    ),
    "a token": (spoilt(tokens=[1] * 7), "a int where a text belongs"),
    "an id": (spoilt(ids=[1.5] * 7), "no number of 0 or more"),
    "a negative id": (spoilt(ids=[1, 2, 3, 4, 5, 6, -1]), "no number of 0 or more"),
    "a large id": (spoilt(ids=[0, 0, 0, 0, 0, 0, 2**63]), "no number of 0 or more"),
    "a flag for an id": (spoilt(ids=[1, 2, 3, 4, 5, 6, True]), "no number of 0 or more"),
    "a flag for a value": (spoilt(activation=[*[1.0] * 6, True]), "a bool where a number"),
    "one NaN": (spoilt(activation=[*[1.0] * 6, float("nan")]), "the number nan"),
    "infinite": (spoilt(activation=[1e999] * 7), "the number inf"),
    "a value too large": (spoilt(activation=[10**400] * 7), "int too large"),
    "explanation": (record(explanation=3), "something is no JSON object"),
    "r2": (record(explanation=explanation(r2=3)), "the number 3.0"),
    "features": (record(explanation={**explanation(), "features": 3}), "features is no list"),
    "nested": ("[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_line_is_refused_by_its_number(case: str, tmp_path: Path) -> None:
    value, said = WRONG[case]
    text = value if isinstance(value, str) else json.dumps(value)
    path = tmp_path / "contexts.jsonl"
    path.write_text(f"{lines([record(2)])}{text}\n")
    found = read_records(path)
    assert next(found).neuron == 2
    with pytest.raises(InputError) as error:
        next(found)
    message = str(error.value)
    assert message.startswith(f"{path}: is damaged or incomplete (")
    assert "line 3: " in message
    assert said in message
    assert message.endswith("; write it again with univfast correlate")


def test_what_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "contexts.jsonl", record(2), record())
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 30, len(json.dumps(HEAD)), 0):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged or incomplete"):
            list(read_records(path))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"format": "other"}, "no univfast-contexts"),
        ({"version": 2}, "is of version 2, expected 1"),
        ({"version": "1"}, "no number"),
        ({"models": ["a"]}, "fewer than two models"),
        ({"models": "ab"}, "models is no list"),
        ({"around": -1}, "no number"),
    ],
)
def test_a_wrong_head_is_refused(head: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", record(), **head)
    for read in (lambda: read_head(path), lambda: list(read_records(path))):
        with pytest.raises(InputError, match=said) as error:
            read()
        assert str(error.value).startswith(f"{path}: ")


def test_a_line_that_never_ends_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("univfast.contexts.records._MOST_LINE", 1 << 20)
    path = write(tmp_path / "c.jsonl")
    with open(path, "ab") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(InputError, match="line 2: over 1 MiB"):
        list(read_records(path))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_where_the_file_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no contexts\.jsonl, which correlate writes"):
        contexts_file(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_head(tmp_path / "gone.jsonl")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_head(tmp_path / "pipe")


def test_records_are_found_again(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", record(2), record(3), record(4))
    there = list(records_with_offsets(path))
    with open(path, "rb") as file:
        for offset, one in reversed(there):
            assert record_at(file, path, offset) == one
        with pytest.raises(InputError, match="changed while it was read"):
            record_at(file, path, there[0][0] + 1)
