"""How far the search behind a pass is: a small file beside the checkpoint, which holds the sums.

It names the checkpoint that it belongs to by its digest, and is nothing beside any other. One that
is damaged costs the search of one pass, which begins anew.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from univfast.checks import differ
from univfast.machine.digests import sealed, unsealed
from univfast.machine.files import remove_unfinished, save_tensors

__all__ = ["SearchFile"]

_FORMAT = "univfast-search"
_VERSION = 1
_SUFFIX = ".search"


class SearchFile:
    """The file of a search, replaced whole each time.

    Args:
        checkpoint: the path of the checkpoint beside which it is.
    """

    def __init__(self, checkpoint: str) -> None:
        self.path = os.path.realpath(checkpoint) + _SUFFIX

    def save(self, digest: str, content: Mapping[str, Any]) -> None:
        """Writes plain values and tensors, of the checkpoint of this digest.

        Raises:
            InputError: the file cannot be written.
        """
        named = {"format": _FORMAT, "version": _VERSION, "checkpoint": digest}
        save_tensors(self.path, sealed({**content, **named}))

    def load(self, digest: str | None) -> dict[str, Any] | None:
        """What was saved beside the checkpoint of this digest; None for nothing.

        Nor where the file is damaged, which is warned of.
        """
        if digest is None or not os.path.exists(self.path):
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # of many kinds, as the damage has it
            content = None
        problem = _problem(content)
        if problem is not None:
            self.refuse(problem)
            return None
        found: dict[str, Any] = content
        return None if differ(found.get("checkpoint"), digest) else found

    def refuse(self, why: str) -> None:
        """Says that it is of no use."""
        warnings.warn(f"{self.path}: {why}; the search of this pass begins anew", stacklevel=2)

    def remove(self) -> None:
        """Removes it, as none of the checkpoint that is there now."""
        with suppress(OSError):
            os.unlink(self.path)

    def remove_unfinished(self) -> None:
        """Removes what processes that were killed while they wrote it have left."""
        remove_unfinished(self.path)


def _problem(content: object) -> str | None:
    """Why what a file holds is not the state of a search; None: it is."""
    if not isinstance(content, dict) or differ(content.get("format"), _FORMAT):
        return "cannot be read as the state of a search"
    if differ(content.get("version"), _VERSION):
        return "is of another univfast"
    problem = unsealed(content)
    return None if problem is None else f"is damaged or was edited ({problem})"
