"""What a path would be read as, from headers alone: for people who ask before they compute."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.formats import format_of, read_file
from univfast.inputs.layers import LONE_LAYER, Activations, Layer
from univfast.inputs.model_paths import is_model_directory, is_model_file, is_saved_result
from univfast.inputs.pairing import check_whole, chosen_layers
from univfast.machine.reading import read_json
from univfast.machine.torch_state import in_plain_state

__all__ = ["Description", "describe"]

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Description:
    """What a path would be read as.

    Attributes:
        path: as it was given.
        kind: what it is.
        why: what tells that, and how names were understood: lines.
        layers: of each its name, ``neurons``, ``tokens``, ``shape``, ``dtype``.
        shards: how its layers are divided, by the names of files.
        unusable: what is beside the layers and would be refused unless layers are chosen, by name,
            with the reason.
        left_out: the layers that were not chosen.
    """

    path: str
    kind: str
    why: list[str] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@in_plain_state
def describe(
    path: str, files: str | None = None, layers: str | None = None, width: int | None = None
) -> Description:
    """What a path would be read as.

    Args:
        path: of a file or directory, as `correlate` takes it, or a model's, adapter's or result's.
        files: the pattern of the files of a directory.
        layers: glob pattern of the layers to use.
        width: how many sparse features there are, where the file does not say it.

    Raises:
        InputError: it would be refused.
    """
    if files is None and (known := _no_activations(path)) is not None:
        return known
    if files is not None and not os.path.isdir(path):
        raise InputError(f"files: is for directories of files, not for {path}; leave it out")
    found = open_activations(path, "path", files, width)
    if layers is None:
        check_whole(found)
    # Refuses what nothing matches; what is beside the layers is shown.
    chosen = chosen_layers(found, layers) if layers is not None else found.layers
    errors = {name: str(x) for name, x in found.unusable.items() if layers is None}
    beside = {*found.layers, *found.unusable} - {*chosen} - {*errors}
    kind, why = _kind(path, found)
    return Description(
        path,
        kind,
        [*why, *found.reading],
        [_layer(layer) for layer in chosen.values()],
        list(found.parts),
        errors,
        sorted(beside),
    )


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "neurons": layer.neurons,
        "tokens": layer.tokens,
        "shape": list(layer.shape),
        "dtype": str(layer.dtype).removeprefix("torch."),
    }


def _kind(path: str, found: Activations) -> tuple[str, list[str]]:
    if not os.path.isdir(path):
        known = format_of(path)
        return f"a file of activations ({known.name})", [known.mark] if known.mark else []
    if found.captured is not None:
        return "a capture", []
    return "a directory of activations", []


def _no_activations(path: str) -> Description | None:
    """Of a model, an adapter or a result, what it is."""
    if os.path.isdir(path):
        if is_saved_result(path):
            return Description(path, "a saved result", ["summary.json and neurons.csv are in it"])
        if os.path.isfile(os.path.join(path, _ADAPTER)):
            config = read_json(os.path.join(path, _ADAPTER))
            base = config.get("base_model_name_or_path")
            return Description(path, "an adapter", [f"{_ADAPTER}: of {base}"])
        if is_model_directory(path):
            config = read_json(os.path.join(path, "config.json"))
            what = config.get("architectures") or config.get("model_type")
            names = ", ".join(map(str, what)) if isinstance(what, list) else str(what)
            why = f"config.json: {names}; it is run on a text, or on what else it reads"
            return Description(path, "a Hugging Face model", [why])
        return None
    if format_of(path).name == "torch" and is_model_file(read_file(path, LONE_LAYER)):
        why = "its own test set is read, and its activations are captured on the way"
        return Description(path, "a model file of univfast train", [why])
    return None
