"""``contexts.jsonl``: pairs of neurons, one a line, read and written as it goes.

The first line is the head: ``{"format": "univfast-contexts", "version": 1, "models": [...],
"around": 10}``. Each other one is a `PairRecord` in JSON. Names that are not here are passed over,
as a later version may have more of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from univfast.contexts.pair_record import (
    KINDS,
    Example,
    ExplanationRecord,
    FeatureRecord,
    PairRecord,
    as_count,
    as_list,
    as_text,
    line_json,
    parsed_record,
    record_json,
)
from univfast.errors import InputError
from univfast.machine.reading import damaged, open_file, parse_json, read_json

__all__ = [
    "CONTEXTS",
    "KINDS",
    "Example",
    "ExplanationRecord",
    "FeatureRecord",
    "Head",
    "PairRecord",
    "StoredRecords",
    "contexts_file",
    "read_head",
    "read_records",
    "record_at",
    "record_json",
    "records_with_offsets",
    "stored_records",
    "write_records",
]

CONTEXTS = "contexts.jsonl"
"""The name of the file in the directory of a result."""

_FORMAT, _VERSION = "univfast-contexts", 1
_AGAIN = "write it again with univfast correlate"
_GIVE = "give contexts.jsonl, or the directory of a result that has it"
_MOST_LINE = 16 << 20  # bytes; 44 windows of 21 tokens are 60 kB


@dataclass(frozen=True)
class Head:
    """The first line: the models, A first, and how many tokens stand before and after each."""

    models: tuple[str, ...]
    around: int


def contexts_file(path: str | os.PathLike[str]) -> Path:
    """The file itself, of a directory of a result or of the file.

    Raises:
        InputError: the directory has none.
    """
    found = Path(path)
    if not found.is_dir():
        return found
    if not (found / CONTEXTS).exists():
        raise InputError(f"{path}: has no {CONTEXTS}, {_why_none(found)}")
    return found / CONTEXTS


def _why_none(directory: Path) -> str:
    """Why a directory has no contexts, and what to do."""
    path = directory / "summary.json"
    try:
        summary = read_json(path) if path.exists() else None
    except InputError:
        summary = None
    if summary is None:
        return "which correlate writes with details=True; give such a result"
    if summary.get("details") is None:
        return "as it was written without details; correlate again with details=True"
    if summary.get("universal") == 0:
        return (
            "as no neuron is universal; name some with neurons=LAYER/N,..., where it is known which"
            " token stands where"
        )
    return "as it was not known which token stands where; correlate again with token_ids=FILE"


def read_head(path: str | os.PathLike[str]) -> Head:
    """The head of a file, or of that in the directory of a result.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    name = contexts_file(path)
    with open_file(name, _GIVE) as file:
        return _head(file, name)


def read_records(path: str | os.PathLike[str]) -> Iterator[PairRecord]:
    """The records of a file, or of that in the directory of a result, one at a time.

    Raises:
        InputError: it cannot be read, or a line is no record; names the file and the line.
    """
    return (record for _, record in records_with_offsets(path))


def records_with_offsets(path: str | os.PathLike[str]) -> Iterator[tuple[int, PairRecord]]:
    """As `read_records`, with the byte that each line begins at, for `record_at`."""
    name = contexts_file(path)
    seen: set[tuple[str, str, int]] = set()
    with open_file(name, _GIVE) as file:
        models = _head(file, name).models
        for number in _counted(2):
            offset = file.tell()
            line = _line(file, name, number)
            if not line:
                return
            try:
                record = parsed_record(parse_json(line))
                if record.model not in models[1:]:
                    raise ValueError(f"model {record.model!r} is none of those in the first line")
                key = (record.model, record.layer, record.neuron)
                if key in seen:
                    raise ValueError(f"{record.layer}/{record.neuron} is there twice")
            except Exception as error:  # of whatever a line may hold
                raise _spoilt(name, number, error) from error
            seen.add(key)
            yield offset, record


def record_at(file: BinaryIO, path: str | os.PathLike[str], offset: int) -> PairRecord:
    """The record whose line begins at this byte, as `records_with_offsets` gave it.

    Raises:
        InputError: there is none, as the file has changed since.
    """
    file.seek(offset)
    try:
        return parsed_record(parse_json(file.readline(_MOST_LINE + 1)))
    except Exception as error:
        raise damaged(path, "it changed while it was read", "read it again") from error


class StoredRecords:
    """Those of a result that was saved, which are read where they are asked for.

    Args:
        path: of ``contexts.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self, result: object) -> Iterator[PairRecord]:
        """Of each pair. Raises what `read_records` does."""
        del result
        return read_records(self._path)

    def write(self, file: BinaryIO, result: object) -> None:
        """Copies them."""
        del result
        with open_file(self._path, _GIVE) as source:
            shutil.copyfileobj(source, file)


def stored_records(directory: Path) -> StoredRecords | None:
    """Those of a result's directory; None where it has none."""
    path = directory / CONTEXTS
    return StoredRecords(path) if path.exists() else None


def write_records(
    file: BinaryIO, models: Sequence[str], around: int, records: Iterable[PairRecord]
) -> None:
    """Writes the head, and a line each record as it comes.

    Args:
        file: to write to.
        models: names of the models, A first.
        around: tokens before and after a marked one.
        records: in the order of the result's neurons.
    """
    head = {"format": _FORMAT, "version": _VERSION, "models": list(models), "around": around}
    for line in chain([line_json(head)], map(record_json, records)):
        file.write(line.encode() + b"\n")


def _counted(number: int) -> Iterator[int]:
    while True:
        yield number
        number += 1


def _line(file: BinaryIO, name: Path, number: int) -> bytes:
    """The next line; nothing at the end of the file."""
    try:
        line = file.readline(_MOST_LINE + 1)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if len(line) > _MOST_LINE:
        raise _spoilt(name, number, ValueError(f"over {_MOST_LINE >> 20} MiB"))
    if line and not line.endswith(b"\n"):
        raise _spoilt(name, number, ValueError("it ends in the middle"))
    return line


def _head(file: BinaryIO, name: Path) -> Head:
    line = _line(file, name, 1)
    try:
        found = parse_json(line)
        if found.get("format") != _FORMAT:
            raise ValueError(f"no {_FORMAT}")
        models = tuple(as_text(model) for model in as_list(found, "models"))
        if len(models) < 2:
            raise ValueError("fewer than two models")
        head = Head(models, as_count(found["around"]))
        version = as_count(found["version"])
    except Exception as error:
        raise _spoilt(name, 1, error) from error
    if version != _VERSION:
        raise InputError(f"{name}: is of version {version}, expected {_VERSION}; {_AGAIN}")
    return head


def _spoilt(name: Path, number: int, error: Exception) -> InputError:
    said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
    return damaged(name, ValueError(f"line {number}: {said}"), _AGAIN)
