"""The directory of a control: a model as save_pretrained writes it, and beside it what it is.

``univfast_control.pt`` is a plain dict of ``torch.save``, which loads with ``weights_only=True``:
``format``, ``version``, the fields of `ControlNote`, the ``shifts`` by place, and a digest of the
``weights`` that they belong to. Loaded without univfast, the model is one without its shifts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from univfast.checks import as_seed
from univfast.controls import add_shifts, shifts_of, weights_digest
from univfast.controls.shifts import BUFFERS
from univfast.errors import InputError
from univfast.inputs.torch_files import load_plain
from univfast.machine.files import making_directory, save_tensors
from univfast.text.library import one_line, silent

__all__ = ["NOTE", "ControlNote", "apply_note", "save_control"]

NOTE = "univfast_control.pt"
_FORMAT, _VERSION = "univfast-control", 1
_REMEDY = "make the control again with `univfast control`"
# Files of a tokenizer, and of nothing else: a directory may have code and weights beside it.
_TOKENIZER = (
    "tokenizer*.json",
    "tokenizer*.model",
    "vocab*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


@dataclass(frozen=True)
class ControlNote:
    """How a control was made.

    Attributes:
        seed: of its weights.
        matched_on: what its rates were matched on, as plain values to report; None for a plain
            control.
    """

    seed: int
    matched_on: Mapping[str, object] | None


def save_control(out: str, directory: str, control: Any, note: ControlNote) -> None:
    """Writes a control to a directory, whole or not at all.

    Args:
        out: the directory; not there, or empty.
        directory: of the trained model's tokenizer, which is copied.
        control: the network, of Hugging Face transformers.
        note: how it was made.

    Raises:
        InputError: it is there already, or cannot be written.
    """
    weights = {
        name: value for name, value in control.state_dict().items() if not name.endswith(BUFFERS)
    }
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "seed": note.seed,
        "matched_on": None if note.matched_on is None else dict(note.matched_on),
        "weights": weights_digest(control).hex(),
        "shifts": {place: shift.cpu() for place, shift in shifts_of(control).items()},
    }
    with making_directory(out) as folder:
        try:
            with silent():
                control.save_pretrained(folder, state_dict=weights)
        except OSError:
            raise
        except Exception as error:  # of the library, and of those that it writes with
            raise InputError(
                f"{out}: cannot be written ({one_line(error)}); is the disk full?"
            ) from error
        for pattern in _TOKENIZER:
            for path in Path(directory).glob(pattern):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        save_tensors(folder / NOTE, content)


def apply_note(directory: str, module: Any) -> ControlNote | None:
    """What a directory says of its model as a control, whose shifts are put on; None of no control.

    Raises:
        InputError: what it says is damaged, or of another network.
    """
    path = Path(directory) / NOTE
    if not os.path.lexists(path):
        return None
    try:
        content = load_plain(str(path))
    except InputError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: is damaged ({why}); {_REMEDY}") from error
    try:
        seed, matched_on, shifts = _checked(content)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({one_line(error)}); {_REMEDY}") from error
    if content.get("weights") != weights_digest(module).hex():
        raise InputError(f"{path}: is of another network than the weights beside it; {_REMEDY}")
    add_shifts(module, shifts, str(path))
    return ControlNote(seed, matched_on)


def _checked(content: object) -> tuple[int, dict[str, object] | None, dict[str, Tensor]]:
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError("does not say how a control was made")
    if content.get("version") != _VERSION:
        raise InputError(f"has version {content.get('version')!r}, this univfast reads {_VERSION}")
    matched_on, shifts = content["matched_on"], content["shifts"]
    if not isinstance(matched_on, (dict, type(None))) or not isinstance(shifts, dict):
        raise TypeError("matched_on and shifts must be dicts")
    for place, shift in shifts.items():
        fits = isinstance(place, str) and isinstance(shift, Tensor) and shift.dim() == 1
        if not fits or not shift.is_floating_point() or not bool(shift.isfinite().all()):
            raise TypeError(f"the shift of {place!r} is no finite [neurons]")
    return as_seed(content["seed"]), matched_on, shifts
