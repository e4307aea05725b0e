"""Directories of files: which files are activations, of which layers, and in which order."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from univfast.errors import InputError
from univfast.inputs.arrow_files import is_dataset, read_dataset
from univfast.inputs.captures import (
    about_capture,
    captured_files,
    captured_tokens,
    check_captured,
)
from univfast.inputs.file_names import FileName, read_names
from univfast.inputs.formats import format_of, open_whole, read_file, suffixes
from univfast.inputs.joined import open_joined
from univfast.inputs.layers import LONE_LAYER, Activations, check_by_name, collect
from univfast.inputs.model_paths import is_model_directory, is_model_file, is_saved_result
from univfast.inputs.natural import natural_key
from univfast.inputs.numbering import (
    are_ids,
    check_counts,
    check_layers_alike,
    check_numbers,
    steps_of,
)
from univfast.inputs.patterns import FilePattern
from univfast.inputs.shards import OpenFiles, Shard, ShardedLayer
from univfast.inputs.stores import open_store

__all__ = ["open_directory"]

# Folders within folders: such as layer, rank, batch.
_DEEPEST = 4
_SHOWN = 3  # names in a line before "and N more"

Path = tuple[str, ...]  # of a file within the directory: the folders that it is in, and its name


class _Lone(str):
    """The name given to an array that is all of its file: its type tells it from those in files."""

    __slots__ = ()


def open_directory(path: str, files: str | None = None) -> Activations:
    """The activations in a directory of ``.pt``, ``.pth``, ``.npy``, ``.npz``, ``.safetensors``.

    Other files and hidden ones are passed over, and folders beside files. Files follow each other
    in natural order (2 before 10) of their folders and names, and are joined along the first axis:

    - A layer that files hold by name (a dict in ``.pt``, ``.npz``, ``.safetensors``) continues over
      all files that hold it: so each file may hold all layers, or one.
    - Of a file that holds a lone array (``.npy``, a tensor in ``.pt``), folders and name say which
      layer it is, and which shard. Numbers behind shard, part, chunk, batch, rank, file, acts or
      activations count shards, and so do N-of-COUNT, a name that is a number, and one of three
      digits or more at the end (``mlp.0-00003.npy``). Numbers behind layer or block, and those
      behind a dot (``mlp.3``), are of layers. What is left is the layer's name: ``layer_0`` of
      ``batch_2/layer_0.npy`` and ``layer_0_batch_2.npy``. If there is one such layer in all, and
      no folder names it, it is called ``activations``, as a lone array in a file is.
    - Names that are numbers with gaps, few of which are there, are ids of samples. Both models then
      need the same ones.
    - All other numbers that are not the same in all names may be read in two ways, and are refused.
    - Where `univfast capture` wrote, its shards alone.
    - The columns of a Hugging Face dataset, as ``save_to_disk`` writes it: see ``read_dataset``.

    Only headers are read here. Shards of a layer need one width and dtype, their numbers one step
    (0, 1, 2 or 0, 4096, 8192), and all layers of lone arrays the same shards.

    Args:
        path: of the directory.
        files: the pattern of the files in it, which then says all of this: see `FilePattern`.

    Raises:
        InputError: names the file or directory, what is wrong with it and what to do.
    """
    opened = OpenFiles()
    if files is not None:
        return _open_pattern(path, FilePattern(files), opened)
    _refuse_others(path)
    if captured := about_capture(path):
        there: list[Path] = [(name,) for name in captured_files(path, captured, _visible(path))]
        found = _Files(path, there, opened).activations(natural=False)
        check_captured(found, captured)
        why = ("capture.json: `univfast capture` wrote it",)
        return replace(
            found, captured=captured, reading=why, parts=(), **captured_tokens(path, captured)
        )
    if is_dataset(path):
        shards, unusable = read_dataset(path, opened)
        found = collect(
            path,
            shards,
            lambda layer, parts: ShardedLayer(layer, parts, opened),
            unusable=unusable,
        )
        return replace(found, reading=("dataset_info.json: a Hugging Face dataset",))
    there = _walk(path, (), 0)
    if not there:
        raise InputError(
            f"{path}: no activations in this directory: looked for {', '.join(suffixes())} "
            "files, in it or in directories in it; check the path"
        )
    found = _Files(path, there, opened).activations()
    beside = sorted({*_visible(path)} - {name[0] for name in there}, key=natural_key)
    passed = [f"passed over: {_listed(beside)}"] if beside else []
    return replace(found, reading=(*found.reading, *passed))


def _open_pattern(path: str, pattern: FilePattern, opened: OpenFiles) -> Activations:
    there, beside = pattern.find(path)
    names = [FileName(os.path.join(path, *name), layer or "", key) for name, layer, key in there]
    first = names[0].file
    if os.path.isdir(first) or format_of(first).opener is not None:
        found = open_joined(path, names, pattern.has_layer, _open_one)
    else:
        files = _Files(path, [name for name, _, _ in there], opened)
        found = files.activations(names, has_layer=pattern.has_layer)
    why = [f"files={pattern.text!r}: {len(there)} files match"]
    if beside:
        why.append(f"passed over: {_listed(beside)}, which do not match")
    return replace(found, by_pattern=pattern.has_layer, reading=tuple(why))


def _open_one(path: str) -> Activations | None:
    """A store; None of files that are none."""
    return open_store(path) if os.path.isdir(path) else open_whole(path)


def _refuse_others(path: str) -> None:
    if is_saved_result(path):
        raise InputError(
            f"{path}: is a saved result, not activations; see it with `univfast show`, or give what"
            " it is of"
        )
    if is_model_directory(path):
        raise InputError(
            f"{path}: is a Hugging Face model, not activations; load it and run it on a text "
            "by univfast.correlate_models, or by the command line"
        )


def _visible(path: str) -> list[str]:
    try:
        return [name for name in os.listdir(path) if not name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _walk(root: str, inside: Path, depth: int) -> list[Path]:
    """The files in a directory; where there are none, those in its folders, which are alike."""
    folder = os.path.join(root, *inside)
    names = _visible(folder)
    if inside:
        _refuse_whole(folder, names)
    folders = {name for name in names if os.path.isdir(os.path.join(folder, name))}
    files = [name for name in names if name.endswith(suffixes()) and name not in folders]
    if files:
        return [(*inside, name) for name in sorted(files, key=natural_key)]
    found: list[Path] = []
    for name in sorted(folders, key=natural_key) if depth < _DEEPEST else ():
        found += _walk(root, (*inside, name), depth + 1)
        if found and len(found[0]) != len(found[-1]):
            raise InputError(
                f"{os.path.join(root, *found[0])} and {os.path.join(root, *found[-1])}: lie at"
                " different depths; say which are meant with files='...'"
            )
    return found


def _refuse_whole(folder: str, names: Sequence[str]) -> None:
    """Refuses a folder that is read as a whole: a capture, a dataset or a model."""
    kind = (
        "a capture"
        if "capture.json" in names and about_capture(folder)
        else "a Hugging Face dataset"
        if is_dataset(folder)
        else "a Hugging Face model"
        if is_model_directory(folder)
        else "a saved result"
        if is_saved_result(folder)
        else None
    )
    if kind is not None:
        raise InputError(f"{folder}: is {kind} of its own; give this directory itself")


class _Files:
    """Files of a directory, whose headers are read."""

    def __init__(self, root: str, paths: Sequence[Path], opened: OpenFiles) -> None:
        self._root, self._paths, self._opened = root, paths, opened
        self._contents = [_read(os.path.join(root, *path), opened) for path in paths]
        self._lone = [[*map(type, content)] == [_Lone] for content in self._contents]

    def activations(
        self,
        names: list[FileName] | None = None,
        has_layer: bool = False,
        natural: bool = True,
    ) -> Activations:
        """The layers.

        Args:
            names: what a pattern says of the files; None where the names themselves do.
            has_layer: whether the pattern says the layer of each.
            natural: whether layers are in natural order, or as the first file has them.
        """
        given = names is not None
        if names is None:
            names = read_names(self._root, self._paths, self._lone)
            check_counts(self._root, names)
        elif has_layer:
            self._take_for_lone()
        shards: defaultdict[str, list[Shard | InputError]] = defaultdict(list)
        of_layer: defaultdict[str, list[FileName]] = defaultdict(list)
        lone: dict[str, bool] = {}
        for name, content in zip(names, self._contents, strict=True):
            for key, shard in content.items():
                is_lone = isinstance(key, _Lone)
                if not is_lone and name.folders and not given:
                    raise InputError(
                        f"{name.file}: holds layers by name ({key!r}), but its folder says that it"
                        f" is layer {name.layer!r}; save the array alone, or say which files are"
                        " meant with files='...'"
                    )
                layer = (name.layer or LONE_LAYER) if is_lone else str(key)
                if lone.setdefault(layer, is_lone) != is_lone:
                    raise InputError(
                        f"{name.file}: layer {layer!r} is what files are named in some, and a name"
                        " within the file in others; keep one kind"
                    )
                shards[layer].append(shard)
                of_layer[layer].append(name)
        ids = are_ids(names) and all(self._lone)
        steps = {} if given or ids else steps_of(names)
        for layer, own in of_layer.items():
            check_numbers(layer, own, steps, lone[layer])
        of_lone = {layer: own for layer, own in of_layer.items() if lone[layer]}
        for layer, (first, *_) in of_lone.items():
            stem = os.path.splitext(os.path.basename(first.file))[0]
            check_by_name(stem.rstrip("-_.0123456789"), f"{first.file}: layer {layer!r}")
        check_layers_alike(self._root, of_lone if not given else dict(of_layer))
        if len(of_lone) == len(shards) == 1 and not has_layer:
            (only,) = of_layer.values()
            if not only[0].folders:
                shards = defaultdict(list, {LONE_LAYER: next(iter(shards.values()))})
        found = self._collect(
            {name: shards[name] for name in sorted(shards, key=natural_key)}
            if natural and all(lone.values())
            else shards
        )
        return replace(
            found, parts=_parts(of_layer.values()), reading=_reasons(names, ids, self._paths)
        )

    def _collect(self, shards: Mapping[str, Sequence[Shard | InputError]]) -> Activations:
        def make(layer: str, parts: Sequence[Shard | InputError]) -> ShardedLayer:
            for part in parts:
                if isinstance(part, InputError):
                    raise part
            return ShardedLayer(layer, [x for x in parts if isinstance(x, Shard)], self._opened)

        return collect(self._root, shards, make)

    def _take_for_lone(self) -> None:
        """Has the only array of each file be of the layer that its path says.

        Raises:
            InputError: files hold several, or such of other names, which may be those of layers.
        """
        keys = {str(key) for content in self._contents for key in content}
        for path, content, lone in zip(self._paths, self._contents, self._lone, strict=True):
            if not lone and (len(content) != 1 or len(keys) > 1):
                raise InputError(
                    f"{os.path.join(self._root, *path)}: holds layers by name"
                    f" ({_listed(sorted(keys))}), and files= says by {{layer}} which it"
                    " is; put * for {layer}, or save arrays alone"
                )
        self._contents = [
            {_Lone(key): shard for key, shard in content.items()} for content in self._contents
        ]


def _read(file: str, opened: OpenFiles) -> dict[str, Shard | InputError]:
    """The arrays of a file by layer; a lone array by a `_Lone`."""
    opened.note(file)
    content = read_file(file, _Lone(LONE_LAYER))
    if is_model_file(content):
        raise InputError(
            f"{file}: is a model file of `univfast train`, which is no shard of activations; give "
            "the model file itself, or move it elsewhere"
        )
    shards: dict[str, Shard | InputError] = {}
    for layer, array in content.items():
        if isinstance(array, InputError):
            shards[layer] = array
        elif (place := array.place()) is None:
            shards[layer] = InputError(
                f"{file}: layer {layer!r} is compressed or in an old format, so that it cannot be "
                "read in slices; save shards with numpy.savez or torch.save"
            )
        else:
            shards[layer] = Shard(file, place)
    return shards


def _parts(layers: Iterable[Sequence[FileName]]) -> tuple[str, ...]:
    """Which shards the layers have, where it is the same in all."""
    found = {tuple(name.shard for name in names) for names in layers}
    parts = found.pop() if len(found) == 1 else ()
    return parts if all(parts) else ()


def _reasons(names: Sequence[FileName], ids: bool, paths: Sequence[Path]) -> tuple[str, ...]:
    said = []
    keyed = [name for name in names if name.key]
    if ids:
        said.append(f"names are ids of {len(names)} samples, which are joined in their order")
    elif keyed:
        first, last = (os.path.join(*paths[names.index(x)]) for x in (keyed[0], keyed[-1]))
        said.append(f"numbers of shards in names: from {first} to {last}")
    return tuple(said)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
