"""What marks the files and directories that are read."""

from __future__ import annotations

import os
from typing import Any, TypeGuard

from univfast.errors import InputError
from univfast.machine.reading import MOST_JSON, open_file, parse_json, reason

__all__ = ["MODEL_FILE_FORMAT", "is_model_directory", "is_model_file", "is_saved_result"]

MODEL_FILE_FORMAT = "univfast-checkpoint"


def is_model_file(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether a loaded object claims to be a model file of ``univfast train``."""
    kind = content.get("format") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind == MODEL_FILE_FORMAT


def is_model_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory has a ``config.json`` that says which Hugging Face model it is.

    Raises:
        InputError: it has one that is no regular file, or cannot be read.
    """
    file = os.path.join(path, "config.json")
    if not os.path.lexists(file):
        return False
    with open_file(file) as opened:
        try:
            text = opened.read(MOST_JSON)  # what is cut off here is no JSON any more
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({reason(error)}); check the file") from error
    try:
        config = parse_json(text)
    except ValueError:
        return False  # some other program's
    return "model_type" in config or "architectures" in config


def is_saved_result(path: str) -> bool:
    """Whether a directory is a result that was written, whose arrays are no activations."""
    names = ("summary.json", "neurons.csv")
    return all(os.path.isfile(os.path.join(path, name)) for name in names)
