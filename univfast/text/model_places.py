"""Where in a directory a model is, and what it is made of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from univfast.errors import InputError
from univfast.inputs.model_paths import ADAPTER, is_adapter_directory, model_folder
from univfast.machine.reading import check_folder, read_json

__all__ = ["ModelPlace", "find_model", "has_tokenizer"]

# Without one of these the library would make up an empty tokenizer.
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "spiece.model", "sentencepiece*")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_MERGE = (
    "merge it in Python: AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload()"
    ".save_pretrained(OUT)"
)


@dataclass(frozen=True)
class ModelPlace:
    """What a model is loaded from.

    Attributes:
        folder: with its ``config.json`` and weights.
        tokenizer: the folder of its tokenizer, if it has one.
        adapter: the folder of what is put on it; None of most.
    """

    folder: str
    tokenizer: str
    adapter: str | None = None


def find_model(directory: str) -> ModelPlace:
    """Where the model of a directory is: in it, in its ``0_Transformer``, or named by an adapter.

    Raises:
        InputError: it holds none, or one of two; the base of an adapter is not here.
    """
    folder = model_folder(directory)
    if is_adapter_directory(directory):
        check_folder(directory)
        if any(path for name in _WEIGHTS for path in Path(directory).glob(name)):
            raise InputError(
                f"{directory}: holds a whole model, and an adapter to put on one ({ADAPTER}), so it"
                " is open which is meant; give each a directory of its own"
            )
        folder = _base(directory)
        check_folder(folder)
        return ModelPlace(folder, directory if has_tokenizer(directory) else folder, directory)
    if folder is None:
        raise InputError(
            f"{directory}: is not the directory of a Hugging Face model: it has no config.json "
            "that names one; name a directory that save_pretrained wrote"
        )
    check_folder(directory)
    check_folder(folder)
    return ModelPlace(folder, folder if has_tokenizer(folder) else directory)


def has_tokenizer(directory: str) -> bool:
    """Whether a directory has files of a tokenizer."""
    return any(found for name in _TOKENIZER for found in Path(directory).glob(name))


def _base(directory: str) -> str:
    """The directory of the model that an adapter is put on.

    Its path is taken from the working directory, or from beside the adapter.
    """
    named = read_json(os.path.join(directory, ADAPTER)).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InputError(
            f"{directory}: its {ADAPTER} names no base model (base_model_name_or_path); write the"
            f" path of its directory there, or {_MERGE}"
        )
    beside = os.path.join(os.path.dirname(os.path.realpath(directory)), named)
    found = {os.path.realpath(path): path for path in (named, beside) if model_folder(path)}
    if len(found) > 1:
        raise InputError(
            f"{directory}: its base {named!r} may be {' or '.join(found)}; write the whole path"
            f" into its {ADAPTER}"
        )
    if not found:
        raise InputError(
            f"{directory}: is an adapter to {named!r}, which is no directory of a model here;"
            f" write the path of one into base_model_name_or_path of its {ADAPTER}, or {_MERGE}"
        )
    (path,) = found.values()
    if is_adapter_directory(path):
        raise InputError(f"{directory}: its base {path} is an adapter itself; {_MERGE}")
    folder = model_folder(path)
    assert folder is not None
    return folder
