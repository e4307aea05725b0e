"""Saved results that were damaged or edited: one line that names the file, and no traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.command import error_line, run
from support.made_up import TWO, made_up
from univfast.errors import InputError
from univfast.report.files import redraw, save_result

RESULTS = {
    "best": made_up(30, 12, match="best", dead=3),
    "several": made_up(30, 12, match="best", others=TWO),
}
ABSENT = object()


@pytest.fixture(scope="module", params=RESULTS)
def contents(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What a result is read back from."""
    folder = tmp_path_factory.mktemp("saved")
    save_result(RESULTS[request.param], folder, published=False)
    names = ("summary.json", "neurons.csv", "null_excess.npy")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("plots", "html"):
        monkeypatch.setattr(f"univfast.report.{module}.png_bytes", lambda figure: b"")


def spoilt(folder: Path, contents: dict[str, bytes], name: str, content: bytes) -> None:
    for one, kept in {**contents, name: content}.items():
        (folder / one).write_bytes(kept)
    with pytest.raises(InputError) as error:
        redraw(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert name in message
    assert "\n" not in message
    assert sorted(path.name for path in folder.iterdir()) == sorted(contents)


COUNTED: dict[str, object] = {"checked": 9, "found": 9, "shortfall": 0.0}
SCREEN: dict[str, object] = {
    **COUNTED,
    "tokens": 64,
    "by_activity": 0,
    "candidates": 32,
    "chosen_alone": None,
    "missed_limit": 0.3,
    "thirds": [],
    "above": {**COUNTED, "r": 0.5, "limit": 0.3},
    "rare": 0,
    "few": 8,
}
WRONG = [None, -1, 1.5, True, "x", [], {}, [[]], 2**63, 10**400, float("nan"), float("inf")]
ALWAYS_WRONG: dict[str, list[object]] = {
    "univfast": [3, None],
    "models": [None, "ab", [], ["a"], ["a", 3], ["a"] * 9],
    "match": [None, 3, "nearest", [], {}],
    "rotation": [None, {}, {"kind": "none"}, {"kind": [], "draws": 5, "seed": 0}],
    "layers": [None, [], [{}], [3], {}],
    "match_layers": [3, "x", {}, {"rows": [], "columns": [], "counts": []}],
    "device": [None, 3],
    "seconds": ["x", float("inf")],
    "controls": [3, {}, {"tokens": 3}],
    "details": [3, {}],
    "by_index": [3, {}, {"universal": "x"}],
    "beside": [3, [3], [{}], [{"directory": 3, "title": "x"}], [{"directory": "..", "title": ""}]],
    "by_model": [3, [], [{}]],
    "screen": [None, 3, {}, {**SCREEN, "above": None}, {**SCREEN, "missed_limit": "x"}],
    "method": [3, {}, {"sums": "x", "products": [], "largest_error": 1e-6, "dealt": None}],
    "title": [3],
    **{
        name: [None, *WRONG[1:]] for name in ("threshold", "tokens", "neurons", "dead", "universal")
    },
    **dict.fromkeys(("fdr", "mean_correlation", "universal_by_chance"), WRONG[3:]),
    "chance_counts": [3, [], ["x"], [None], [float("nan")]],
}
ALWAYS_WRONG["threshold"].remove(-1)
ALWAYS_WRONG["threshold"].remove(1.5)


@pytest.mark.parametrize("key", ALWAYS_WRONG)
def test_summaries(tmp_path: Path, contents: dict[str, bytes], key: str) -> None:
    summary = json.loads(contents["summary.json"])
    for value in [*ALWAYS_WRONG[key], *([ABSENT] if key in summary else [])]:
        if key in ("controls", "details", "by_index", "by_model", "method") and value is ABSENT:
            continue  # of a result that was saved before these were counted
        changed = {name: x for name, x in {**summary, key: value}.items() if x is not ABSENT}
        spoilt(tmp_path, contents, "summary.json", json.dumps(changed).encode())


@pytest.mark.parametrize("name", ["neurons", "dead", "universal"])
def test_counts_of_layers_that_do_not_add_up(
    tmp_path: Path, contents: dict[str, bytes], name: str
) -> None:
    summary = json.loads(contents["summary.json"])
    summary["layers"][0][name] += 1
    spoilt(tmp_path, contents, "summary.json", json.dumps(summary).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 100_000, b"\0"],
)
def test_summaries_that_are_none(
    tmp_path: Path, contents: dict[str, bytes], content: bytes
) -> None:
    spoilt(tmp_path, contents, "summary.json", content)


