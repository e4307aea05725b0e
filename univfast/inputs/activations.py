"""The activations of one model, from whatever holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from univfast.checks import check_path, plain_text
from univfast.errors import InputError
from univfast.inputs.directories import open_directory
from univfast.inputs.formats import open_whole, read_file
from univfast.inputs.hub import fetch, is_hub_name
from univfast.inputs.layers import LONE_LAYER, Activations, StoredLayer, check_by_name, collect
from univfast.inputs.model_paths import is_model_file
from univfast.inputs.sparse import SparseLayer, SparseStored, as_layer
from univfast.inputs.sparse_names import Found, join_sparse, said_integers, says_width
from univfast.inputs.sparse_tensors import is_scipy, sparse_in_memory
from univfast.inputs.stored import Stored, from_memory
from univfast.inputs.stores import open_store

__all__ = ["check_files", "open_activations", "open_controls", "open_models"]


def open_activations(
    source: object, name: str, files: str | None = None, width: int | None = None
) -> Activations:
    """Activations from a tensor, an array, a dict of layer name to these, a file or a directory.

    Args:
        source: ``[..., neurons]`` in float64, float32, float16 or bfloat16 as a torch.Tensor, a
            NumPy array or an object with ``__dlpack__``, alone (its layer is then called
            ``activations``) or in a dict; or the path of a ``.pt``, ``.npy``, ``.npz`` or
            ``.safetensors`` file, or of a model file of ``univfast train``, whose activations are
            captured. Files are mapped and read in place; members of a compressed ``.npz`` and files
            in PyTorch's format from before version 1.6 are loaded whole. Or that of a directory of
            shards or a Hugging Face dataset, as ``open_directory`` reads them; of what other tools
            wrote, as ``univfast.stores`` does; or a name on the hub,
            ``hf://datasets/org/name@revision``. Sparse features are one layer each, as
            ``join_sparse`` finds them, or a sparse tensor or array of SciPy.
        name: what to call ``source`` in errors where it has no file name.
        files: the pattern of the files, where it is a directory; None where their names say it.
        width: how many features there are, where sparse features are stored without that.

    Raises:
        InputError: a file that cannot be read, or what cannot be activations.
        TypeError: ``source`` is none of these.
    """
    found = source if isinstance(source, Activations) else _open(source, name, files, width)
    for layer in found.layers.values():
        if isinstance(layer, SparseLayer) and width not in (None, layer.neurons):
            raise InputError(
                f"width: is {width}, and {found.name}: layer {layer.name!r} has {layer.neurons}"
                " features; leave the one that is wrong out"
            )
    return found


def _open(source: object, name: str, files: str | None, width: int | None) -> Activations:
    if is_hub_name(source):
        there = fetch(str(source))
        found = _open_path(there.path, files, width)
        return replace(found, name=there.name, origin=there.about())
    if isinstance(source, (str, os.PathLike)):
        check_path(name, source)
        return _open_path(os.fsdecode(source), files, width)
    if isinstance(source, Mapping) and not is_scipy(source):  # as those by keys are
        for layer in source:
            if not isinstance(layer, str):
                raise TypeError(f"{name}: layer names must be str, found {type(layer).__name__}")
        values = {plain_text(layer): value for layer, value in source.items()}
    elif (
        isinstance(source, (torch.Tensor, np.ndarray))
        or hasattr(source, "__dlpack__")
        or is_scipy(source)
    ):
        values = {LONE_LAYER: source}
    else:
        raise TypeError(
            f"{name}: expected a tensor, an array, a dict of layers or a path, "
            f"found {type(source).__name__}"
            + ("; pass its .to_numpy()" if hasattr(source, "to_numpy") else "")
        )
    stored = {
        layer: _from_memory(layer, value, f"{name}: layer {layer!r}")
        for layer, value in values.items()
    }
    return _collect(name, join_sparse(stored, LONE_LAYER, name), width)


def _from_memory(layer: str, value: object, where: str) -> Stored | SparseStored | tuple[int, ...]:
    if says_width(layer) and (said := said_integers(value)):
        return said
    sparse = sparse_in_memory(value, where)
    return from_memory(value, where, TypeError) if sparse is None else sparse


def _collect(name: str, found: Mapping[str, Found], width: int | None) -> Activations:
    made = collect(name, found, partial(as_layer, source=name, width=width))
    sparse = {layer: x for layer, x in found.items() if isinstance(x, SparseStored)}
    ids = next((x.ids for x in sparse.values() if x.ids is not None), None)
    return replace(
        made,
        made_of={part: layer for layer, x in sparse.items() for part in x.parts},
        reading=tuple(_told(found)),
        ids=None if ids is None else ids.tensor().flatten().long(),
    )


def open_models(
    given: object, name: str, files: str | None = None, width: int | None = None
) -> list[Activations]:
    """Each of a list of models, or the only one; as `open_activations` opens them.

    Raises:
        InputError: the list is empty.
    """
    if not isinstance(given, (list, tuple)):
        return [open_activations(given, name, files, width)]
    if not given:
        raise InputError(f"{name}: got no models; give at least one")
    return [open_activations(x, f"{name}[{i}]", files, width) for i, x in enumerate(given)]


def open_controls(
    given: object,
    name: str,
    others: int,
    files: str | None = None,
    width: int | None = None,
) -> list[list[Activations]]:
    """Of each other model its controls; nothing where there are none.

    Raises:
        InputError: there are several models, and not a list of controls for each.
    """
    if given is None:
        return []
    if others == 1:
        if isinstance(given, (list, tuple)) and len(given) == 1:
            (inner,) = given
            if isinstance(inner, (list, tuple)):  # as several models have it
                given = inner
        return [open_models(given, name, files, width)]
    if not isinstance(given, (list, tuple)) or len(given) != others:
        found = len(given) if isinstance(given, (list, tuple)) else 1
        raise InputError(
            f"{name}: got {found}, and there are {others} other models; give a list of controls for"
            " each of them, in their order"
        )
    return [open_models(of_one, f"{name}[{i}]", files, width) for i, of_one in enumerate(given)]


def _told(content: Mapping[str, Found]) -> Iterator[str]:
    """What of the arrays of a file is not as the file says, or of several arrays."""
    for name, stored in content.items():
        if isinstance(stored, InputError):
            continue
        if isinstance(stored, SparseStored):
            parts = ", ".join(stored.parts) or "a sparse array"
            yield f"layer {name!r}: sparse features, made of {parts}"
            continue
        if stored.quantiser is not None:
            yield f"layer {name!r}: integers of 8 bits, read as (integer - zero_point) * scale"
        if stored.told:
            yield f"layer {name!r}: {stored.told}"


def check_files(files: str | None, *sources: object) -> None:
    """Refuses a pattern of files where no source, of models or of lists of them, is a directory.

    Raises:
        InputError: so it is.
    """
    pending = [*sources] if files is not None else []
    while pending:
        source = pending.pop()
        if isinstance(source, (list, tuple)):
            pending += source
        elif is_hub_name(source) or (
            isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
        ):
            return
    if files is not None:
        raise InputError("files: is for directories of files, and none was given; leave it out")


def _open_path(path: str, files: str | None = None, width: int | None = None) -> Activations:
    if os.path.isdir(path):
        store = None if files is not None else open_store(path)
        return open_directory(path, files) if store is None else store
    if (whole := open_whole(path)) is not None:
        return whole
    content = read_file(path, LONE_LAYER)
    if not is_model_file(content):
        if isinstance(content.get(LONE_LAYER), Stored):  # has the file's name at most
            check_by_name(os.path.splitext(os.path.basename(path))[0], path)
        return _collect(path, content, width)
    # Only a model file needs the model, and only then is it imported.
    from univfast.experiment import capture_mlp, from_dict, test_set_name, test_tokens

    trained = from_dict(content, path)
    captured = capture_mlp(trained, site="pre")
    stored = {layer: Stored(tensor, tensor.dtype) for layer, tensor in captured.items()}
    found = collect(path, stored, partial(StoredLayer, source=path), test_set_name(trained))
    return replace(found, ids=test_tokens(trained).flatten(), text=chr)
