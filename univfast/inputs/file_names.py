"""What the names of files say: which numbers in a path count shards, and what is the layer."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from univfast.errors import InputError

__all__ = ["FileName", "parts_among", "read_names"]

# A word, the number behind it, and the number of all where it says that.
_SLOT = re.compile(
    r"(?P<word>[^\W\d_]*)(?P<sep>[-_. ]?)(?P<number>[0-9]+)(?:[-_]of[-_](?P<count>[0-9]+))?",
    re.IGNORECASE,
)
_SEPARATORS = "-_. "
# What a number behind it counts is shards.
_SHARD_WORDS = {
    *("shard", "shards", "part", "parts", "chunk", "chunks", "batch", "batches"),
    *("rank", "ranks", "file", "files"),
}
# So too, but for ``acts.3``, which is the activations of module 3.
_CONTENT_WORDS = {"acts", "activations"}
# What a number behind it counts is layers.
_LAYER_WORDS = {"layer", "layers", "block", "blocks"}
# So too, but for ``mlp_3``, which in a name of one number may be shard 3 of ``mlp``.
_MODULE_WORDS = {"h", "l", "mlp", "resid", "attn"}
# What a number behind it counts, padded or not, is neither: joined, other models would be one.
_OTHER_WORDS = {"step", "epoch", "checkpoint", "ckpt", "seed", "run", "model", "head", "expert"}
# A number padded with zeros to so many digits counts shards: few models have as many layers.
_DIGITS = 3
_MOST_READINGS = 4


@dataclass(frozen=True)
class FileName:
    """What the path of a file says.

    Attributes:
        file: the path.
        layer: what is left of it without what counts shards; ``""`` where nothing is.
        key: which shard it is: what tells shards apart, in its order; numbers without zeros before.
        count: how many there are, where it says so.
        ids: whether the number is all of the file's name.
        folders: whether ``layer`` is of folders, as well as of the file's name.
    """

    file: str
    layer: str
    key: tuple[str, ...] = ()
    count: int | None = None
    ids: bool = False
    folders: bool = False

    @property
    def shard(self) -> str:
        """Which shard it is, to be shown."""
        return "/".join(self.key)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The key, where it is of numbers."""
        return tuple(map(int, self.key))


@dataclass
class _Slot:
    """A number in a path."""

    part: int  # which folder, or the file
    span: tuple[int, int]
    word: str
    sep: str
    number: str
    count: str | None
    is_last: bool  # of the file's name
    is_all: bool  # of the folder's or file's name
    kind: str = "unclear"  # or "shard", "layer"
    keeps_word: bool = False  # it is part of the layer's name: ``mlp.0-003``


def read_names(root: str, paths: Sequence[Sequence[str]], lone: Sequence[bool]) -> list[FileName]:
    """What the paths of files within the directory ``root`` say, all together.

    Args:
        root: the directory.
        paths: of each file, the folders that it is in and its name.
        lone: whether each file holds a lone array, which its name must say the layer of.

    Raises:
        InputError: a number may count shards or layers; names both, and the pattern for each.
    """
    stems = [[*path[:-1], os.path.splitext(path[-1])[0]] for path in paths]
    slots = [_slots(stem) for stem in stems]
    values: defaultdict[tuple[str, ...], list[set[str]]] = defaultdict(list)
    templates = [tuple(_SLOT.sub(_hidden, part) for part in stem) for stem in stems]
    for template, found in zip(templates, slots, strict=True):
        seen = values[template]
        seen += [set() for _ in range(len(found) - len(seen))]
        for slot, numbers in zip(found, seen, strict=True):
            numbers.add(slot.number)
    for template, found, path, alone in zip(templates, slots, paths, lone, strict=True):
        varying = [len(numbers) > 1 for numbers in values[template]]
        _tell(found, varying, alone)
        if alone:
            _check_clear(root, path, found, varying)
    return _named(root, paths, stems, slots)


