"""Files: a result written so that a crash leaves no half file, and drawn again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from univfast.columns import Column, columns_of
from univfast.contexts.records import CONTEXTS
from univfast.errors import InputError
from univfast.machine.files import Content, check_directory, make_directory, write_together
from univfast.machine.torch_state import in_plain_state
from univfast.report.parquet import parquet_bytes
from univfast.report.plots import FORMATS, PICTURES
from univfast.report.saved import COMMAND, REVERSE, load, not_a_result
from univfast.report.tables import as_written, csv_bytes
from univfast.result import CorrelationResult

__all__ = ["load", "redraw", "save_beside", "save_result", "summary_json"]


# What a directory may hold that belongs to a result, beside what every one has.
_ALWAYS = (
    "neurons.csv",
    "null_excess.npy",
    "summary.json",
    "report.html",
)
_SOMETIMES = (
    COMMAND,
    "matches.csv",
    "matches.parquet",
    "top.csv",
    "top.parquet",
    "contexts.npz",
    CONTEXTS,
    "published.csv",
    *(f"{name}.{kind}" for name in PICTURES for kind in FORMATS),
    # Of neurons of the result, which 'univfast ablate' takes out.
    "ablation.json",
    "ablation.csv",
)
_SUMMARY = "summary.json"
# What a result may have inside: what is beside it may have a reverse, and nothing else has more.
_PARTS = ("beside", REVERSE)


def save_result(
    result: CorrelationResult,
    directory: str | os.PathLike[str],
    *,
    published: bool,
    beside: Mapping[str, tuple[str, CorrelationResult]] = {},
    formats: Sequence[str] = ("png",),
) -> None:
    """Writes the files of a result; see `CorrelationResult.save`.

    Files that an earlier result left in the directory, and this one does not have, are removed. But
    directories of results that were saved beside it stay, as they tell of nothing but themselves.

    Args:
        result: to write.
        directory: made if it is not there.
        published: write ``published.csv`` too.
        beside: other results by the name of a directory inside, with their titles. They are saved
            there and compared in the report.
        formats: of the pictures.

    Raises:
        InputError: the directory cannot be made or written to, or ``beside`` has a name that is
            not one of a directory inside.
    """
    check_directory(directory)
    files = _all_files(result, published, beside, formats)
    root = Path(directory)
    earlier = _earlier_files(root, {os.path.dirname(name) for name in files})
    write_files(directory, files)
    for name in earlier - files.keys():
        _remove(root / name)


@in_plain_state
def redraw(
    directory: str | os.PathLike[str], formats: Sequence[str] = ("png",)
) -> CorrelationResult:
    """Draws the pictures and the report of a saved result again, and returns it.

    So too for the results that were saved beside it, and for its reverse. Pictures of other formats
    stay as they are.

    Raises:
        InputError: there is no such result, or the directory cannot be written to.
    """
    result, files = _redrawn(Path(directory), _PARTS, formats)
    write_files(directory, files)
    return result


def save_beside(
    results: Sequence[tuple[str, CorrelationResult]], path: str | os.PathLike[str]
) -> None:
    """Writes one page with several results beside each other, on the same axes.

    Args:
        results: what each is called, and the result; at least two.
        path: of the page; replaced if it is there.

    Raises:
        InputError: it cannot be written.
    """
    from univfast.report.beside import beside_html

    write_together({Path(path): beside_html(results).encode()})


def _all_files(
    result: CorrelationResult,
    published: bool,
    beside: Mapping[str, tuple[str, CorrelationResult]],
    formats: Sequence[str],
) -> dict[str, Content]:
    """The files of a result by their path in its directory."""
    null = io.BytesIO()
    np.save(null, np.empty((0, 0)) if result.null_excess is None else result.null_excess.numpy())
    summary = {key: value for key, value in result.summary.items() if key != "beside"}
    if beside:
        summary["beside"] = [
            {"directory": _check_inside(name), "title": title}
            for name, (title, _) in beside.items()
        ]
    files: dict[str, Content] = {
        "neurons.csv": neurons_csv(result),
        "null_excess.npy": null.getvalue(),
        "summary.json": summary_json(summary).encode(),
        **_partners(result),
        **_contexts(result),
    }
    if result.command is not None:
        files[COMMAND] = f"{result.command}\n".encode("utf-8", "replace")
    if result.explained is not None:
        files[CONTEXTS] = partial(result.explained.write, result=result)
    if published:
        columns = result.published_columns()
        files["published.csv"] = _table(columns)
    files.update(_drawn(result, beside, formats))
    parts = {name: part for name, (_, part) in beside.items()}
    if result.reverse is not None:
        parts[REVERSE] = result.reverse
    for name, part in parts.items():
        files.update(_inside(name, _all_files(part, published, {}, formats)))
    return files


def _redrawn(
    folder: Path, parts_of: Sequence[str], formats: Sequence[str]
) -> tuple[CorrelationResult, dict[str, Content]]:
    """The saved result, and its pictures and reports by their path in its directory.

    ``parts_of`` says what it may have inside, which itself has less.
    """
    result = load(folder)
    try:
        entries = result.summary.get("beside", []) if "beside" in parts_of else []
        titles = {_check_inside(entry["directory"]): entry["title"] for entry in entries}
    except InputError as error:
        raise not_a_result(folder, _SUMMARY, error) from error
    parts = {name: _redrawn(folder / name, (REVERSE,), formats) for name in titles}
    if REVERSE in parts_of and (folder / REVERSE / _SUMMARY).is_file():
        parts[REVERSE] = _redrawn(folder / REVERSE, (), formats)
    try:
        titled = {name: (title, parts[name][0]) for name, title in titles.items()}
        files = _drawn(result, titled, formats)
    except InputError:  # of contexts.jsonl, which it names
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        # Each value is what it may be, and together they are no result.
        raise not_a_result(folder, _SUMMARY, error) from error
    for name, (_, drawn) in parts.items():
        files.update(_inside(name, drawn))
    return result, files


def _check_inside(name: str) -> str:
    """The name, if it is that of a directory inside another one, and not of the reverse."""
    if os.path.basename(name) != name or name in ("", os.curdir, os.pardir, REVERSE):
        raise InputError(f"beside: {name!r} cannot be the name of a result's directory")
    return name


def _inside(folder: str, files: Mapping[str, Content]) -> dict[str, Content]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def _drawn(
    result: CorrelationResult,
    beside: Mapping[str, tuple[str, CorrelationResult]],
    formats: Sequence[str],
) -> dict[str, Content]:
    """The report, and the pictures in some formats."""
    from univfast.report.html import report_html
    from univfast.report.plots import figure_bytes, figures, png_bytes

    result = as_written(result)
    beside = {name: (title, as_written(one)) for name, (title, one) in beside.items()}
    pictures = {name: png_bytes(draw()) for name, draw in figures(result).items()}
    files: dict[str, Content] = {
        "report.html": report_html(result, beside, pictures).encode(),
    }
    for name, draw in figures(result).items():
        for kind in formats:
            png = kind == "png"
            files[f"{name}.{kind}"] = pictures[name] if png else figure_bytes(draw(), kind)
    return files


def _earlier_files(root: Path, folders: Iterable[str]) -> set[str]:
    """Paths of what may be left of earlier results in these folders, and in their reverse.

    A folder without a summary holds no result: what is in it is none of our business.
    """
    places = {f"{folder}/" if folder else "" for folder in folders}
    places |= {f"{place}{REVERSE}/" for place in places}
    held = [place for place in places if (root / place / "summary.json").is_file()]
    return {f"{place}{name}" for place in held for name in (*_ALWAYS, *_SOMETIMES)}


def _remove(path: Path) -> None:
    """Removes a file, if it is there, and its directory, if that is empty without it.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: is of an earlier result and cannot be removed ({error.strerror or error})"
        ) from error
    with suppress(OSError):  # mostly: it is not empty
        path.parent.rmdir()


