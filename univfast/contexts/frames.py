"""Records as a table, a row an example: in memory with pandas, and as Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from univfast.contexts.records import Example, PairRecord, read_records
from univfast.errors import InputError
from univfast.machine.files import check_writable, replacing
from univfast.machine.torch_state import in_plain_state

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["contexts_to_pandas", "load_contexts", "write_parquet"]

_AT_ONCE = 256  # records: some 40 MB of windows of 21 tokens


def _of_pair(name: str) -> Callable[[PairRecord, Example], Any]:
    return lambda record, example: _plain(getattr(record, name))


def _of_example(name: str) -> Callable[[PairRecord, Example], Any]:
    return lambda record, example: _plain(getattr(example, name))


def _explained(explanation: str, name: str) -> Callable[[PairRecord, Example], Any]:
    return lambda record, example: _plain(getattr(getattr(record, explanation), name, None))


def _plain(value: Any) -> Any:
    """Lists for tuples, and texts that UTF-8 has, as Arrow's must be."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


# Of each column, its kind as pyarrow names it, and its value.
_COLUMNS: dict[str, tuple[str, Callable[[PairRecord, Example], Any]]] = {
    "model": ("string", _of_pair("model")),
    "layer": ("string", _of_pair("layer")),
    "neuron": ("int64", _of_pair("neuron")),
    "match_layer": ("string", _of_pair("match_layer")),
    "match_neuron": ("int64", _of_pair("match_neuron")),
    "correlation": ("float64", _of_pair("correlation")),
    "excess": ("float64", _of_pair("excess")),
    "universal": ("bool_", _of_pair("universal")),
    "learned": ("bool_", _of_pair("learned")),
    **{
        f"{side}{column}": (kind, _explained(f"{side}explanation", name))
        for side in ("", "match_")
        for column, kind, name in (
            ("family", "string", "family"),
            ("feature", "string", "feature"),
            ("r2", "float64", "r2"),
        )
    },
    "kinds": ("list string", _of_example("kinds")),
    "token": ("int64", _of_example("token")),
    "sample": ("int64", _of_example("sample")),
    "position": ("int64", _of_example("position")),
    "at": ("int64", _of_example("at")),
    "ids": ("list int64", _of_example("ids")),
    "tokens": ("list string", _of_example("tokens")),
    "activation": ("list float64", _of_example("activation")),
    "match_activation": ("list float64", _of_example("match_activation")),
}


@in_plain_state
def load_contexts(path: str | os.PathLike[str]) -> list[PairRecord]:
    """All records of a result's directory, or of its ``contexts.jsonl``.

    `univfast.contexts.records.read_records` gives them one at a time, which takes less memory.

    Raises:
        InputError: it cannot be read, or a line is no record; names the file and the line.
    """
    return list(read_records(path))


@in_plain_state
def contexts_to_pandas(records: Iterable[PairRecord]) -> pd.DataFrame:
    """A table of records, a row an example.

    Columns are those of the pair (``model`` to ``learned``), the best explanation of the neuron
    (``family``, ``feature``, ``r2``) and of its match (``match_family``, ...), and those of the
    example, in which ``kinds``, ``ids``, ``tokens``, ``activation`` and ``match_activation`` are
    lists. What is not known is None, or NaN in numbers.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "contexts_to_pandas needs pandas: pip install 'univfast[pandas]'"
        ) from error
    return pd.DataFrame(_columns(records))


@in_plain_state
def write_parquet(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Writes the table that `contexts_to_pandas` gives as a Parquet file, whole or not at all.

    Args:
        path: a result's directory, or its ``contexts.jsonl``.
        out: the file.

    Raises:
        InputError: pyarrow is not installed, ``path`` cannot be read or ``out`` be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(
            "parquet: needs pyarrow to be written; pip install 'univfast[datasets]'"
        ) from error
    schema = pa.schema([(name, _type(pa, kind)) for name, (kind, _) in _COLUMNS.items()])
    check_writable(out)
    records = read_records(path)
    with replacing(out) as file, pq.ParquetWriter(file, schema) as writer:
        while some := list(islice(records, _AT_ONCE)):
            writer.write_table(pa.table(_columns(some), schema=schema))


def _columns(records: Iterable[PairRecord]) -> dict[str, list[Any]]:
    rows = [(record, example) for record in records for example in record.examples]
    return {
        name: [value(record, example) for record, example in rows]
        for name, (_, value) in _COLUMNS.items()
    }


def _type(pa: Any, kind: str) -> Any:
    inside, _, item = kind.rpartition(" ")
    found = getattr(pa, item)()
    return pa.list_(found) if inside else found
