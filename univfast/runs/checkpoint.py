"""The checkpoint of a run: how far it has come, and what it was given.

The one before is kept beside it, as ``NAME.previous``, and serves where the newest is damaged. Both
have a digest of all that they hold. How far a search behind a pass is stands in ``NAME.search``. A
run holds the lock of its checkpoint, so that no other writes to it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from univfast.checks import differ, shown
from univfast.errors import InputError
from univfast.machine.digests import DIGEST, digest_of, sealed, unsealed
from univfast.machine.files import check_writable, remove_unfinished, save_tensors
from univfast.machine.locks import Lock, lock_file
from univfast.runs.search_file import SearchFile

__all__ = ["Position", "SavedRun"]

_FORMAT = "univfast-run"
_VERSION = 3
_OLDER = (2,)  # without a digest
_REMEDY = "give the same arguments again, or name another checkpoint"
_PREVIOUS = ".previous"
_DEEPEST = 5  # of lists in lists, in a plan


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

    def problem(self) -> str | None:
        """What cannot be in the position of a run that was saved; None: nothing."""
        if not isinstance(self.plan, list) or not self.plan:
            return "its plan has no passes"
        if not all(_is_pass(entry) for entry in self.plan):
            return "a pass of its plan has no tokens"
        if type(self.number) is not int or not 0 <= self.number < len(self.plan):
            return f"its pass is {shown(self.number)} of {len(self.plan)}"
        if not isinstance(self.done, list) or not self.done or not all(map(_is_range, self.done)):
            return "the tokens that are done are no ranges"
        ends = [0, *(end for span in self.done for end in span), self.plan[self.number]["tokens"]]
        if ends != sorted(ends):
            return "the tokens that are done overlap, or are more than there are"
        if not isinstance(self.states, list) or not self.states:
            return "it has no sums"
        return None if isinstance(self.found, list) else "what was found is no list"


def _is_pass(entry: object) -> bool:
    tokens = entry.get("tokens") if isinstance(entry, dict) else None
    return type(tokens) is int and tokens > 0 and _is_plain(entry)


def _is_plain(value: object, depth: int = 0) -> bool:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return depth < _DEEPEST and all(_is_plain(each, depth + 1) for each in value)
    return type(value) in (int, str)


def _is_range(span: object) -> bool:
    if not isinstance(span, (tuple, list)) or len(span) != 2:
        return False
    return all(type(end) is int for end in span) and span[0] < span[1]


class _DamagedError(InputError):
    """A checkpoint that is none, or not as it was written."""


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
        self._previous = os.path.realpath(path) + _PREVIOUS
        self._every, self._identity = every, dict(identity)
        self._last = time.monotonic()
        self._lock: Lock | None = None
        self._good = False  # whether what is at the path may take the place of the one before
        self._digest: str | None = None  # of what was written or read last
        self._search = SearchFile(self.path)

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
        content = sealed(content)
        save_tensors(self.path, content, self._keep_previous)
        self._good, self._digest = True, content[DIGEST]
        self._search.remove()
        self._last = time.monotonic()

    def save_search(self, content: Mapping[str, Any]) -> None:
        """Writes how far the search behind the pass is whose sums were saved last.

        Raises:
            InputError: the file cannot be written.
        """
        if self._digest is not None:
            self._search.save(self._digest, content)
        self._last = time.monotonic()

    def load_search(self) -> dict[str, Any] | None:
        """What `save_search` wrote of these sums; None for nothing that can be gone on from."""
        return self._search.load(self._digest)

    def refuse_search(self, why: str) -> None:
        """Says that what `load_search` gave is of no use."""
        self._search.refuse(why)

    def load(self) -> Position | None:
        """Locks the checkpoint, and gives where the run was; None if there is no file yet.

        Raises:
            InputError: another run holds it; the file is no checkpoint, or that of other inputs or
                options; or could not be written.
        """
        check_writable(self.path)
        self._lock = lock_file(self.path)
        try:
            if self._lock.sure:  # else they may be those of a run that is alive
                remove_unfinished(self.path)
                self._search.remove_unfinished()
            return self._newest()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """A block in which what cannot be is the fault of this file.

        Raises:
            InputError: naming it.
        """
        try:
            yield
        except (InputError, TypeError) as error:
            reason = str(error).removeprefix("load_state_dict: ").partition("; was the state")[0]
            raise InputError(
                f"{self.path}: does not hold the state of a run ({reason}), so it was edited or is"
                " not of this univfast; name another checkpoint to start anew"
            ) from error

    def _newest(self) -> Position | None:
        """The newest that is whole."""
        if not os.path.exists(self.path):
            found = self._older() if os.path.exists(self._previous) else None
            if found is not None:
                self._say("is not there")
            return found
        try:
            position = self._read(self.path)
        except _DamagedError as error:
            found = self._older() if os.path.exists(self._previous) else None
            if found is None:
                raise
            self._say(str(error).removeprefix(f"{self.path}: ").partition(";")[0])
            return found
        self._good = True
        return position

    def _older(self) -> Position | None:
        """The one before; None where it is no better."""
        try:
            return self._read(self._previous)
        except InputError:
            return None

    def _say(self, what: str) -> None:
        warnings.warn(
            f"{self.path}: {what}; going on from the checkpoint before it, {self._previous}",
            stacklevel=2,
        )

    def _keep_previous(self) -> None:
        """Lets the file, where it is whole, be the one before; the newest takes its place next.

        Moved, not linked: two names of one file would be damaged together. A run that is killed
        between the two moves goes on from the one before.
        """
        target = os.path.realpath(self.path)
        if self._good and os.path.exists(target):
            os.replace(target, self._previous)

    def _read(self, path: str) -> Position:
        """What a file holds.

        Raises:
            _DamagedError: it is none that was written, or not as it was.
            InputError: it is that of other inputs, or of another version.
        """
        content = self._content(path)
        self._check_identity(path, content.get("identity"))
        try:
            position = Position(**{x.name: content[x.name] for x in fields(Position)})
        except KeyError as error:
            raise _DamagedError(f"{path}: is a checkpoint without {error}; {_REMEDY}") from error
        problem = position.problem()
        if problem is not None:
            raise _DamagedError(f"{path}: is damaged, {problem}; {_REMEDY}")
        position.done = [(start, stop) for start, stop in position.done]
        try:
            self._digest = content.get(DIGEST) or digest_of(content)
        except TypeError as error:  # older ones have none, so they were not looked at yet
            raise _DamagedError(f"{path}: is damaged, {error}; {_REMEDY}") from error
        return position

    def _content(self, path: str) -> dict[str, Any]:
        try:
            # Mapped, for the state may be as large as half of the memory.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # of many kinds, as the damage has it
            raise _DamagedError(
                f"{path}: cannot be read as a checkpoint of `univfast correlate`; {_REMEDY}"
            ) from error
        if not isinstance(content, dict) or differ(content.get("format"), _FORMAT):
            raise _DamagedError(f"{path}: is not a checkpoint of `univfast correlate`; {_REMEDY}")
        version = content.get("version")
        if type(version) is not int or version not in (*_OLDER, _VERSION):
            raise InputError(
                f"{path}: is a checkpoint of version {shown(version)}, this univfast reads"
                f" {' or '.join(map(str, (*_OLDER, _VERSION)))}; start anew with another checkpoint"
            )
        problem = unsealed(content) if version == _VERSION or DIGEST in content else None
        if problem is not None:
            raise _DamagedError(f"{path}: is damaged or was edited ({problem}); {_REMEDY}")
        return content

    def _check_identity(self, path: str, theirs: object) -> None:
        for key, value in self._identity.items():
            found = theirs.get(key) if isinstance(theirs, Mapping) else None
            if not differ(found, value):
                continue
            words = f", {shown(found)} instead of {shown(value)}"
            raise InputError(
                f"{path}: is the checkpoint of other {key}"
                f"{'' if 'activations' in key else words}; {_REMEDY}"
            )
