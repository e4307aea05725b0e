"""The states of a pass that is dealt: each process writes its own beside the checkpoint.

The checkpoint names the generation of the parts that belong to it, and the digest of each. The
parts of the checkpoint before are kept as long as that is.
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from univfast.checks import differ
from univfast.errors import InputError
from univfast.machine.digests import DIGEST, sealed, unsealed
from univfast.machine.files import check_writable, save_tensors
from univfast.machine.processes import Processes

__all__ = ["Parts"]

_FORMAT = "univfast-run-part"


class Parts:
    """The parts of a checkpoint; all processes call the same methods.

    Args:
        path: of the checkpoint.
        processes: that have a part each; None for this one alone, which has none and removes them.
    """

    def __init__(self, path: str, processes: Processes | None) -> None:
        self._path, self._processes = path, processes
        self._target = os.path.realpath(path)
        self._kept = 0  # generation of the parts that the checkpoint now names; 0: it has none

    def check_place(self) -> InputError | None:
        """Why this process could not write its part; None: it could."""
        try:
            check_writable(self._path)
        except InputError as error:
            return error
        return None

    def save(self, states: Sequence[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
        """Writes this process's states, of so many tokens.

        Returns:
            What the checkpoint holds in their place.

        Raises:
            InputError: they cannot be written, here or in another process.
        """
        assert self._processes is not None
        generation = 1 + max(self._processes.gather(max((0, self._kept, *self._there().values()))))
        content = sealed(
            {
                "format": _FORMAT,
                "generation": generation,
                "part": self._processes.rank,
                "parts": self._processes.count,
                "states": list(states),
            }
        )
        failure = None
        try:
            save_tensors(self._name(generation), content)
        except InputError as error:
            failure = error
        digests = self._processes.gather(None if failure else content[DIGEST])
        if failure is not None:
            raise failure
        if None in digests:
            raise InputError("another process stopped; its message says why")
        return [{"tokens": tokens, "generation": generation, "parts": digests}]

    def named(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes note that the checkpoint now holds these states, and removes parts of older ones.

        Those that the checkpoint named before belong to the one before it.
        """
        before, self._kept = self._kept, _generation(states)
        for path, generation in self._there().items():
            if generation not in (before, self._kept):
                with suppress(OSError):  # another process was there first
                    os.unlink(path)

    def load(self, states: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        """This process's states, of what `save` gave, which is the same in every process.

        Returns:
            None, in every process, where a part is not as it was written; which process 0 warns of.
        """
        assert self._processes is not None
        self._kept = _generation(states)
        found: list[Any] = []
        parts = states[0].get("parts") if len(states) == 1 else None
        problem = "parts of another number of processes"
        if isinstance(parts, list) and len(parts) == self._processes.count:
            problem = self._read(states[0], found)
        problems = [x for x in self._processes.gather(problem) if x]
        if problems and self._processes.rank == 0:
            self.warn(problems[0])
        return None if problems else found

    def warn(self, problem: str) -> None:
        """Says why the pass under way is not gone on with."""
        warnings.warn(
            f"{self._path}: {problem}; going on with what was found before, the pass that was under"
            " way starts from its beginning",
            stacklevel=2,
        )

    def _read(self, state: Mapping[str, Any], found: list[Any]) -> str:
        """Fills ``found`` with this process's states; why it cannot, or nothing."""
        assert self._processes is not None
        path = self._name(_generation([state]))
        if not os.path.exists(path):
            return f"its part {path} is not there"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # of many kinds, as the damage has it
            return f"its part {path} cannot be read"
        rank = self._processes.rank
        if not isinstance(content, dict) or differ(content.get("format"), _FORMAT):
            return f"its part {path} is none"
        if content.get(DIGEST) != state["parts"][rank] or unsealed(content) is not None:
            return f"its part {path} is not the one that was written with it"
        found += content["states"]
        return ""

    def _name(self, generation: int) -> str:
        assert self._processes is not None
        part, parts = self._processes.rank + 1, self._processes.count
        return f"{self._target}.part-{part}-of-{parts}.{generation}"

    def _there(self) -> dict[str, int]:
        """The parts beside the checkpoint, of whatever process, and their generations."""
        found = {}
        for path in glob.glob(f"{glob.escape(self._target)}.part-*"):
            match = re.fullmatch(r"\.part-\d+-of-\d+\.(\d+)", path[len(self._target) :])
            if match:
                found[path] = int(match[1])
        return found


def _generation(states: Sequence[Mapping[str, Any]]) -> int:
    """Of the parts that a checkpoint names; 0 where it holds the states themselves."""
    found = states[0].get("generation") if states else None
    return found if type(found) is int else 0
