"""What marks the files and directories that are read."""

from __future__ import annotations

import os
from typing import Any, TypeGuard

from univfast.errors import InputError
from univfast.machine.reading import MOST_JSON, open_file, parse_json, reason

__all__ = [
    "ADAPTER",
    "MODEL_FILE_FORMAT",
    "is_adapter_directory",
    "is_model_directory",
    "is_model_file",
    "is_saved_result",
    "model_folder",
]

MODEL_FILE_FORMAT = "univfast-checkpoint"
ADAPTER = "adapter_config.json"
"""What says, in the directory of an adapter, what it is put on."""

# Of sentence-transformers: lists parts, of which the one that is a model may have its own folder.
_PARTS = "modules.json"
_TRANSFORMER = "0_Transformer"


def is_model_file(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether a loaded object claims to be a model file of ``univfast train``."""
    kind = content.get("format") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind == MODEL_FILE_FORMAT


def is_model_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is that of a Hugging Face model, of a sentence encoder or an adapter.

    Raises:
        InputError: it has a ``config.json``, or such, that is no regular file, or cannot be read.
    """
    return model_folder(path) is not None or is_adapter_directory(path)


def model_folder(path: str | os.PathLike[str]) -> str | None:
    """Where in a directory the ``config.json`` is that says which Hugging Face model it is.

    In the directory itself; or, as sentence-transformers has it, in its ``0_Transformer``.

    Raises:
        InputError: as `is_model_directory`.
    """
    inside = os.path.join(path, _TRANSFORMER)
    folders = [path, inside] if os.path.lexists(os.path.join(path, _PARTS)) else [path]
    for folder in folders:
        config = _json(os.path.join(folder, "config.json"))
        if "model_type" in config or "architectures" in config:
            return os.fspath(folder)
    return None


def is_adapter_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is that of an adapter, as ``peft`` saves it.

    Raises:
        InputError: as `is_model_directory`.
    """
    return "peft_type" in _json(os.path.join(path, ADAPTER))


def _json(file: str) -> dict[str, Any]:
    """The object in a file; empty where there is none, or one of some other program."""
    if not os.path.lexists(file):
        return {}
    with open_file(file) as opened:
        try:
            text = opened.read(MOST_JSON)  # what is cut off here is no JSON any more
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({reason(error)}); check the file") from error
    try:
        return parse_json(text)
    except ValueError:
        return {}


def is_saved_result(path: str) -> bool:
    """Whether a directory is a result that was written, whose arrays are no activations."""
    names = ("summary.json", "neurons.csv")
    return all(os.path.isfile(os.path.join(path, name)) for name in names)
