"""Hugging Face datasets on disk: Arrow files, whose columns are layers.

They are read with pyarrow alone, over mappings of our own, whose pages can be given back. It is
asked only once where the values lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch

from univfast.errors import InputError
from univfast.inputs.mapping import MappedFile
from univfast.inputs.shards import OpenFiles, Shard
from univfast.inputs.stored import Place
from univfast.machine.reading import read_json, reading

__all__ = ["is_dataset", "read_dataset"]

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"

_WITH_FOOTER = b"ARROW1"  # the beginning of a file that is no stream

_DTYPES = {"double": torch.float64, "float": torch.float32, "halffloat": torch.float16}
_LISTS = ("list", "large_list", "fixed_size_list")


@dataclass
class _Column:
    """What was found of a column so far. ``width`` is that of its first token."""

    name: str
    dtype: torch.dtype
    width: int | None = None
    rows: int = 0
    shards: list[Shard] = field(default_factory=list)


def is_dataset(path: str) -> bool:
    """Whether a directory is what ``save_to_disk`` of a Dataset or a DatasetDict wrote."""
    return os.path.isfile(os.path.join(path, _SPLITS)) or all(
        os.path.isfile(os.path.join(path, name)) for name in (_STATE, _INFO)
    )


def read_dataset(
    path: str, files: OpenFiles
) -> tuple[dict[str, list[Shard]], dict[str, InputError]]:
    """The columns of a dataset as layers; and the columns that are none, each with the reason.

    A row is a token, a list of float64, float32 or float16; or a sequence of tokens, a list of
    such lists, in which lengths may differ. Each batch of rows in a file is a shard.

    Beside the header of each batch, this reads the lengths of its lists: four bytes a token.

    Raises:
        InputError: pyarrow is missing; the dataset is damaged, several datasets (splits), or one
            whose rows are to be taken in another order than they have in its files.
    """
    try:
        import pyarrow  # noqa: F401 - to say at once that it is missing
    except ImportError as error:
        raise InputError(
            f"{path}: is a Hugging Face dataset, which needs pyarrow to read; "
            "pip install 'univfast[datasets]'"
        ) from error
    columns: dict[str, _Column] = {}
    unusable: dict[str, InputError] = {}
    for file in _data_files(path):
        files.note(file)
        with reading(file):
            mapped = files.map(file)
            for batch in _batches(mapped):
                if len({*batch.schema.names}) < len(batch.schema.names):
                    raise ValueError("two columns of one name")
                arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
                for name in [name for name in arrays if name not in unusable]:
                    try:
                        _add(columns, name, arrays[name], file, mapped)
                    except InputError as error:  # noqa: PERF203
                        unusable[name] = error
    shards = {name: column.shards for name, column in columns.items() if name not in unusable}
    for name in [name for name, parts in shards.items() if not parts]:
        unusable[name] = InputError(f"{path}: column {name!r} holds no tokens; give at least one")
        del shards[name]
    return shards, unusable


def _data_files(path: str) -> list[str]:
    """The dataset's files, in its order."""
    splits, state = os.path.join(path, _SPLITS), os.path.join(path, _STATE)
    if os.path.isfile(splits):
        with reading(splits):
            names = read_json(splits)["splits"]
            shown = ", ".join(repr(name) for name in names)
            raise InputError(
                f"{path}: is a DatasetDict of the splits {shown}; give one of them, "
                f"{os.path.join(path, names[0])}"
            )
    with reading(state):
        content = read_json(state)
        if content.get("_indices_data_files") or content.get("_indices_files"):
            raise InputError(
                f"{path}: its rows are shuffled or selected by indices; save it again, as "
                "dataset.flatten_indices().save_to_disk(...)"
            )
        files = [file["filename"] for file in content["_data_files"]]
        for file in files:
            if os.path.basename(file) != file or "\0" in file or files.count(file) > 1:
                raise ValueError(f"{file!r} is no file in it, or stands twice")
        return [os.path.join(path, file) for file in files]


