"""Files: a result written so that a crash leaves no half file, and read back."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from univfast.errors import InputError
from univfast.files import make_directory, replacing
from univfast.result import COLUMNS, CorrelationResult

__all__ = ["load_result", "redraw", "save_result", "summary_json"]


def save_result(result: CorrelationResult, directory: str | os.PathLike[str]) -> None:
    """Writes the files of a result; see `CorrelationResult.save`."""
    null = io.BytesIO()
    np.save(null, np.empty((0, 0)) if result.null_excess is None else result.null_excess.numpy())
    files = {
        "neurons.csv": neurons_csv(result),
        "null_excess.npy": null.getvalue(),
        "summary.json": summary_json(result.summary).encode(),
    }
    write_files(directory, {**files, **_rendered(result)})


def redraw(directory: str | os.PathLike[str]) -> CorrelationResult:
    """Draws the pictures and the report of a saved result again, and returns it.

    Raises:
        InputError: there is no such result, or the directory cannot be written to.
    """
    result = load_result(directory)
    try:
        files = _rendered(result)
        result.verdict()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_result(directory, error) from error
    write_files(directory, files)
    return result


def _rendered(result: CorrelationResult) -> dict[str, bytes]:
    from univfast.plots import correlation_figure, excess_figure, png_bytes
    from univfast.report import report_html

    return {
        "correlation.png": png_bytes(correlation_figure(result)),
        "excess.png": png_bytes(excess_figure(result)),
        "report.html": report_html(result).encode(),
    }


def summary_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON, indented; absent numbers are null."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def neurons_csv(result: CorrelationResult) -> bytes:
    """The table, a row a neuron. Numbers have all their digits, absent ones are ``nan``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in zip(*result.columns().values(), strict=True):
        writer.writerow(str(v).lower() if isinstance(v, bool) else v for v in row)
    return text.getvalue().encode()


def write_files(directory: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Writes files into a directory, making it if needed.

    None is moved into place before all are written, so a failure leaves what was there before.

    Raises:
        InputError: the directory cannot be made or written to.
    """
    folder = make_directory(directory)
    with ExitStack() as stack:
        for name, content in files.items():
            file = stack.enter_context(replacing(folder / name))
            file.write(content)
            # Whatever the disk refuses, it refuses here, before the first file takes its place.
            file.flush()
            os.fsync(file.fileno())


def load_result(directory: str | os.PathLike[str]) -> CorrelationResult:
    """Reads back what `CorrelationResult.save` wrote.

    Raises:
        InputError: a file is missing, or is not of that form.
    """
    folder = Path(directory)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        with open(folder / "neurons.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        tensors: dict[str, Any] = {}
        for name, values in columns.items():
            if name in ("layer", "match_layer"):
                tensors[name] = values
            elif name in ("neuron", "match_neuron"):
                tensors[name] = torch.tensor([int(v) for v in values], dtype=torch.int64)
            elif name in ("universal", "dead"):
                tensors[name] = torch.tensor([v == "true" for v in values], dtype=torch.bool)
            else:
                tensors[name] = torch.tensor([float(v) for v in values], dtype=torch.float64)
        null = torch.from_numpy(np.load(folder / "null_excess.npy"))
        shape = (summary["rotation"]["draws"], len(rows))
        if null.numel() > 0 and tuple(null.shape) != shape:
            raise ValueError(f"null_excess.npy has shape {list(null.shape)}, not {list(shape)}")
        null_excess = null if null.numel() > 0 else None
        return CorrelationResult(**tensors, null_excess=null_excess, summary=summary)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be read ({error.strerror}); give the directory"
            " that univfast correlate --out wrote"
        ) from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _not_a_result(directory, error) from error


def _not_a_result(directory: str | os.PathLike[str], error: Exception) -> InputError:
    return InputError(
        f"{directory}: does not hold a saved result ({type(error).__name__}: {error}); write it"
        " again with univfast correlate --out"
    )