def lines(edit: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda table: b"\n".join(edit(table.split(b"\n")))


def other_cell(rows: list[bytes], column: str) -> bytes:
    """The first row, with another number in a column."""
    cells = rows[1].split(b",")
    cells[rows[0].split(b",").index(column.encode())] = b"0.125"
    return b",".join(cells)


TABLES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda table: b"",
    "only a head": lines(lambda rows: rows[:1]),
    "half": lambda table: table[: len(table) // 2],
    "a row less": lines(lambda rows: rows[:-2] + rows[-1:]),
    "a row twice": lines(lambda rows: rows[:2] + rows[1:]),
    "two rows in turn": lines(lambda rows: [rows[0], rows[2], rows[1], *rows[3:]]),
    "a cell more": lambda table: table.replace(b"\n", b",1\n", 3),
    "a column twice": lambda table: table.replace(b"layer,neuron", b"layer,layer", 1),
    "another column": lambda table: table.replace(b"excess", b"other", 1),
    "a wide cell": lambda table: table.replace(b"mlp.0", b"x" * 200_000, 1),
    "another layer": lambda table: table.replace(b"mlp.0", b"mlp.9", 1),
    "an open quote": lambda table: table.replace(b"mlp.0", b'"mlp.0', 1),
    "a carriage return": lambda table: table.replace(b"mlp.0", b"mlp\r0", 1),
    "a NUL": lambda table: table.replace(b"mlp.0,0", b"mlp.0,\0", 1),
    "no text": lambda table: b"\xff\xfe" + table,
    "another flag": lambda table: table.replace(b"true", b"false", 1),
    "no flag": lambda table: table.replace(b"true", b"yes", 1),
    "an excess of 3": lambda table: table.replace(b",0.", b",3.", 1),
    "another r": lines(lambda rows: [rows[0], other_cell(rows, "correlation"), *rows[2:]]),
    "another baseline": lines(lambda rows: [rows[0], other_cell(rows, "baseline"), *rows[2:]]),
    "another excess": lines(lambda rows: [rows[0], other_cell(rows, "excess"), *rows[2:]]),
    "another neuron": lambda table: table.replace(b"mlp.0,1,", b"mlp.0,7,", 1),
    "a neuron of many digits": lambda table: table.replace(b".0,1,", b".0," + b"1" * 99 + b",", 1),
}  # fmt: skip


def test_a_table_and_a_summary_of_two_results(tmp_path: Path, contents: dict[str, bytes]) -> None:
    summary = json.loads(contents["summary.json"])
    for name in ("mean_correlation", "mean_baseline", "mean_excess", "threshold"):
        other = -1.0 if name == "threshold" else summary[name] + 0.25
        edited = json.dumps({**summary, name: other}).encode()
        changed = {**contents, "summary.json": edited}
        spoilt(tmp_path, changed, "neurons.csv", contents["neurons.csv"])


@pytest.mark.parametrize("case", TABLES)
def test_tables(tmp_path: Path, contents: dict[str, bytes], case: str) -> None:
    changed = TABLES[case](contents["neurons.csv"])
    assert changed != contents["neurons.csv"]
    spoilt(tmp_path, contents, "neurons.csv", changed)


def npy(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00v\x00{'descr': (((((",
        npy(np.zeros((5, 29))),
        npy(np.zeros((4, 30))),
        npy(np.zeros(150)),
        npy(np.zeros((5, 30), np.int64)),
        npy(np.full((5, 30), 3.0)),
        npy(np.full((5, 30), -np.inf)),
        npy(np.full((5, 30), None)),
        npy(np.full((5, 30), "x")),
        npy(np.zeros((5, 30)))[:-8],
    ],
)
def test_draws(tmp_path: Path, contents: dict[str, bytes], content: bytes) -> None:
    spoilt(tmp_path, contents, "null_excess.npy", content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["summary.json", "neurons.csv", "null_excess.npy"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "device", "nothing"])
def test_what_is_no_file(
    tmp_path: Path,
    contents: dict[str, bytes],
    name: str,
    kind: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for one, content in contents.items():
        (tmp_path / one).write_bytes(content)
    path = tmp_path / name
    path.unlink()
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "nothing": lambda: None,
    }
    make[kind]()
    assert run("report", tmp_path) == 2
    assert error_line(capfd).startswith(f"Error: {path}: ")


def test_a_result_within_itself(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """Links that lead back: only what a result can have is looked for."""
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    summary = json.loads(contents["summary.json"])
    summary["beside"] = [{"directory": "again", "title": "again"}]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    for name in ("reverse", "again"):
        (tmp_path / name).symlink_to(".")
    assert redraw(tmp_path).layer
