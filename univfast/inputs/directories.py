"""Directories of files: which files are activations, of which layers, and in which order."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count as count_from
from itertools import pairwise
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.arrow_files import is_dataset, read_dataset
from univfast.inputs.formats import read_file, suffixes
from univfast.inputs.layers import LONE_LAYER, Activations, collect
from univfast.inputs.model_paths import is_model_directory, is_model_file
from univfast.inputs.natural import natural_key
from univfast.inputs.shards import OpenFiles, Shard, ShardedLayer
from univfast.machine.reading import read_json

__all__ = ["PLACES", "SHARD", "TOKENS", "open_directory"]

SHARD = "shard-{:05}.safetensors"
"""A file of a capture, by its number."""

TOKENS = "tokens.npy"
"""Which tokens a capture is of: their ids."""

PLACES = "places.npy"
"""The numbers of these tokens in the text as it was read, where some are left out."""

_AGAIN = "run the same `univfast capture` command again"

# Of ``capture.json``, what is read here; of what else it says, `check_sources` compares these.
_COUNTS = ("shards", "tokens")
_TEXTS = ("text", "kept", "positions")

_OF = r"(\d+)(?:[-_]of[-_](\d+))?"
_SHARD = r"(?:shard|part|chunk|batch|acts|activations)"
_UNNAMED = re.compile(rf"{_SHARD}?{_OF}", re.IGNORECASE)
_NUMBERED = re.compile(rf"(.+?)[-_]{_OF}", re.IGNORECASE)
# What a number behind it counts is shards. Behind other names it may be layers, unless it is padded
# with zeros to so many digits as few models have layers.
_SHARDS = re.compile(rf"(?:.*[-_.])?{_SHARD}s?", re.IGNORECASE)
_DIGITS = 3
# What a number behind it counts is layers, not shards.
_COUNTED = re.compile(r"(?:.*[-_.])?(?:layer|block)s?", re.IGNORECASE)


class _Lone(str):
    """The name given to an array that is all of its file: its type tells it from those in files."""

    __slots__ = ()


@dataclass(frozen=True)
class _Name:
    """What a file's name says: shard ``number``, of ``count``, of ``layer``; or all of it.

    ``unclear``: it may as well be a layer of that number.
    """

    file: str
    layer: str
    number: int | None = None
    count: int | None = None
    unclear: bool = False


def open_directory(path: str) -> Activations:
    """The activations in a directory of ``.pt``, ``.pth``, ``.npy``, ``.npz``, ``.safetensors``.

    Other files and hidden ones are ignored. Files follow each other in natural order (2 before 10)
    and are joined along the first axis:

    - A layer that files hold by name (a dict in ``.pt``, ``.npz``, ``.safetensors``) continues over
      all files that hold it: so each file may hold all layers, or one.
    - A file that holds a lone array (``.npy``, a tensor in ``.pt``) is shard N of LAYER if its name
      is LAYER-N or LAYER_N, where N has three digits or more (``mlp.0-00003.npy``), LAYER ends in
      shard, part, chunk, batch, acts or activations, or -of-COUNT follows
      (``mlp.0-1-of-8.npy``). It is all of a layer where that would be the N-th layer or block
      (``layer_3.npy``). Other names of this form are refused: ``mlp_3.npy`` may be either. A number
      alone, or behind shard, part and so on, is a shard of a layer without a name. Any other file
      is all of the layer that it is named after. If there is one such layer in all, it is called
      ``activations``, as a lone array in a file is.
    - If there are no such files, each directory in it is a layer, whose files are its shards.
    - Where `univfast capture` wrote, its shards alone.
    - The columns of a Hugging Face dataset, as ``save_to_disk`` writes it: see ``read_dataset``.

    Only headers are read here. Shards of a layer need one width and dtype, their numbers one step
    (0, 1, 2 or 0, 4096, 8192).

    Raises:
        InputError: names the file or directory, what is wrong with it and what to do.
    """
    _refuse_model(path)
    opened = OpenFiles()
    unusable: dict[str, InputError] = {}
    captured = _capture(path)
    if captured:
        shards = _read_layers(path, _captured_files(path, captured), opened)
    elif is_dataset(path):
        shards, unusable = read_dataset(path, opened)
    elif files := _files(path):
        shards = _read_layers(path, files, opened)
    else:
        folders = sorted(filter(os.path.isdir, _visible(path)), key=natural_key)
        shards = {
            os.path.basename(folder): _read_folder(folder, files, opened)
            for folder in folders
            if (files := _files(folder))
        }
        if not shards:
            raise InputError(
                f"{path}: no activations in this directory: looked for {', '.join(suffixes())} "
                "files, in it or in directories in it; check the path"
            )
    found = collect(
        path, shards, lambda layer, parts: ShardedLayer(layer, parts, opened), unusable=unusable
    )
    if captured:
        _check_captured(found, captured)
        found = replace(found, captured=captured, **_captured_tokens(path, captured))
    return found


def _refuse_model(path: str) -> None:
    if is_model_directory(path):
        raise InputError(
            f"{path}: is a Hugging Face model, not activations; give a text to run it on and the "
            "modules to watch, with --text FILE and --hooks GLOB"
        )


def _capture(path: str) -> Mapping[str, Any]:
    """What `univfast capture` says of what it wrote; empty where it wrote nothing."""
    file = os.path.join(path, "capture.json")
    if not os.path.lexists(file):
        return {}
    capture = read_json(file, _AGAIN)
    if capture.get("format") != "univfast-capture":
        return {}
    counts = all(type(n := capture.get(name)) is int and n > 0 for name in _COUNTS)
    texts = all(isinstance(capture.get(name), (str, type(None))) for name in _TEXTS)
    skip = capture.get("skip") or []
    if not (counts and texts and isinstance(skip, list) and all(isinstance(x, str) for x in skip)):
        raise InputError(f"{path}: its capture.json is damaged; {_AGAIN}")
    return capture


def _captured_files(path: str, capture: Mapping[str, Any]) -> list[str]:
    """The shards of a capture, and none beside them."""
    there, count = {os.path.basename(file) for file in _visible(path)}, capture["shards"]
    # Looked for among the files that there are, however many there should be.
    missing = next(name for number in count_from(0) if (name := SHARD.format(number)) not in there)
    names = [SHARD.format(number) for number in range(min(count, len(there)))]
    if len(names) < count or not there.issuperset(names):
        raise InputError(
            f"{path}: the capture is incomplete, {len(there.intersection(names))} of {count} "
            f"shards are there, {missing} is not; {_AGAIN}"
        )
    return [os.path.join(path, name) for name in names]


def _check_captured(found: Activations, capture: Mapping[str, Any]) -> None:
    for layer in found.layers.values():
        if layer.tokens != capture["tokens"]:
            raise InputError(
                f"{found.name}: its shards hold {layer.tokens} tokens of layer {layer.name!r}, "
                f"capture.json says {capture['tokens']}; {_AGAIN}"
            )


def _captured_tokens(path: str, capture: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens a capture is of, and their samples or places, as `Activations` has them."""
    ids = _of_each_token(path, TOKENS, torch.int32, capture)
    context = capture.get("context")
    if ids is None or type(context) is not int or context < 1:  # one of before
        return {}
    if capture.get("kept") is None:
        return {"ids": ids, "window": context}
    numbers = _of_each_token(path, PLACES, torch.int64, capture)
    if numbers is None:
        return {}
    if bool((numbers < 0).any()) or bool((numbers.diff() < 1).any()):
        raise _damaged(os.path.join(path, PLACES))
    return {"ids": ids, "places": torch.stack([numbers // context, numbers % context], dim=1)}


def _of_each_token(
    path: str, name: str, dtype: torch.dtype, capture: Mapping[str, Any]
) -> torch.Tensor | None:
    """A number of each token of a capture, int64; None where there is no such file."""
    file = os.path.join(path, name)
    if not os.path.lexists(file):
        return None
    (stored,) = read_file(file, LONE_LAYER).values()
    found = stored.tensor().clone()
    if found.dtype != dtype or found.shape != (capture["tokens"],):
        raise _damaged(file)
    return found.long()


def _damaged(file: str) -> InputError:
    return InputError(f"{file}: is damaged, it does not hold the tokens of the capture; {_AGAIN}")


def _visible(path: str) -> list[str]:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be listed ({error.strerror}); check its permissions"
        ) from error
    return [os.path.join(path, name) for name in names if not name.startswith(".")]


def _files(path: str) -> list[str]:
    """The files of activations in a directory, in natural order."""
    wanted = (file for file in _visible(path) if file.endswith(suffixes()))
    return sorted((file for file in wanted if not os.path.isdir(file)), key=natural_key)


def _parse(file: str) -> _Name:
    stem = os.path.splitext(os.path.basename(file))[0]
    if found := _UNNAMED.fullmatch(stem):
        number, count = found.groups()
        layer = LONE_LAYER
    elif found := _NUMBERED.fullmatch(stem):
        layer, number, count = found.groups()
        if count is None and _COUNTED.fullmatch(layer):
            return _Name(file, stem)
    else:
        return _Name(file, stem)
    unclear = count is None and len(number) < _DIGITS and not _SHARDS.fullmatch(layer)
    return _Name(file, layer, int(number), None if count is None else int(count), unclear)


def _read_layers(path: str, files: list[str], opened: OpenFiles) -> dict[str, list[Shard]]:
    names = {file: _parse(file) for file in files}
    _check_counts(path, names.values())
    shards: defaultdict[str, list[Shard]] = defaultdict(list)
    lone: set[str] = set()
    for file, name in names.items():
        for layer, shard in _read(file, _Lone(name.layer), opened).items():
            shards[str(layer)].append(shard)
            if isinstance(layer, _Lone):
                _check_clear(name)
                lone.add(str(layer))
    steps = _steps(names.values())
    for layer, parts in shards.items():
        _check_numbers(layer, [names[shard.path] for shard in parts], steps, layer in lone)
    if len(lone) == len(shards) == 1:
        return {LONE_LAYER: shards[lone.pop()]}
    return dict(shards)


def _read_folder(folder: str, files: list[str], opened: OpenFiles) -> list[Shard]:
    """The shards of the layer that a directory holds."""
    names = [_parse(file) for file in files]
    _check_counts(folder, names)
    layer = _Lone(os.path.basename(folder))
    shards: list[Shard] = []
    for file in files:
        found = _read(file, layer, opened)
        if not found or not all(isinstance(name, _Lone) for name in found):
            raise InputError(
                f"{file}: holds no lone array, but its directory stands for one layer; save the "
                f"array alone, or give {folder}"
            )
        shards += found.values()
    _check_numbers(layer, names, _steps(names), lone=False)
    return shards


def _read(file: str, lone: _Lone, opened: OpenFiles) -> dict[str, Shard]:
    """The arrays of a file by layer; a lone array by the key ``lone`` itself."""
    opened.note(file)
    content = read_file(file, lone)
    if is_model_file(content):
        raise InputError(
            f"{file}: is a model file of `univfast train`, which is no shard of activations; give "
            "the model file itself, or move it elsewhere"
        )
    shards = {}
    for layer, array in content.items():
        place = array.place()
        if place is None:
            raise InputError(
                f"{file}: layer {layer!r} is compressed or in an old format, so that it cannot be "
                "read in slices; save shards with numpy.savez or torch.save"
            )
        shards[layer] = Shard(file, place)
    return shards


def _check_counts(path: str, names: Iterable[_Name]) -> None:
    """Refuses a set of files ``-of-N`` that are not 1 to N, or 0 to N - 1."""
    sets: defaultdict[str, list[_Name]] = defaultdict(list)
    for name in names:
        if name.count is not None:
            sets[name.layer].append(name)
    for found in sets.values():
        first, count = found[0], found[0].count or 0
        for name in found:
            if name.count != count:
                raise InputError(
                    f"{first.file} and {name.file}: are of {count} and of {name.count} shards; "
                    "keep those of one set in the directory"
                )
        numbers = {name.number for name in found}
        start = 0 if 0 in numbers else 1
        missing = (n for n in range(start, start + count) if n not in numbers)
        if (number := next(missing, None)) is not None:
            raise InputError(
                f"{path}: {len(numbers)} of {count} shards like "
                f"{os.path.basename(first.file)!r} are there, number {number} is missing; "
                "complete them"
            )


def _check_clear(name: _Name) -> None:
    """Refuses the name of a lone array that does not tell a layer from a shard."""
    if name.unclear:
        stem, suffix = os.path.splitext(os.path.basename(name.file))
        raise InputError(
            f"{name.file}: may be layer {stem!r}, or shard {name.number} of layer {name.layer!r}; "
            f"call it {name.layer}.{name.number}{suffix} if it is a layer, "
            f"{name.layer}-{name.number:05}{suffix} if it is a shard"
        )


def _steps(names: Iterable[_Name]) -> dict[str, int]:
    """From the number of a shard to the next, for each layer that files are named after."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        if name.number is not None:
            numbers[name.layer].add(name.number)
    return {
        layer: min((y - x for x, y in pairwise(sorted(found))), default=1)
        for layer, found in numbers.items()
    }


def _check_numbers(layer: str, names: list[_Name], steps: Mapping[str, int], lone: bool) -> None:
    """Refuses shards of a layer with a number twice, or with one missing in between.

    ``lone``: the files' names say which layer it is, so that all of it and a shard of it clash.
    """
    seen: dict[tuple[str, int], str] = {}
    before: dict[str, int] = {}
    for name in names:
        file, group, number = name.file, name.layer, name.number
        if number is None:
            if lone and len(names) > 1:
                other = next(other.file for other in names if other is not name)
                raise InputError(
                    f"{file} and {other}: are both layer {layer!r}, but the first has no number; "
                    "keep one, or number both as shards"
                )
            continue
        if (group, number) in seen:
            raise InputError(
                f"{seen[group, number]} and {file}: are both shard {number} of layer {layer!r}; "
                "keep one"
            )
        seen[group, number] = file
        step = steps[group]
        if number != (due := before.get(group, number - step) + step):
            raise InputError(
                f"{file}: shard {due} of layer {layer!r} is missing before it; complete the "
                "shards, or number them alike and without a gap"
            )
        before[group] = number
