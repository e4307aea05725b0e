"""Raw arrays, whose shape and dtype stand in a JSON file beside them.

Alone, or as activation caches of `dictionary_learning` (crosscoders) write them: a directory for
each layer with ``config.json``, and ``shard_0.memmap`` with ``shard_0.meta`` and so on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch

from univfast.errors import InputError
from univfast.inputs.arrays import DTYPES
from univfast.inputs.formats import SourceFile, read_array
from univfast.inputs.layers import LONE_LAYER, Activations, collect
from univfast.inputs.quantised import Quantiser
from univfast.inputs.shards import OpenFiles, Shard, ShardedLayer
from univfast.inputs.stored import Stored, from_bits
from univfast.inputs.stores import cache_folders
from univfast.inputs.token_ids import open_token_ids
from univfast.machine.reading import read_json, reading

__all__ = ["open_caches", "read_raw"]

_KINDS = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES} | {
    "int8": torch.int8,
    "uint8": torch.uint8,
    **{name: getattr(torch, name) for name in ("int16", "int32", "int64", "bool")},
}
_MUST = (
    'a file of the same name that ends in .json and holds {"shape": [tokens, neurons], "dtype": '
    '"float32"}'
)


def read_raw(file: SourceFile, lone: str) -> dict[str, Stored]:
    """The array of a file without a header, in place.

    ``NAME.json`` or ``NAME.meta``, or either behind the whole name, says its ``shape`` and
    ``dtype`` (also bfloat16; float32, ``<f4`` and ``torch.float32`` are the same), and may say its
    ``order`` (C or F), and the ``scale`` and ``zero_point`` of integers.

    Raises:
        InputError: there is no such file, or more than one; or the array has another size.
    """
    beside = _beside(file.path)
    with reading(beside):
        said = read_json(beside)
        return {lone: _array(file, beside, said)}


def open_caches(path: str) -> Activations:
    """An activation cache, or a directory of several, a layer each.

    ``tokens.pt``, in the directory or the one around it, holds the ids of the tokens, where
    ``config.json`` says that they were stored.

    Raises:
        InputError: shards were shuffled, or are missing; or the tokens do not fit.
    """
    folders = cache_folders(path)
    files = OpenFiles()
    names = [LONE_LAYER] if folders == [path] else [os.path.basename(x) for x in folders]
    configs = [_config(folder) for folder in folders]
    shards = {
        name: _shards(folder, config, files)
        for name, folder, config in zip(names, folders, configs, strict=True)
    }
    found = collect(path, shards, lambda name, parts: ShardedLayer(name, parts, files))
    lines = (
        f"config.json and shard_0.memmap: an activation cache of {_counted(len(folders), 'layer')}"
        f" in {_counted(len(shards[names[0]]), 'shard')}",
    )
    if not all(config.get("store_tokens") for config in configs):
        return replace(found, reading=lines)
    around = path if folders != [path] else os.path.dirname(os.path.abspath(path))
    tokens = os.path.join(around, "tokens.pt")
    if not os.path.lexists(tokens):
        return replace(found, reading=(*lines, f"no token ids: {tokens} is not there"))
    count = next(iter(found.layers.values())).tokens
    ids = open_token_ids(read_array(tokens, "token ids").tensor().clone(), (count,), tokens)
    return replace(found, ids=ids, reading=(*lines, "tokens.pt: token ids"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _beside(path: str) -> str:
    stem = os.path.splitext(path)[0]
    names = [start + ending for start in (stem, path) for ending in (".json", ".meta")]
    found = [name for name in names if os.path.lexists(name)]
    if not found:
        raise InputError(f"{path}: nothing says what is in it; write {_MUST}")
    if len(found) > 1:
        raise InputError(
            f"{path}: {os.path.basename(found[0])} and {os.path.basename(found[1])} may both say"
            " what is in it; keep one"
        )
    return found[0]


def _array(
    file: SourceFile, beside: str, said: Mapping[str, Any], default: str | None = None
) -> Stored:
    """The array that is all of a file. Raises InputError, naming what says otherwise."""
    shape, kind = said.get("shape"), said.get("dtype", default)
    order = said.get("order", "C")
    _check_known(said, beside)
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{beside}: says no shape; {_MUST.partition('holds ')[2]} is expected")
    bits, dtype = _dtype(kind, beside)
    if order not in ("C", "F"):
        raise InputError(f"{beside}: order is {order!r}, expected 'C' or 'F'; correct it")
    size, there = prod(shape) * dtype.itemsize, len(file.mapped.bytes)
    if size != there:
        raise InputError(
            f"{file.path}: has {there} bytes, by {os.path.basename(beside)} shape {shape} of"
            f" {_name(dtype)} has {size}; correct it"
        )
    data = file.mapped.array(tuple(shape), bits, (0, there), order=order)
    stored = from_bits(data, dtype, file.mapped)
    if "scale" not in said:
        return stored
    where = f"{beside}: scale"
    numbers = [torch.tensor(said.get(x, 0), dtype=torch.float64, device="cpu") for x in _SCALE]
    return Quantiser.of(numbers[0], numbers[1], where).on(stored, where)


_SCALE = ("scale", "zero_point")
# What would make other values of the same bytes, and what it says where it makes none.
_LAYOUT = {
    **dict.fromkeys(("fortran_order", "transposed"), (False,)),
    **dict.fromkeys(("offset", "header", "strides", "axes", "axis", "dims"), (0,)),
    **dict.fromkeys(("byteorder", "byte_order", "endian", "endianness"), ("little", "<")),
    **dict.fromkeys(("scales", "zero", "zero_points", "bias", "add_offset", "scale_factor"), ()),
}


def _check_known(said: Mapping[str, Any], beside: str) -> None:
    """Refuses what says that the bytes are another array than is read."""
    for name, plain in _LAYOUT.items():
        if (value := said.get(name)) is not None and value not in plain:
            raise InputError(
                f"{beside}: says {name} {json.dumps(value)[:40]}, which is not read; say shape,"
                " dtype (as '>f4'), order ('C' or 'F'), scale and zero_point, and leave it out"
            )


def _dtype(kind: object, beside: str) -> tuple[str, torch.dtype]:
    """NumPy's name for the bits of a dtype by name, and PyTorch's for their values."""
    if isinstance(kind, str):
        name = kind.removeprefix("torch.")
        if name in _KINDS:
            dtype = _KINDS[name]
            return f"<i{dtype.itemsize}", dtype
        try:
            found = np.dtype(name)
        except (TypeError, ValueError):
            found = None
        if found is not None and found.name in _KINDS:
            order = ">" if found.byteorder == ">" else "<"
            return f"{order}i{found.itemsize}", _KINDS[found.name]
    raise InputError(f"{beside}: dtype is {kind!r}; expected one like 'float32' or 'bfloat16'")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _config(folder: str) -> dict[str, Any]:
    file = os.path.join(folder, "config.json")
    config = read_json(file)
    count = config.get("shard_count")
    if type(count) is not int or count < 1:
        raise InputError(f"{file}: says no shard_count; write it again")
    if config.get("shuffle_shards"):
        raise InputError(
            f"{folder}: its tokens were shuffled when they were stored, in an order that nothing "
            "else has; store them again, with shuffle_shards=False"
        )
    return config


def _shards(folder: str, config: Mapping[str, Any], files: OpenFiles) -> list[Shard]:
    shards = []
    there = {*os.listdir(folder)}
    for i in range(config["shard_count"]):
        path = os.path.join(folder, f"shard_{i}.memmap")
        beside = os.path.join(folder, f"shard_{i}.meta")
        for needed in (path, beside):
            if os.path.basename(needed) not in there:
                raise InputError(
                    f"{needed}: is not there, and config.json says {config['shard_count']} shards; "
                    "store them again"
                )
        files.note(path)
        with reading(path):
            # Caches of before had no dtype, and were of float32.
            stored = _array(SourceFile(path), beside, read_json(beside), default="float32")
            place = stored.place()
            assert place is not None
            shards.append(Shard(path, place))
    tokens, expected = sum(shard.tokens for shard in shards), config.get("total_size")
    if type(expected) is int and tokens != expected:
        raise InputError(
            f"{folder}: its shards hold {tokens} tokens, config.json says {expected}; store them"
            " again"
        )
    return shards