def parts_among(layers: Sequence[str]) -> tuple[str, str] | None:
    """Two names of layers in one file that may be parts of one layer, as ``batch_0/mlp``."""
    seen: dict[str, str] = {}
    for layer in layers:
        for found in _SLOT.finditer(layer):
            # ``parts.3`` is a module in a list of them.
            if found["word"].lower() in _SHARD_WORDS and found["sep"] != ".":
                rest = f"{layer[: found.start('number')]}\0{layer[found.end('number') :]}"
                if seen.setdefault(rest, layer) != layer:
                    return seen[rest], layer
    return None


def _hidden(found: re.Match[str]) -> str:
    return f"{found['word']}{found['sep']}#"


def _slots(stem: Sequence[str]) -> list[_Slot]:
    return [
        _Slot(
            number,
            found.span(),
            found["word"].lower(),
            found["sep"],
            found["number"],
            found["count"],
            number == len(stem) - 1 and found.end() == len(part),
            found.span() == (0, len(part)) and not found["word"] and not found["sep"],
        )
        for number, part in enumerate(stem)
        for found in _SLOT.finditer(part)
    ]


def _tell(slots: list[_Slot], varying: list[bool], lone: bool) -> None:
    """Says of each number what it counts."""
    for slot in slots:
        by_word = slot.word in _LAYER_WORDS
        in_module = slot.word in _MODULE_WORDS and not slot.sep
        if slot.count is not None and by_word:
            slot.kind = "unclear"
        elif slot.count is not None or slot.word in _SHARD_WORDS:
            slot.kind = "shard"
        elif slot.word in _CONTENT_WORDS:
            slot.kind = "unclear" if slot.sep == "." else "shard"
        elif by_word or (slot.word and slot.sep == ".") or in_module:
            slot.kind = "layer"
        slot.keeps_word = slot.word not in (_SHARD_WORDS | _CONTENT_WORDS)
    counting = [
        slot for slot, varies in zip(slots, varying, strict=True) if varies and slot.kind == "shard"
    ]
    if lone and len(counting) > 1 and all(slot.kind != "layer" for slot in slots):
        for slot in counting:  # ``batch_0/acts_3`` may be the activations of layer 3
            if slot.word in _CONTENT_WORDS and slot.count is None:
                slot.kind = "unclear"
    if any(slot.kind == "shard" for slot in slots):  # then others are none, by their looks alone
        for slot in slots:
            named = slot.word in (_MODULE_WORDS | _LAYER_WORDS) or _is_folder(slot)
            if slot.kind == "unclear" and named:
                slot.kind = "layer"
        return
    last = slots[-1] if slots else None
    if last is None or last.kind != "unclear" or not last.is_last:
        return
    by_name = not lone and last.sep in ("-", "_")  # then a number in the file's name is no layer's
    padded = len(last.number) >= _DIGITS and last.sep in ("-", "_")
    # Numbers alone for folders and files are layers of batches, or batches of layers.
    both = any(v and _is_folder(slot) for slot, v in zip(slots, varying, strict=True))
    if by_name or (
        not both and (last.is_all or (padded and last.word not in (_OTHER_WORDS | _LAYER_WORDS)))
    ):
        last.kind = "shard"


def _is_folder(slot: _Slot) -> bool:
    return slot.is_all and not slot.is_last


def _check_clear(root: str, path: Sequence[str], slots: list[_Slot], varying: list[bool]) -> None:
    """Refuses numbers of which it is not clear what they count, and that are not all the same."""
    open_ = [
        slot
        for slot, varies in zip(slots, varying, strict=True)
        if slot.kind == "unclear"
        and (varies or (slot.is_last and slot.sep in ("-", "_") and len(slots) == 1))
    ]
    if not open_:
        return
    readings = []
    for choice in range(2 ** min(len(open_), 2)):
        chosen = ["layer" if choice >> min(i, 1) & 1 else "shard" for i, _ in enumerate(open_)]
        readings.append(_reading(path, slots, dict(zip(map(id, open_), chosen, strict=True))))
    what = ", or ".join(what for what, _ in readings)
    ways = ", or ".join(f"files={pattern!r}" for _, pattern in readings)
    raise InputError(f"{os.path.join(root, *path)}: may be {what}; say which with {ways}")


