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
from univfast.inputs.layers import LONE_LAYER, Activations, StoredLayer, collect
from univfast.inputs.model_paths import is_model_file
from univfast.inputs.stored import Stored, from_memory
from univfast.inputs.stores import STORES
from univfast.registry import resolve

__all__ = ["check_files", "open_activations", "open_controls", "open_models"]


def open_activations(source: object, name: str, files: str | None = None) -> Activations:
    """Activations from a tensor, an array, a dict of layer name to these, a file or a directory.

    Args:
        source: ``[..., neurons]`` in float64, float32, float16 or bfloat16 as a torch.Tensor, a
            NumPy array or an object with ``__dlpack__``, alone (its layer is then called
            ``activations``) or in a dict; or the path of a ``.pt``, ``.npy``, ``.npz`` or
            ``.safetensors`` file, or of a model file of ``univfast train``, whose activations are
            captured. Files are mapped and read in place; members of a compressed ``.npz``
            and files in PyTorch's format from before version 1.6 are loaded whole. Or that of a
            directory of shards or a Hugging Face dataset, as ``open_directory`` reads them; or of
            what other tools wrote, as ``univfast.stores`` does.
        name: what to call ``source`` in errors where it has no file name.
        files: the pattern of the files, where it is a directory; None where their names say it.

    Raises:
        InputError: a file that cannot be read, or what cannot be activations.
        TypeError: ``source`` is none of these.
    """
    if isinstance(source, Activations):
        return source
    if isinstance(source, (str, os.PathLike)):
        check_path(name, source)
        return _open_path(os.fsdecode(source), files)
    if isinstance(source, Mapping):
        for layer in source:
            if not isinstance(layer, str):
                raise TypeError(f"{name}: layer names must be str, found {type(layer).__name__}")
        values = {plain_text(layer): value for layer, value in source.items()}
    elif isinstance(source, (torch.Tensor, np.ndarray)) or hasattr(source, "__dlpack__"):
        values = {LONE_LAYER: source}
    else:
        raise TypeError(
            f"{name}: expected a tensor, an array, a dict of layers or a path, "
            f"found {type(source).__name__}"
            + ("; pass its .to_numpy()" if hasattr(source, "to_numpy") else "")
        )
    stored = {
        layer: from_memory(value, f"{name}: layer {layer!r}", TypeError)
        for layer, value in values.items()
    }
    return collect(name, stored, partial(StoredLayer, source=name))


def open_models(given: object, name: str, files: str | None = None) -> list[Activations]:
    """Each of a list of models, or the only one; as `open_activations` opens them.

    Raises:
        InputError: the list is empty.
    """
    if not isinstance(given, (list, tuple)):
        return [open_activations(given, name, files)]
    if not given:
        raise InputError(f"{name}: got no models; give at least one")
    return [open_activations(x, f"{name}[{i}]", files) for i, x in enumerate(given)]


def open_controls(
    given: object, name: str, others: int, files: str | None = None
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
        return [open_models(given, name, files)]
    if not isinstance(given, (list, tuple)) or len(given) != others:
        found = len(given) if isinstance(given, (list, tuple)) else 1
        raise InputError(
            f"{name}: got {found}, and there are {others} other models; give a list of controls for"
            " each of them, in their order"
        )
    return [open_models(of_one, f"{name}[{i}]", files) for i, of_one in enumerate(given)]


def _told(content: Mapping[str, Stored | InputError]) -> Iterator[str]:
    """What of the arrays of a file is not as the file says."""
    for name, stored in content.items():
        if isinstance(stored, InputError):
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
        elif isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
            return
    if files is not None:
        raise InputError("files: is for directories of files, and none was given; leave it out")


def _open_path(path: str, files: str | None = None) -> Activations:
    if os.path.isdir(path):
        store = next((store for store in STORES.values() if store.is_that(path)), None)
        if files is not None or store is None:
            return open_directory(path, files)
        stored_there: Activations = resolve(store.opener)(path)
        return stored_there
    if (whole := open_whole(path)) is not None:
        return whole
    content = read_file(path, LONE_LAYER)
    if not is_model_file(content):
        found = collect(path, content, partial(StoredLayer, source=path))
        return replace(found, reading=tuple(_told(content)))
    # Only a model file needs the model, and only then is it imported.
    from univfast.experiment import capture_mlp, from_dict, test_set_name, test_tokens

    trained = from_dict(content, path)
    captured = capture_mlp(trained, site="pre")
    stored = {layer: Stored(tensor, tensor.dtype) for layer, tensor in captured.items()}
    found = collect(path, stored, partial(StoredLayer, source=path), test_set_name(trained))
    return replace(found, ids=test_tokens(trained).flatten(), text=chr)
