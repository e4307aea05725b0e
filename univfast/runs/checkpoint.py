"""The checkpoint of a run: how far it has come, and what it was given."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from univfast.errors import InputError
from univfast.machine.files import check_writable, remove_unfinished, save_tensors

__all__ = ["Position", "SavedRun"]

_FORMAT = "univfast-run"
_VERSION = 2
_REMEDY = "give the same arguments again, or name another checkpoint"


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        plan: what each pass does, as plain values.
        number: of the pass that is under way.
        done: first token and last token + 1 of what its sums hold, in order.
        states: its sums.
        found: what the passes before have found.
    """

    plan: list[Any]
    number: int = 0
    done: list[tuple[int, int]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)


class SavedRun:
    """A checkpoint file, replaced whole each time.

    Args:
        path: of the file, which need not be there.
        every: seconds between two checkpoints.
        identity: inputs and options of the run, as plain values: what a checkpoint must have to go
            on from it.
    """

    def __init__(
        self, path: str | os.PathLike[str], every: float, identity: Mapping[str, Any]
    ) -> None:
        self.path = os.fspath(path)
        self._every, self._identity = every, dict(identity)
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._every

    def save(self, position: Position) -> None:
        """Writes where the run is.

        Raises:
            InputError: the file cannot be written.
        """
        # By hand: `asdict` would copy the states.
        content = {x.name: getattr(position, x.name) for x in fields(position)}
        content.update(format=_FORMAT, version=_VERSION, identity=self._identity)
        save_tensors(self.path, content)
        self._last = time.monotonic()

    def load(self) -> Position | None:
        """Where the run was when it was saved; None if there is no file yet.

        Raises:
            InputError: the file is no checkpoint, or that of other inputs or options; or could not
                be written.
        """
        check_writable(self.path)
        remove_unfinished(self.path)
        if not os.path.exists(self.path):
            return None
        content = self._read()
        theirs = content.get("identity")
        for key, value in self._identity.items():
            found = theirs.get(key) if isinstance(theirs, Mapping) else None
            if found == value:
                continue
            shown = "" if "activations" in key else f", {found!r} instead of {value!r}"
            raise InputError(f"{self.path}: is the checkpoint of other {key}{shown}; {_REMEDY}")
        try:
            values = {x.name: content[x.name] for x in fields(Position)}
        except KeyError as error:
            raise InputError(f"{self.path}: is a checkpoint without {error}; {_REMEDY}") from error
        return Position(**values)

    def _read(self) -> dict[str, Any]:
        try:
            # Mapped, for the state may be as large as half of the memory.
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
            raise InputError(
                f"{self.path}: cannot be read as a checkpoint of `univfast correlate`; {_REMEDY}"
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InputError(f"{self.path}: is not a checkpoint of `univfast correlate`; {_REMEDY}")
        if content.get("version") != _VERSION:
            raise InputError(
                f"{self.path}: is a checkpoint of version {content.get('version')!r}, this univfast"
                f" reads {_VERSION}; start anew with another checkpoint"
            )
        return content