def _reading(path: Sequence[str], slots: list[_Slot], chosen: dict[int, str]) -> tuple[str, str]:
    """What a file is where the unclear numbers count so, and the pattern that says it."""
    kinds = {id(slot): chosen.get(id(slot), slot.kind) for slot in slots}
    stem, suffix = os.path.splitext(path[-1])
    shards: list[str] = []
    layers: list[str] = []
    parts: list[str] = []
    words = [slot.word for slot in slots if id(slot) in chosen and slot.word]
    for number, part in enumerate([*path[:-1], stem]):
        text, end = "", 0
        inside = [slot for slot in slots if slot.part == number]
        is_layer = any(kinds[id(slot)] == "layer" for slot in inside)
        counted = [slot for slot in inside if kinds[id(slot)] == "shard"]
        if is_layer and not counted:
            text, end = "{layer}", len(part)
            layers.append(part)
        for slot in inside if counted or not is_layer else []:
            start, stop = slot.span
            start += 0 if slot.word else len(slot.sep)
            before = part[end:start]
            if kinds[id(slot)] == "shard":
                text += before + part[start : _number_at(slot)] + "{shard}"
                shards.append(slot.number)
                stop = _number_at(slot) + len(slot.number)
            elif kinds[id(slot)] == "layer":
                text += before + "{layer}"
                layers.append(part[start:stop])
            else:
                text += part[end:stop]
            end = stop
        parts.append(text + part[end:])
    what = f"layer {'/'.join(layers or words)!r}" if layers or words else "a layer"
    if shards:
        what = f"shard {'/'.join(shards)} of {what}"
    return what, "/".join(parts) + suffix


def _number_at(slot: _Slot) -> int:
    return slot.span[0] + len(slot.word) + len(slot.sep)


def _named(
    root: str,
    paths: Sequence[Sequence[str]],
    stems: list[list[str]],
    slots: list[list[_Slot]],
) -> list[FileName]:
    left = [
        [_without_shards(part, [x for x in found if x.part == i]) for i, part in enumerate(stem)]
        for stem, found in zip(stems, slots, strict=True)
    ]
    depth = len(stems[0]) if stems else 0
    # What all have is no name of a layer.
    telling = [i for i in range(depth) if len({parts[i] for parts in left}) > 1]
    if not telling:
        telling = [i for i in range(depth) if any(parts[i] for parts in left)][-1:]
        folders = [i for i in range(depth - 1) if left[0][i]]
        telling = folders[-1:] or telling
    names = []
    for path, parts, found in zip(paths, left, slots, strict=True):
        shards = [slot for slot in found if slot.kind == "shard"]
        counts = [slot.count for slot in shards if slot.count is not None]
        names.append(
            FileName(
                os.path.join(root, *path),
                "/".join(parts[i] for i in telling if parts[i]),
                tuple(str(int(slot.number)) for slot in shards),
                int(counts[-1]) if counts else None,
                bool(shards) and shards[-1].is_all,
                any(parts[i] for i in telling if i < depth - 1),
            )
        )
    return names


def _without_shards(part: str, slots: list[_Slot]) -> str:
    """A part of a path without what counts shards."""
    text, end = "", 0
    for slot in slots:
        if slot.kind != "shard":
            continue
        start, stop = slot.span
        before = part[end : start + len(slot.word) if slot.keeps_word else start]
        text += before if slot.keeps_word else before.rstrip(_SEPARATORS)
        end = stop
    rest = part[end:]
    return text + rest if text else (rest.lstrip(_SEPARATORS) if end else rest)