def summary_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON, indented; absent numbers are null."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def neurons_csv(result: CorrelationResult) -> bytes:
    """The table, a row a neuron, as `csv_bytes` writes it."""
    return _table(result.columns())


def _partners(result: CorrelationResult) -> dict[str, Content]:
    """The tables of matches and of partners; nothing where `neurons_csv` tells it all."""
    models = result.by_model or (result,)
    files: dict[str, Content] = {}
    if result.by_model or result.mutual is not None:
        columns = columns_of("matches", {name for model in models for name in model.having})
        files.update(_tables("matches", columns, [_matches(model, columns) for model in models]))
    if any(model.top_neuron is not None for model in models):
        files.update(_tables("top", columns_of("top"), [_top(model) for model in models]))
    return files


def _tables(
    name: str, columns: Sequence[Column], parts: Sequence[Sequence[Sequence[Any]]]
) -> dict[str, Content]:
    """A table as CSV, and where it is large as Parquet."""
    files: dict[str, Content] = {f"{name}.csv": csv_bytes([x.name for x in columns], parts)}
    parquet = parquet_bytes(columns, parts)
    if parquet is not None:
        files[f"{name}.parquet"] = parquet
    return files


def _contexts(result: CorrelationResult) -> dict[str, Content]:
    """Where neurons and their matches are highest; nothing without details."""
    if result.contexts is None:
        return {}
    arrays = {
        f"{side}_{name}": tensor.numpy()
        for side, contexts in result.contexts._asdict().items()
        for name, tensor in contexts._asdict().items()
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    return {"contexts.npz": file.getvalue()}


def _matches(result: CorrelationResult, named: Sequence[Column]) -> list[list[Any]]:
    """Columns, a row a neuron, of one model. By index there is no mutual: the cell is empty."""
    neurons = len(result.layer)
    given = {
        "model": [result.summary["models"][1]] * neurons,
        "mutual": [""] * neurons if result.mutual is None else result.mutual.tolist(),
    }
    return [given[column.name] if column.name in given else column.of(result) for column in named]


def _top(result: CorrelationResult) -> list[list[Any]]:
    """A row a neuron and partner, of one model, as columns; from the highest r on."""
    assert result.top_correlation is not None
    assert result.top_layer is not None
    assert result.top_neuron is not None
    tops = result.top_neuron.tolist()
    there = [(i, k) for i, row in enumerate(tops) for k, match in enumerate(row) if match >= 0]
    r = result.top_correlation.tolist()
    given: dict[str, list[Any]] = {
        "model": [result.summary["models"][1]] * len(there),
        "rank": [k + 1 for _, k in there],
        "match_layer": [result.top_layer[i][k] for i, k in there],
        "match_neuron": [tops[i][k] for i, k in there],
        "correlation": [r[i][k] for i, k in there],
    }
    for column in columns_of("top"):
        if column.name not in given:
            own = column.of(result)
            given[column.name] = [own[i] for i, _ in there]
    return [given[column.name] for column in columns_of("top")]


def _table(columns: Mapping[str, Sequence[object]]) -> bytes:
    return csv_bytes([*columns], [[*columns.values()]])


def write_files(directory: str | os.PathLike[str], files: Mapping[str, Content]) -> None:
    """Writes files into a directory and directories inside, making them if needed.

    None is moved into place before all are written, so a failure leaves what was there before.

    Raises:
        InputError: the directory cannot be made or written to.
    """
    folder = make_directory(directory)
    for inside in {os.path.dirname(name) for name in files} - {""}:
        make_directory(folder / inside)
    write_together({folder / name: content for name, content in files.items()})
