"""Activations of SAEV: ``acts000000.bin`` and so on, float32, described by JSON beside them.

Format: https://github.com/OSU-NLP-Group/saev, docs/src/developers/protocol.md. Each shard is
``[examples, layers, tokens, neurons]``; a last shard that is not full has room for as many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from univfast.errors import InputError
from univfast.inputs.layers import Activations, collect
from univfast.inputs.shards import OpenFiles, Shard, ShardedLayer
from univfast.inputs.stored import Place
from univfast.machine.reading import MOST_JSON, open_file, read_json, reading

__all__ = ["open_saev"]

_SIZE = 4  # bytes of float32, the only dtype of the protocol
_AGAIN = "write the shards again"
# What its versions call one thing.
_WIDTH = ("d_model", "d_vit")
_PATCHES = ("content_tokens_per_example", "patches_per_ex", "n_patches_per_img")
_EXAMPLES = ("n_examples", "n_imgs")


class _Said(NamedTuple):
    """What ``metadata.json`` says; ``tokens`` are those of an example."""

    layers: list[int]
    tokens: int
    neurons: int
    examples: int
    cls_token: bool

    @property
    def bytes(self) -> int:
        return len(self.layers) * self.tokens * self.neurons * _SIZE


def open_saev(path: str) -> Activations:
    """The shards of a directory: each layer by its number, its tokens by example and position.

    The class token, where there is one, comes before the patches of each example.

    Raises:
        InputError: names the file, and what is wrong.
    """
    said = _metadata(os.path.join(path, "metadata.json"))
    files = OpenFiles()
    shards: list[tuple[str, int]] = []
    for name, count in _listed(path, said):
        file = os.path.join(path, name)
        files.note(file)
        with reading(file):
            size = os.path.getsize(file)
            if size < count * said.bytes or size % said.bytes:
                raise InputError(
                    f"{file}: has {size} bytes, {count} examples of {said.bytes} bytes are expected"
                    f"; {_AGAIN}"
                )
        if count:
            shards.append((file, count))
    strides = (said.bytes, said.neurons * _SIZE, _SIZE)
    layers = {
        str(layer): [
            Shard(
                file,
                Place(
                    (count, said.tokens, said.neurons),
                    torch.float32,
                    i * said.tokens * said.neurons * _SIZE,
                    strides,
                    "<i4",
                ),
            )
            for file, count in shards
        ]
        for i, layer in sorted(enumerate(said.layers), key=lambda each: each[1])
    }
    found = collect(path, layers, lambda name, parts: ShardedLayer(name, parts, files))
    first = " of which the first is the class token" if said.cls_token else ""
    return replace(
        found,
        reading=(
            f"metadata.json and acts000000.bin: SAEV, {said.examples} examples of {said.tokens} "
            f"tokens{',' if first else ''}{first}",
        ),
    )


def _metadata(file: str) -> _Said:
    said = read_json(file)

    def number(names: tuple[str, ...]) -> int:
        value = next((said[name] for name in names if name in said), None)
        if type(value) is not int or value < 1:
            raise InputError(f"{file}: says no {names[0]} of SAEV; {_AGAIN}")
        return value

    layers, has_class = said.get("layers"), said.get("cls_token")
    if not isinstance(layers, list) or not layers or not all(type(x) is int for x in layers):
        raise InputError(f"{file}: says no layers; {_AGAIN}")
    if len({*layers}) < len(layers):
        raise InputError(f"{file}: names a layer twice; {_AGAIN}")
    if not isinstance(has_class, bool):
        raise InputError(f"{file}: does not say whether there is a cls_token; {_AGAIN}")
    if said.get("dtype", "float32") != "float32":
        raise InputError(f"{file}: dtype is {said['dtype']!r}, SAEV writes float32; {_AGAIN}")
    tokens = number(_PATCHES) + has_class
    return _Said(layers, tokens, number(_WIDTH), number(_EXAMPLES), has_class)


def _listed(path: str, said: _Said) -> list[tuple[str, int]]:
    """The shards and the examples in each: as ``shards.json`` says, or, before it, their sizes."""
    listed = os.path.join(path, "shards.json")
    if os.path.lexists(listed):
        shards = [_entry(listed, i, entry) for i, entry in enumerate(_list(listed))]
    else:
        shards, left = [], said.examples
        names = sorted(x for x in os.listdir(path) if x.startswith("acts") and x.endswith(".bin"))
        for i in range(len(names)):
            name = f"acts{i:06}.bin"
            size = os.path.getsize(os.path.join(path, name)) if name in names else 0
            shards.append((name, min(left, size // said.bytes)))
            left -= shards[-1][1]
    found = sum(count for _, count in shards)
    if found != said.examples:
        raise InputError(
            f"{path}: its shards hold {found} examples, metadata.json says {said.examples}; "
            f"{_AGAIN}"
        )
    return shards


def _list(file: str) -> list[Any]:
    with reading(file), open_file(file) as opened:
        text = opened.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError(f"over {MOST_JSON >> 20} MiB of JSON")
        found = json.loads(text)
        if not isinstance(found, list):
            raise ValueError("no list of shards")
        return found


def _entry(file: str, number: int, entry: object) -> tuple[str, int]:
    name = f"acts{number:06}.bin"
    count = entry.get("n_examples", entry.get("n_imgs")) if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or entry.get("name") != name or type(count) is not int:
        raise InputError(f"{file}: entry {number} is not that of {name}; {_AGAIN}")
    if count < 0:
        raise InputError(f"{file}: entry {number} has {count} examples; {_AGAIN}")
    return name, count
