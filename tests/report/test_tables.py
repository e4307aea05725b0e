"""Tables: every name is read back as it was, and none is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from support.made_up import made_up
from support.pictured import SCRIPTS, Page
from univfast.columns import COLUMNS, Column
from univfast.report.files import load, redraw, save_result
from univfast.report.tables import csv_bytes, parsed, read_csv

LAYER = COLUMNS["layer"]
FORMULAS = "=+-@"

NAMES = [
    "mlp.0",
    "",
    " ",
    "a,b",
    'a"b',
    '"',
    "a;b",
    "a\tb",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "\r",
    "\n",
    "a\0b",
    "\0",
    "\x1b[31m",
    "nan",
    "-1",
    "1e5",
    "true",
    "'",
    "''",
    "'a",
    "a'",
    "=1+1",
    '=HYPERLINK("http://x","y")',
    "=cmd|' /C calc'!A0",
    "+1",
    "-mlp",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\0=1",
    "'=1",
    "''=1",
    "'" * 3 + "=1",
    "'-",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{NO-BREAK SPACE}=1",
    "\N{LINE SEPARATOR}",
    "\x85",
    "\N{BYTE ORDER MARK}=1",
    "日本語",
    "\N{GRINNING FACE}",
    "$x_{",
    "<script>",
    "x" * 10_000,
    '"' * 10_000,
]


def cells(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


def round_trip(names: list[str], column: Column = LAYER) -> list[str]:
    content = csv_bytes(["layer", "neuron"], [[names, range(len(names))]])
    found: list[str] = parsed(column, read_csv(io.BytesIO(content)))
    return found


def test_names_are_read_back() -> None:
    assert round_trip(NAMES) == NAMES
    for name in NAMES:
        assert round_trip([name]) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_formula(name: str) -> None:
    content = csv_bytes(["layer"], [[[name]]])
    (_, row) = cells(content)
    cell = "".join(row)
    # Spreadsheets strip white space and what cannot be seen, and some read the wide forms.
    seen = "".join(c for c in cell if unicodedata.category(c)[0] not in "ZC")
    assert unicodedata.normalize("NFKC", seen)[:1] not in [*FORMULAS], content
    # Where another character divides cells, a name is still one cell: it stands in quotes.
    if set(name) & set(";\t|, "):
        assert content.decode().split("\n", 1)[1].startswith('"')


def test_plain_names_are_as_they_were() -> None:
    """Other programs see the names that they always saw."""
    for name in ("mlp.0", "a,b", "transformer.h.0.mlp.act", 'le "résumé"\n1', "'a", ""):
        assert cells(csv_bytes(["layer", "neuron"], [[[name], [1]]]))[1] == [name, "1"]
    # Tables that were written before hold formulas as they are.
    for name in ("=1", "-a", "'a"):
        assert parsed(LAYER, {"layer": [name]}) == [name]


def test_numbers_and_flags() -> None:
    content = csv_bytes(["a", "b", "c"], [[[1, -2], [0.1, float("nan")], [True, False]]])
    assert content == b"a,b,c\n1,0.1,true\n-2,nan,false\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"a,a\n1,2\n", b"a,b\n1\n", b"a\n1,2\n", b'a\n"b', b'a\n"b"c\n', b"\xff"],
)
def test_what_is_no_table(content: bytes) -> None:
    with pytest.raises((ValueError, csv.Error)):
        read_csv(io.BytesIO(content))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("correlation", "1.1"),
        ("correlation", "inf"),
        ("correlation", "x"),
        ("correlation", ""),
        ("baseline_std", "-3"),
        ("p_value", "-0.1"),
        ("q_value", "1.5"),
        ("excess", "1e300"),
        ("neuron", "1.5"),
        ("neuron", "9223372036854775808"),
        ("neuron", "9" * 5000),
        ("match_neuron", "-2"),
        ("universal", "True"),
        ("dead", ""),
    ],
)
def test_cells_that_no_result_has(column: str, cell: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        parsed(COLUMNS[column], {column: [cell]})


@pytest.mark.slow
def test_a_result_of_such_names(tmp_path: Path) -> None:
    names = [name for name in NAMES if len(name) < 100]
    result = made_up(2 * len(names), 12, match="best", layers=names, others=[names])
    save_result(
        replace(result, summary={**result.summary, "title": "=1"}), tmp_path, published=True
    )
    loaded = redraw(tmp_path)
    assert (loaded.layer, loaded.match_layer) == (result.layer, result.match_layer)
    assert load(tmp_path).layer == result.layer
    for table in ("neurons", "matches", "top", "published"):
        with (tmp_path / f"{table}.csv").open("rb") as file:
            found = read_csv(file)
        assert {*parsed(LAYER, found)} == {*names}
    html = (tmp_path / "report.html").read_text()
    assert Page(html).tags.count("script") == SCRIPTS
    assert "&lt;script&gt;" in html
