"""`univfast show`: what stands in the terminal, in colour and without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.command import error_line, run
from support.contexts import example, record, silent, write
from support.processes import python

EVIL = ("\x1b[31mred", "\u202edrow", "\r", "T\x07", "", "\x9b2J", "\u05e9\u05dc")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A directory with three pairs, of neurons 3, 7 and 9."""
    evil = example(90, tokens=[*EVIL], kinds=["match_only"], activation=[-0.1] * 7)
    wide = example(80, tokens=["\u65e5\u672c", "\u8a9e", "\n", "T", "e\u0301", "\u0301x", "!"])
    second = record(7, match_neuron=2, learned=True, examples=[wide, evil])
    third = record(
        9,
        layer="mlp.10",
        universal=False,
        explanation=None,
        match_explanation=None,
        examples=[example(100 + i, kinds=["top"]) for i in range(8)],
    )
    write(tmp_path / "contexts.jsonl", record(), second, third)
    return tmp_path


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "90")


def out(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run("show", *arguments) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def test_a_line_a_pair(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, result).splitlines()
    assert lines[0] == "A a.pt   B b.pt"
    assert [" ".join(line.split()) for line in lines[2:4]] == [
        "mlp.0/3 -> mlp.1/17 +0.910 +0.700 token 'T' 0.93/0.84 the cat\u21b5[T]he dog\u21e5",
        "mlp.0/7 -> mlp.1/2 +0.910 +0.700 token 'T' 0.93/0.84"
        " \u65e5\u672c\u8a9e\u21b5[T]e\u0301\u25cc\u0301x!",
    ]
    assert lines[4].split()[:6] == ["mlp.10/9", "->", "mlp.1/17", "+0.910", "+0.700", "-"]
    assert len({line.index("+0.910") for line in lines[2:]}) == 1
    assert out(capsys, result / "contexts.jsonl", "--limit", 3).splitlines() == lines
    some = out(capsys, result, "--limit", 2).splitlines()
    assert some == [*lines[:4], "More pairs follow: --limit is 2."]


def test_digits_stand_below_their_tokens(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, result, "mlp.0/3")
    assert text == (
        "mlp.0/3 -> mlp.1/17   r +0.910   excess +0.700   universal\n"
        "A  a.pt mlp.0/3: token 'T' (r2 0.93), position 0 (r2 0.02); together 0.95\n"
        "B  b.pt mlp.1/17: token 'T' (r2 0.84), position 0 (r2 0.02); together 0.95\n"
        "\n"
        "Agreement\n"
        "  A's neuron is among its highest (1 of 1)\n"
        "    sample 2, position 0   A 1.5   B 20\n"
        "       the cat\u21b5[T]he dog\u21e5\n"
        "    A      2    9    5\n"
        "    B         2 9\n"
        "\n"
        "Disagreement\n"
        "  A's neuron is high, its match at or below its mean (1 of 1)\n"
        "    sample 3, position 0   A 1.5   B 0\n"
        "       the cat\u21b5[T]he dog\u21e5\n"
        "    A      2    9    5\n"
        "    B\n"
        "\n"
    )


def test_wide_tokens_take_two_columns(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, result, "mlp.0/7", "--kinds", "top").splitlines()
    (row,) = (i for i, line in enumerate(lines) if "\u65e5" in line)
    assert lines[row] == "       \u65e5\u672c\u8a9e\u21b5[T]e\u0301\u25cc\u0301x!"
    # Of 4, 2, 1, 3, 1, 2 and 1 columns.
    assert lines[row + 1] == "    A      2   9  5"
    assert lines[row + 2] == "    B        2 9"


def test_colours_are_backgrounds_by_strength(
    result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = out(capsys, result, "mlp.0/3", "--kinds", "top", "--color", "always").splitlines()
    (a, b) = (line for line in lines if "\x1b" in line)
    text = "the cat\u21b5The dog\u21e5"
    plain = [re.sub("\x1b.*?m", "", line) for line in (a, b)]
    assert plain == [f"    A  {text}", f"    B  {text}"]
    cells = [re.findall("\x1b\\[(.*?)m(.*?)\x1b\\[0m", line) for line in (a, b)]
    assert cells == [
        [
            ("38;5;16;48;5;229", " cat"),
            ("1;4;38;5;16;48;5;202", "T"),
            ("38;5;16;48;5;221", " dog"),
        ],
        [("38;5;16;48;5;159", "\u21b5"), ("1;4;38;5;16;48;5;33", "T")],
    ]


@pytest.mark.parametrize(
    ("choice", "environment", "coloured"),
    [
        ("auto", {}, True),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"NO_COLOR": ""}, True),
        ("auto", {"TERM": "dumb"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {}, False),
    ],
)
def test_when_there_are_colours(
    choice: str,
    environment: dict[str, str],
    coloured: bool,
    result: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ("\x1b" in out(capsys, result, "mlp.0/3", "--color", choice)) == coloured


def test_no_colours_where_nobody_watches(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in out(capsys, result, "mlp.0/3")


@pytest.mark.parametrize("colour", ["always", "never"])
def test_tokens_move_no_cursor(
    colour: str, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = out(capsys, result, "mlp.0/7", "--color", colour)
    rest = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\\x1b[31mred" in rest
    assert "\\u202edrow" in rest
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)


@pytest.mark.parametrize("colour", ["always", "never"])
@pytest.mark.parametrize(("columns", "width"), [(20, 80), (100, 100), (1000, 200)])
def test_lines_fit_the_terminal(
    colour: str,
    columns: int,
    width: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    values = [i / 60 for i in range(61)]
    long = example(
        tokens=[f" word{i}" for i in range(61)],
        ids=None,
        at=30,
        activation=values,
        match_activation=values[::-1],
    )
    name = "transformer.h.3.mlp.act.of.a.very.long.name.which.nobody.can.remember"
    write(tmp_path / "contexts.jsonl", record(layer=name, match_layer=name, examples=[long]))
    shown = out(capsys, tmp_path, f"{name}/3", "--color", colour)
    rows = re.sub("\x1b.*?m", "", shown).splitlines()[5:]
    assert max(map(len, rows)) <= width
    assert max(map(len, rows)) > width - 20
    assert all(f"word{i}" in re.sub("\x1b.*?m", "", shown) for i in range(61))
    name = name[:18]
    write(tmp_path / "contexts.jsonl", record(layer=name, match_layer=name, examples=[long]))
    listed = out(capsys, tmp_path).splitlines()
    assert max(map(len, listed)) <= width


def test_names_can_be_typed_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    for name in ("transformer.h.0.mlp.act", "a.name." * 20):
        write(tmp_path / "contexts.jsonl", record(layer=name, match_layer=name))
        line = out(capsys, tmp_path).splitlines()[-1]
        assert line.startswith(f"{name}/3 -> ")
        assert "[T]" in line
        assert (len(line) <= 110) == (len(name) < 40)


def test_some_kinds_and_so_many(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, result, "mlp.10/9")
    assert "among its highest (5 of 8)" in text
    assert "Disagreement: no examples" in text
    assert "not universal" in text
    assert "not explained (token ids are not known)" in text
    assert "among its highest (7 of 8)" in out(capsys, result, "mlp.10/9", "--limit", 7)
    text = out(capsys, result, "mlp.0/3", "--kinds", "only,match_only")
    assert "Agreement" not in text
    assert "sample 3" in text
    assert "universal, learned" in out(capsys, result, "mlp.0/7")


def test_neurons_in_the_order_of_their_names(
    result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = out(capsys, result, "mlp.10/9", "mlp.0/3", "mlp.10/9")
    assert re.findall(r"^(\S+) ->", text, re.MULTILINE) == ["mlp.10/9", "mlp.0/3"]


def test_json_is_the_records(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = [json.loads(x) for x in (result / "contexts.jsonl").read_text().splitlines()[1:]]
    found = [json.loads(x) for x in out(capsys, result, "--json").splitlines()]
    assert found == there
    text = out(capsys, result, "mlp.0/7", "--json")
    assert text.isascii()
    assert json.loads(text) == there[1]
    (only,) = json.loads(out(capsys, result, "mlp.0/3", "--json", "--kinds", "only"))["examples"]
    assert only == there[0]["examples"][1]
    some = json.loads(out(capsys, result, "mlp.10/9", "--json", "--limit", 2))
    assert some["examples"] == there[2]["examples"][:2]
    assert len(out(capsys, result, "--json", "--limit", 1).splitlines()) == 1


def test_several_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = (record(), record(model="c.pt", match_neuron=5))
    write(tmp_path / "contexts.jsonl", *two, models=["a.pt", "b.pt", "c.pt"])
    lines = out(capsys, tmp_path).splitlines()
    assert lines[0] == "A a.pt   B one of b.pt, c.pt"
    assert "-> b.pt: mlp.1/17" in lines[2]
    assert "-> c.pt: mlp.1/5" in lines[3]
    assert out(capsys, tmp_path, "mlp.0/3").count("Agreement") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["mlp.0/4"],
            r"mlp\.0/4: is not among the 3 neurons of A in .*nearest: mlp.0/3, mlp.0/7$",
        ),
        (["mlp.10/3"], "nearest: mlp.10/9$"),
        (["mlp.1/9"], "nearest: mlp"),
        (["mlp.0"], "'mlp.0': names no neuron; give LAYER/NEURON, such as mlp.0/19"),
        (["mlp.0/-1"], "names no neuron"),
        (["mlp.0/\u0663"], "names no neuron"),
        (["mlp.0/3", "--kinds", "top,best"], "'best' is none of top, match_top, only, match_only"),
        (["--kinds", "top"], "--kinds is of examples"),
        (["mlp.0/3", "--limit", "0"], "'--limit'"),
        (["mlp.0/3", "--color", "blue"], "'--color'"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], said: str, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", result, *arguments) == 2
    assert re.search(said, error_line(capsys))


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", tmp_path) == 2
    assert f"{tmp_path}: has no contexts.jsonl, which correlate writes" in error_line(capsys)
    assert run("show", tmp_path / "gone") == 2
    assert f"{tmp_path / 'gone'}: cannot be read" in error_line(capsys)
    path = write(tmp_path / "contexts.jsonl", record(2), record(-1))
    assert run("show", path, "mlp.0/2") == 2
    assert "line 3: " in error_line(capsys)


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"details": None, "universal": 3}, "without details; .*--details"),
        ({"details": {}, "universal": 0}, "no neuron is universal; .*--neurons"),
        ({"details": {}, "universal": 3}, "not known which token .*--token-ids"),
        ([], "which correlate writes with details"),
    ],
)
@pytest.mark.parametrize("command", ["show", "export --to parquet --out x"])
def test_why_there_are_no_contexts(
    command: str, summary: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    name, *options = command.split()
    assert run(name, tmp_path, *options) == 2
    assert re.search(rf"has no contexts\.jsonl, .*{said}", error_line(capsys))


def test_no_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "contexts.jsonl")
    assert len(out(capsys, tmp_path).splitlines()) == 2
    write(tmp_path / "contexts.jsonl", record(examples=[]))
    assert out(capsys, tmp_path, "mlp.0/3").count("no examples") == 2
    assert len(out(capsys, tmp_path).splitlines()) == 3


def test_whoever_reads_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read then: of a file that is damaged later on, nobody hears."""

    def echo(*arguments: Any, **more: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("click.echo", echo)
    assert run("show", write(tmp_path / "contexts.jsonl", record(2), record(-1))) == 141


@pytest.mark.slow
def test_show_does_without_torch_and_unicode(result: Path) -> None:
    code = (
        "import sys; from univfast.cli import main; status = main(['show', *sys.argv[1:]]);"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    done = python(code, result, "mlp.0/7", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5\\u672c" in done.stdout


def test_silent_examples_are_disagreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "contexts.jsonl", record(examples=[silent(kinds=["top", "only"])]))
    text = out(capsys, tmp_path, "mlp.0/3")
    assert text.index("Agreement: no examples") < text.index("Disagreement\n")
