"""What marks the files and directories that are read."""

from __future__ import annotations

import json
import os
from typing import Any, TypeGuard

__all__ = ["MODEL_FILE_FORMAT", "is_model_directory", "is_model_file", "read_json"]

MODEL_FILE_FORMAT = "univfast-checkpoint"


def is_model_file(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether a loaded object claims to be a model file of ``univfast train``."""
    kind = content.get("format") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind == MODEL_FILE_FORMAT


def is_model_directory(path: str | os.PathLike[str]) -> bool:
    """Whether a directory has a ``config.json`` that says which Hugging Face model it is."""
    config = read_json(os.path.join(path, "config.json"))
    return "model_type" in config or "architectures" in config


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        with open(path, encoding="utf-8") as text:
            content = json.load(text)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