def _batches(mapped: MappedFile) -> Iterator[Any]:
    """The batches of rows of a file, whether their number stands at its end or not."""
    import pyarrow as pa

    buffer = pa.py_buffer(mapped.bytes)
    if mapped.bytes[: len(_WITH_FOOTER)].tobytes() == _WITH_FOOTER:
        found = pa.ipc.open_file(buffer)
        return (found.get_batch(i) for i in range(found.num_record_batches))
    return iter(pa.ipc.open_stream(buffer))


def _add(columns: dict[str, _Column], name: str, array: Any, file: str, mapped: MappedFile) -> None:
    """Adds the rows of a batch to its column. Raises InputError for what is no activations."""
    array = getattr(array, "storage", array)  # of a type that datasets made, if it is imported
    where = f"{file}: column {name!r}"
    dtype = _dtype(array.type, where)
    array.validate(full=True)  # or lengths that point out of the file would be followed
    column = columns.setdefault(name, _Column(name, dtype))
    if column.dtype != dtype:
        raise InputError(f"{where} has another dtype than in the files before; give it one")
    if column.width is None:
        lengths = _lengths(array)
        column.width = int(lengths[0]) if len(lengths) else None
    if _problem(array, column.width):
        row, problem = next(
            (row, problem)
            for row in range(len(array))
            if (problem := _problem(array.slice(row, 1), column.width))
        )
        raise InputError(f"{where}, row {column.rows + row}: {problem}")
    column.rows += len(array)
    if tokens := len(_lengths(array)):
        place = _place(array, (tokens, column.width or 0), dtype, where, mapped)
        column.shards.append(Shard(file, place))


def _dtype(kind: Any, where: str) -> torch.dtype:
    """The dtype of the values in nested lists."""
    leaf = kind
    while _is_list(leaf):
        leaf = leaf.value_type
    if leaf is kind or str(leaf) not in _DTYPES:
        raise InputError(
            f"{where} holds {kind}; a column of activations holds lists of float64, float32 or "
            "float16"
        )
    return _DTYPES[str(leaf)]


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return any(getattr(pa.types, f"is_{name}")(kind) for name in _LISTS)


def _tokens(array: Any) -> Any:
    """The innermost lists: a list a token. Nulls are skipped."""
    while _is_list(array.type.value_type):
        array = array.flatten()
    return array


def _lengths(array: Any) -> np.ndarray[Any, Any]:
    """Neurons of each token."""
    tokens = _tokens(array)
    if hasattr(tokens.type, "list_size"):
        return np.full(len(tokens), tokens.type.list_size)
    lengths: np.ndarray[Any, Any] = np.diff(tokens.offsets.to_numpy())
    return lengths


def _problem(array: Any, width: int | None) -> str | None:
    """What is wrong with rows of tokens, and what to do; None if nothing is."""
    level = array
    while not level.null_count and _is_list(level.type):
        level = level.flatten()
    if level.null_count:
        return "holds a null; give every token all of its values"
    lengths = _lengths(array)
    if (lengths != width).any():
        found = lengths[lengths != width][0]
        return f"a token has {found} neurons, the first token {width}; give all tokens one width"
    return None


def _place(
    array: Any, shape: tuple[int, int], dtype: torch.dtype, where: str, mapped: MappedFile
) -> Place:
    values = _tokens(array).flatten()
    size = dtype.itemsize
    buffer = values.buffers()[1]
    offset = buffer.address - mapped.address + values.offset * size
    if shape[1] and not 0 <= offset <= len(mapped.bytes) - prod(shape) * size:
        raise InputError(
            f"{where} is compressed, or not in this machine's byte order, so that it cannot be "
            "read in place; save the dataset again, with save_to_disk"
        )
    return Place(shape, dtype, offset, (shape[1] * size, size), f"i{size}")
