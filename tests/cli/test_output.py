"""Results as they are printed: what stands there, and that it fits."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from support.made_up import made_up
from univfast.cli.results import print_result, print_side_by_side
from univfast.contexts.shown import display_width
from univfast.result import CorrelationResult

GPT2 = tuple(f"transformer.h.{i}.mlp.act" for i in range(40))
WIDTHS = (80, 100, 200)


def printed(
    capsys: pytest.CaptureFixture[str], result: CorrelationResult, **options: Any
) -> list[str]:
    print_result(result, as_json=False, **{"out": None, **options})
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def table(lines: list[str], first: str) -> list[list[str]]:
    """The cells of the rows below the head that begins so, up to a blank line."""
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    rows = lines[start + 1 :]
    return [re.split(r"\s{2,}", line) for line in rows[: rows.index("")]]


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


CASES = {
    "best": {},
    "index": {"match": "index"},
    "no rotation": {"draws": 0},
    "one draw": {"draws": 1},
    "none flagged": {"planted": 0},
    "dead": {"dead": 30, "unmatched": 7},
    "forty layers": {"layers": GPT2, "others": (GPT2,), "neurons": 4000},
    "several": {"others": (("mlp.0", "mlp.1"), ("x", "y")), "match": "best"},
    "long names": {"models": ["/data/" + "a" * 300, "/data/" + "b" * 300]},
    "wide names": {"layers": ("\u5c64" * 60, "\U0001f600" * 200), "others": (("\u5c64" * 90,),)},
}


@pytest.mark.parametrize("case", CASES)
def test_lines_fit(case: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"match": "best", **CASES[case]}
    lines = printed(capsys, made_up(**options), out="result")
    assert max(map(display_width, lines)) <= width
    assert lines[-1] == "Report: result/report.html"
    assert all(line == line.rstrip() for line in lines)
    text = "\n".join(lines)
    assert "nan" not in text
    assert "None" not in text
    assert "\x1b" not in text


def test_what_stands_at_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    result = made_up(match="best", dead=4)
    lines = printed(capsys, result)
    assert lines[0] == "A a.pt   B b.pt   123,456 tokens   match best   hadamard x 5"
    s = result.summary
    by_chance = "0 in 5 draws (95% limit 0.6)"
    assert " ".join(" ".join(lines[1:3]).split()) == (
        f"40 of 496 live neurons universal (8.1%): {s['universal_partners']} partners,"
        f" {s['universal_mutual']} mutual by rotation {by_chance} 4 dead"
    )
    assert "by shift" not in " ".join(lines)
    none = printed(capsys, made_up(match="best", draws=0))
    assert none[1] == "500 live neurons, none called universal without a baseline"
    assert none[0].endswith("rotation none")
    assert [row[2] for row in table(none, "layer")] == ["-"] * 3  # not 0, as if it were counted


def test_warnings_stand_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    result = made_up(threshold=3)
    assert "Warning: threshold: got 3" in result.verdict()
    assert "threshold:" not in " ".join(printed(capsys, result))


def test_forty_layers_are_twelve_and_a_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options: Any = {"layers": GPT2, "others": (GPT2,), "neurons": 4000, "planted": 1000}
    result = made_up(match="best", **options)
    known = {row["layer"]: row for row in result.summary["layers"]}
    rows = table(printed(capsys, result), "layer")
    assert len(rows) == 14
    names = [row[0] for row in rows[:12]]
    most = sorted(known, key=lambda name: -known[name]["universal"])[:12]
    assert names == [name for name in GPT2 if name in most]
    assert rows[12][0] == "28 more (--all)"
    assert rows[13][0] == "total"
    for column, whole in ((1, 4000), (2, result.summary["universal"])):
        parts = [number(row[column]) for row in rows[:13]]
        assert sum(parts) == number(rows[13][column]) == whole
    for row in rows[:12]:
        assert number(row[2]) == known[row[0]]["universal"]
        means = (known[row[0]][f"mean_{x}"] for x in ("correlation", "baseline", "excess"))
        assert [number(x) for x in row[4:7]] == pytest.approx([*means], abs=5e-4)
    every = table(printed(capsys, result, every=True), "layer")
    assert [row[0] for row in every] == [*GPT2, "total"]
    assert sum(number(row[2]) for row in every[:-1]) == number(every[-1][2])


def test_where_a_layer_is_mostly_matched(capsys: pytest.CaptureFixture[str]) -> None:
    layers = ("a", "b")
    result = made_up(match="best", layers=layers, others=(("x", "y", "z"),), planted=31)
    rows = table(printed(capsys, result), "layer")
    matches = Counter(
        match
        for match, flag in zip(result.match_layer, result.universal.tolist(), strict=True)
        if flag
    )
    name, count = matches.most_common(1)[0]
    assert rows[0][-1] == f"{name} {count / 31:.0%}"
    assert rows[1][-1] == "-"  # it has no universal neuron
    assert "mostly" not in " ".join(printed(capsys, made_up(match="index")))


def test_top_neurons_are_those_of_the_largest_excess(capsys: pytest.CaptureFixture[str]) -> None:
    result = made_up(match="best")
    low = result.correlation - 0.02
    rows = table(
        printed(capsys, replace(result, correlation_low=low, correlation_high=low + 0.04)),
        "top neurons",
    )
    order = result.excess.argsort(descending=True)[:5].tolist()
    assert len(rows) == 5
    for i, (pair, r, interval, baseline, excess) in zip(order, rows, strict=True):
        own = f"{result.layer[i]}/{int(result.neuron[i])}"
        assert pair == f"{own} -> {result.match_layer[i]}/{int(result.match_neuron[i])}"
        expected = float(result.correlation[i])
        assert number(r) == pytest.approx(expected, abs=5e-4)
        assert interval == f"[{expected - 0.02:.2f}, {expected + 0.02:.2f}]"
        assert number(baseline) == pytest.approx(float(result.baseline[i]), abs=5e-4)
        assert number(excess) == pytest.approx(float(result.excess[i]), abs=5e-4)


def test_numbers_tell_shortened_layers_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    options: Any = {"layers": GPT2, "others": (GPT2,), "neurons": 4000, "planted": 4000}
    rows = table(printed(capsys, made_up(match="best", **options), every=True), "layer")
    names = [row[0] for row in rows[:-1]]
    assert [re.findall(r"\.(\d+)\.", name) for name in names] == [[str(i)] for i in range(40)]
    assert all("\N{HORIZONTAL ELLIPSIS}" in name for name in names)


MARKUP = "[bold]mlp[/bold].0"
HOSTILE = "mlp\x1b[31m\n.1"


@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_no_markup(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("univfast.cli.tables.coloured", lambda: terminal)
    result = made_up(match="best", layers=(MARKUP, HOSTILE), others=((MARKUP, ":smile:"),))
    text = "\n".join(printed(capsys, result))
    assert MARKUP in text
    assert "mlp\\x1b[31m\\n.1" in text
    assert ":smile:" in text
    assert ("\x1b[1m" in text) == terminal
    assert "\x1b[31m" not in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_streams_that_take_no_ellipsis(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setenv("COLUMNS", "70")
    options: Any = {"layers": GPT2, "others": (GPT2,), "neurons": 4000}
    print_result(made_up(match="best", **options), as_json=False, out=None)
    sys.stdout.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert any(re.match(r"\w+~\S*\.1\.\S+ ", line) for line in lines)
    assert max(map(len, lines)) <= 70


def test_the_reverse_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    reverse = made_up(match="best", planted=17, models=["b.pt", "a.pt"])
    lines = printed(capsys, replace(made_up(match="best"), reverse=reverse))
    start = lines.index("Neurons of B, matched in A:")
    assert lines[start + 2].startswith("B b.pt   A a.pt   ")
    assert lines[start + 3].startswith("17 of 500 live neurons universal")
    assert lines[1].startswith("40 of 500 live neurons universal")


def test_results_side_by_side(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    results = [made_up(match=match) for match in ("best", "index")]
    for result in results:
        result.summary["title"] = f"match {result.summary['match']}, after the ReLU"
    print_side_by_side(results)
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines[1:3]]
    assert [row[:5] for row in rows] == [
        [f"match {match}, after the ReLU", "40", "0.0", "-", "-"] for match in ("best", "index")
    ]
    assert max(map(len, lines)) <= width
