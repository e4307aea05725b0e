"""Saved results: their tables, summaries and arrays changed, and read to draw a report."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import univfast as uf
from fuzz.files import some_npy, some_npz
from fuzz.kinds import CrashError, WrongError, attempt, kind
from fuzz.mutate import TEXTS, several, some_bytes, some_json
from univfast.report import files, plots

CELLS = (*TEXTS, "1e999", "-inf", "1_0", "٣", "True", "-1", "9" * 30, "9" * 5_000, "x" * 140_000)

_saved: list[dict[str, bytes]] = []


def prepare() -> None:
    """Saves a result of each form, without its pictures, which no report is read from."""
    a, b, c = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"draws": 3, "shifts": 4}
    for others, more in (
        (b + a, {"match": "index"}),
        (b, {"match": "best", "details": True, "token_ids": torch.arange(40) % 7}),
        (b, {"match": "best", "reverse": True, "controls_b": [c], "control_tokens": 64}),
        ([b, c], {"match": "one-to-one", "rotation": "none"}),
    ):
        result = uf.correlate(a, others, **{**options, **more})
        with _without_pictures():
            _saved.append(_files_of(result))


@contextmanager
def _without_pictures() -> Iterator[None]:
    """Pictures take half a second."""
    figures = plots.figures
    plots.figures = lambda result: {}  # type: ignore[assignment]
    try:
        yield
    finally:
        plots.figures = figures


def _files_of(result: uf.CorrelationResult) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        result.save(folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if not name.endswith("html")}


@kind("saved-result", 12)
def saved_result(rng: Random, folder: Path) -> None:
    """A saved result with something in its directory changed, read, and its report drawn."""
    saved = rng.choice(_saved)
    for name, content in saved.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    several(rng, _some_file, folder)
    loaded = attempt(lambda: files.load(folder))
    _check_table(loaded, (folder / "neurons.csv").read_bytes().decode())
    stated = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for name, value in stated.items():
        if repr(_filled(loaded.summary[name], value)) != repr(value):
            raise WrongError(f"summary {name!r} is {loaded.summary[name]!r}, stated {value!r}")
    if rng.random() < 0.03:
        attempt(lambda: files.redraw(folder))
    else:
        with _without_pictures():
            attempt(lambda: files.redraw(folder))
    if not (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise CrashError("no whole report was written")


def _some_file(rng: Random, folder: Path) -> Path:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        return folder
    names = ("neurons.csv", "summary.json")
    path = rng.choice([*(p for p in paths if p.name in names), rng.choice(paths)])
    content, what = path.read_bytes(), rng.randrange(12)
    if what == 0:
        path.unlink()
        rng.choice((os.mkfifo, os.mkdir, lambda p: os.symlink(p, p), lambda p: None))(path)
    elif what == 1:
        path.write_bytes(several(rng, some_bytes, content))
    elif path.suffix == ".json":
        path.write_bytes(some_json(rng, content))
    elif path.suffix == ".csv":
        path.write_bytes(several(rng, _some_csv, content))
    elif path.suffix == ".npy":
        path.write_bytes(some_npy(rng, content))
    else:
        path.write_bytes(some_npz(rng, content))
    return folder


def _some_csv(rng: Random, content: bytes) -> bytes:
    """A table with a cell changed, or a row or a column gone or there twice."""
    text = content.decode("utf-8", "replace")
    if len(text) > 100_000 or not text.strip():  # changed already, to what cannot be read
        return content
    rows = list(csv.reader(io.StringIO(text, newline="")))
    y = rng.choice((0, rng.randrange(len(rows))))
    x, what = rng.randrange(max(len(rows[y]), 1)), rng.randrange(8)
    if what == 0:
        del rows[y]
    elif what == 1:
        rows.insert(y, rows[y])
    elif what == 2:
        rows = [[*row[:x], *row[x + 1 :]] for row in rows]
    elif what == 3:
        rows = [[*row[:x], *row[x : x + 1], *row[x:]] for row in rows]
    elif what == 4:
        rows[y] = rng.choice((rows[y][:x], [*rows[y], "1"], []))
    else:
        rows[y][x : x + 1] = [rng.choice((*CELLS, *rng.choice(rows)))]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _check_table(loaded: uf.CorrelationResult, text: str) -> None:
    """Raises WrongError where a column is not what the table says."""
    csv.field_size_limit(10**9)
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    csv.field_size_limit(131_072)
    if any(row and len(row) != len(head) for row in rows):
        raise WrongError("a row is too short or too long")
    for x, name in enumerate(head):
        found = getattr(loaded, name, None)
        cells = [row[x] for row in rows if row]
        if isinstance(found, Tensor):
            values = [_number(cell) for cell in cells]
            if len(values) != len(found) or not all(map(_same, values, found.tolist())):
                raise WrongError(f"{name} is {found.tolist()}, the table says {cells}")
        elif isinstance(found, list) and found != cells:
            raise WrongError(f"{name} is {found}, the table says {cells}")


def _number(cell: str) -> float:
    return {"true": 1.0, "false": 0.0}[cell] if cell in ("true", "false") else float(cell)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _filled(found: Any, stated: Any) -> Any:
    """What was read, without the keys that an older summary does not have."""
    if isinstance(found, dict) and isinstance(stated, dict):
        return {key: _filled(found[key], stated[key]) for key in stated if key in found}
    if isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
        return [_filled(x, y) for x, y in zip(found, stated, strict=True)]
    return found
