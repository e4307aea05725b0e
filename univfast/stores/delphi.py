"""Latents as delphi caches them: sparse features of hookpoints, in files by ranges of latents.

A hookpoint is a directory of ``START_END.safetensors`` (``END`` included), each with ``locations``
``[entries, 3]`` (sample, position, latent - START), ``activations`` ``[entries]`` and ``tokens``
``[samples, positions]``, and a ``config.json`` that says how many such files there are. Layout:
``LatentCache`` of https://github.com/EleutherAI/delphi/blob/main/delphi/latents/cache.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.layers import LONE_LAYER, Activations, Layer
from univfast.inputs.natural import natural_key
from univfast.inputs.safetensors_files import read_safetensors
from univfast.inputs.sparse import Part, SparseLayer
from univfast.inputs.sparse_entries import Coo, Rows, column
from univfast.inputs.stored import Stored
from univfast.machine.reading import damaged, open_file, parse_json, read_json, reading

__all__ = ["is_delphi", "open_delphi"]

_SPLIT = re.compile(r"(\d+)_(\d+)\.safetensors")
_ARRAYS = ("locations", "activations")
_MOST_HEADER = 1 << 16  # bytes; theirs has some hundred
_TOKENS = 1 << 20  # that are compared at a time


@dataclass(frozen=True)
class _Split:
    """A file of latents ``first`` to ``last``, both included."""

    path: str
    first: int
    last: int


def is_delphi(path: str) -> bool:
    """Whether a directory holds hookpoints, or is one."""
    folders = [path, *_folders(path)]
    splits = next((found for folder in folders if (found := _splits(folder))), None)
    if not splits:
        return False
    try:
        with open_file(splits[0].path) as file:
            length = int.from_bytes(file.read(8), "little")
            names = parse_json(file.read(length)) if length <= _MOST_HEADER else {}
    except (OSError, ValueError):
        return False
    return {*_ARRAYS} <= names.keys()


def open_delphi(path: str) -> Activations:
    """The hookpoints of a directory as layers, in natural order; or the one that it is.

    Tokens are samples x positions, in order; values have the dtype that they were saved in.

    Raises:
        InputError: a file is missing or damaged, or they are of other tokens.
    """
    own = _splits(path)
    folders = {LONE_LAYER: path} if own else {os.path.basename(x): x for x in _folders(path)}
    layers: dict[str, Layer] = {}
    first: Stored | None = None
    for name, folder in folders.items():
        splits = _splits(folder)
        if not splits:
            continue
        _check_complete(folder, splits)
        width = splits[-1].last + 1
        parts = []
        for split in splits:
            part, tokens = _open_split(split)
            first = tokens if first is None else first
            _check_tokens(split.path, first, tokens)
            parts.append(part)
        leading = tuple(first.data.shape) if first is not None else ()
        layers[name] = SparseLayer(name, parts, leading, width, folder)
    assert first is not None
    return Activations(
        path,
        layers,
        ids=first.tensor().flatten().long(),
        reading=(f"{path}: latents of delphi, a layer a hookpoint, as wide as its files say",),
    )


def _folders(path: str) -> list[str]:
    names = sorted(os.listdir(path), key=natural_key)
    return [inside for name in names if os.path.isdir(inside := os.path.join(path, name))]


def _splits(folder: str) -> list[_Split]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [(os.path.join(folder, name), _SPLIT.fullmatch(name)) for name in names]
    splits = [_Split(path, int(x[1]), int(x[2])) for path, x in found if x is not None]
    return sorted(splits, key=lambda split: split.first)


def _check_complete(folder: str, splits: Sequence[_Split]) -> None:
    """Refuses files that are not of all latents."""
    config = os.path.join(folder, "config.json")
    count = read_json(config).get("n_splits") if os.path.lexists(config) else None
    if isinstance(count, int) and count != len(splits):
        raise InputError(
            f"{folder}: has {len(splits)} of {count} files START_END.safetensors (n_splits in"
            " config.json); complete them"
        )
    before = [-1, *(split.last for split in splits)]
    for last, split in zip(before, splits, strict=False):
        if split.first != last + 1 or split.last < split.first:
            raise InputError(
                f"{split.path}: should begin with latent {last + 1}; complete the files of"
                f" {folder}, of which each follows the one before"
            )


def _open_split(split: _Split) -> tuple[Part, Stored]:
    """The latents of a file, and the tokens that they are of."""
    with reading(split.path):
        arrays = read_safetensors(SourceFile(split.path), LONE_LAYER)
        locations, activations, tokens = (arrays.get(x) for x in (*_ARRAYS, "tokens"))
        if not isinstance(tokens, Stored):
            raise InputError(
                f"{split.path}: holds no tokens, by which samples and positions are counted; cache"
                " the latents with save_tokens=True"
            )
        if not isinstance(locations, Stored) or not isinstance(activations, Stored):
            raise ValueError("no locations or no activations")
        count, shape = tuple(activations.data.shape), tuple(tokens.data.shape)
        integers = not (locations.dtype.is_floating_point or tokens.dtype.is_floating_point)
        if tuple(locations.data.shape) != (*count, 3) or len(shape) != 2 or not integers:
            raise damaged(split.path, "locations, activations and tokens do not fit together")
        axes = [column(locations, 0), column(locations, 1)]
        entries = Coo(axes, shape, column(locations, 2), Rows(activations), sums=False)
    return Part(entries, split.first, split.last - split.first + 1), tokens


def _check_tokens(path: str, first: Stored, tokens: Stored) -> None:
    """Refuses a file of other tokens than those of the first."""
    if tokens is first:
        return
    one, other = Rows(first, 1), Rows(tokens, 1)
    same = tuple(first.data.shape) == tuple(tokens.data.shape)
    step = max(1, _TOKENS // max(1, tokens.data.shape[1]))
    for start in range(0, len(other) if same else 0, step):
        stop = min(start + step, len(other))
        same = same and torch.equal(one.read(start, stop), other.read(start, stop))
        other.release(start, stop)
    if not same:
        raise InputError(f"{path}: is of other tokens than the files before; cache them together")
