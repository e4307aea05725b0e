"""Passes over activations that can be interrupted, killed, and shared by several processes.

A pass is cut into slices of tokens. Each process takes neighbouring ones, and after each slice all
agree on whether to go on. What is saved is the sums of all of them and which tokens they hold, so
that any number of processes can go on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor

from univfast.checks import shown
from univfast.errors import InputError
from univfast.machine.processes import Processes
from univfast.machine.signals import noted
from univfast.runs.checkpoint import Position, SavedRun
from univfast.runs.parts import Parts
from univfast.runs.passes import Pass, Range
from univfast.runs.sharding import dealt_to

__all__ = ["Interrupted", "Progress", "Run", "check_same"]

# Seconds in which a second signal is taken for the first one sent again, as launchers do.
_REPEATED = 1.0

# Called with the number of tokens done, over all passes, and their total.
Progress = Callable[[int, int], None]


class Way(Protocol):
    """What the passes of a run are, and what they find."""

    def plan(self, limit: float, done: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """The passes behind those that are done, in so many bytes of each process."""

    def check_plan(self, plan: Sequence[dict[str, Any]]) -> None:
        """Refuses a plan that is none of the inputs'."""

    def check_memory(self, rest: Sequence[dict[str, Any]], limit: float) -> None:
        """Refuses passes that take more bytes."""

    def load(
        self, found: object, done: Sequence[dict[str, Any]], kept: Callable[[int], int]
    ) -> None:
        """Takes what passes have found; ``kept`` of the first so many tokens are used."""


class Interrupted(KeyboardInterrupt):
    """A run was interrupted, and its state saved; the message says where."""


class Run:
    """Some passes over tokens, one after another; a context, which holds the checkpoint's lock.

    Args:
        plan: what each pass does, as plain values; ``tokens`` is how many it reads, from the first,
            or how many neurons it searches for, with so many ``pairs`` each.
        keep: true for the tokens to use, bool ``[tokens]``; None for all.
        saved: the checkpoint; None for none.
        processes: those that share the work; None for this one alone.
        progress: called after each slice of tokens.
        search_progress: called after each slice of neurons, with pairs.
        say: called with what is done that progress does not show; with nothing at its end.

    Raises:
        InputError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        plan: list[dict[str, Any]],
        keep: Tensor | None,
        saved: SavedRun | None,
        processes: Processes | None,
        progress: Progress | None,
        search_progress: Progress | None = None,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._keep = keep
        self.saved, self._processes, self._say = saved, processes, say
        self._progress, self._search_progress = progress, search_progress
        self._rank = 0 if processes is None else processes.rank
        self._position = Position(plan)
        self._parts = None if saved is None else Parts(saved.path, processes)
        with self.by_first() as first:
            if first and saved is not None:
                self._position = saved.load() or self._position
        if processes is not None:
            # Process 0 keeps the sums of a checkpoint to itself.
            now = self._position
            known = processes.gather(Position(now.plan, now.number, now.done))[0]
            self._position = known if processes.rank else now

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.saved is not None:
            self.saved.close()

    def go_on(self, way: Way, limit: float) -> None:
        """Goes on from the checkpoint, where there is one, in so many bytes of each process.

        Raises:
            InputError: naming the checkpoint, or the limit, where what is left takes more.
        """
        if self.saved is not None:
            with self.saved.blamed():
                way.check_plan(self.plan)
            with self.by_first() as first:
                if first and self._position.states:
                    with self.saved.blamed():
                        way.load(
                            self.found, self.plan[: self.first], lambda n: self._kept([(0, n)])
                        )
            self._deal_anew(way, limit)
            if self._parts is not None and any(map(dealt_to, self.plan[self.first :])):
                self._agree(self._parts.check_place(), False)
        way.check_memory(self.plan[self.first :], limit)

    def _deal_anew(self, way: Way, limit: float) -> None:
        """Plans the passes anew that cannot be gone on with, for they are dealt to others."""
        count = 1 if self._processes is None else self._processes.count
        position = self._position
        others = [dealt_to(entry) not in (None, count) for entry in self.plan]
        if not any(others[self.first :]):
            return
        if others[self.first] and position.done:
            position.done, position.states = [], []
            if self._rank == 0 and self._parts is not None:
                was = dealt_to(self.plan[self.first])
                self._parts.warn(
                    f"the pass under way was dealt to {was} processes, these are {count}"
                )
        # One whose tokens are shared is gone on with.
        kept = self.plan[: self.first + (not others[self.first])]
        position.plan = [*kept, *way.plan(limit, kept)]

    @property
    def plan(self) -> list[dict[str, Any]]:
        """What each pass does: that of the checkpoint, where there is one."""
        return self._position.plan

    @property
    def first(self) -> int:
        """Number of the pass to begin with."""
        return self._position.number

    @property
    def found(self) -> list[Any]:
        """What the passes before it have found; empty but in process 0."""
        return self._position.found

    def do(self, number: int, work: Pass, found: Callable[[], list[Any]]) -> None:
        """Does a pass, or what is left of it; the sums are then in process 0, and saved.

        Args:
            number: of the pass.
            work: what it does.
            found: gives what the passes before have found, to be saved.

        Raises:
            InputError: what `work` raises, or another process died.
            Interrupted: by a signal, after the checkpoint was written.
        """
        if number != self._position.number:
            self._position = Position(self._position.plan, number)
        position, processes = self._position, self._processes
        dealt = dealt_to(self.plan[number]) is not None
        self._load(work, position, dealt)
        position.states = []
        count = 1 if processes is None else processes.count
        remaining = _remaining(self.plan[number]["tokens"], position.done, work.step)
        shares = [remaining] * count if dealt else _shares(remaining, count)
        self._tell()
        with self.signals() as interrupted:
            saved = stop = False
            for i in range(len(shares[-1])):
                failure = self._take(work, shares[self._rank], i)
                save, stop = self._agree(failure, interrupted())
                ranges = {share[i] for share in shares if i < len(share)}
                position.done = _merged([*position.done, *ranges])
                self._tell()
                saved = save and not stop
                if saved:
                    self._save(work, found, dealt)
                if stop:
                    break
            if shares[-1] and not saved:
                self._save(work, found, dealt)
            if stop or self._agree(None, interrupted())[1]:
                raise Interrupted(self._where())

    def _load(self, work: Pass, position: Position, dealt: bool) -> None:
        """Goes on from the states of a checkpoint, if this is the pass that they are of."""
        if dealt:
            self._load_part(work, position)
            return
        with self.by_first() as first:
            if first and position.states:
                assert self.saved is not None
                with self.saved.blamed():
                    self._check_held(position.states, position.done)
                    work.load(position.states)

    def _load_part(self, work: Pass, position: Position) -> None:
        """Each process's own; where one is lost, all start the pass from its beginning."""
        assert self._processes is not None
        named = self._processes.gather(position.states)[0]
        if not named:
            return
        assert self.saved is not None
        assert self._parts is not None
        with self.saved.blamed():
            self._check_held(named, position.done)
        states, failure = self._parts.load(named), None
        if states is None:
            position.done = []
            return
        try:
            with self.saved.blamed():
                work.load(states)
        except InputError as error:
            failure = error
        self._agree(failure, False)

    def _kept(self, ranges: Sequence[Range]) -> int:
        """Tokens in some ranges that are used."""
        if self._keep is None:
            return sum(stop - start for start, stop in ranges)
        return sum(int(self._keep[start:stop].sum()) for start, stop in ranges)

    @property
    def _over_neurons(self) -> bool:
        """Whether the pass under way searches neurons, which stand in a plan as tokens do."""
        return "search" in self.plan[self._position.number]

    def _check_held(self, states: Sequence[Any], done: Sequence[Range]) -> None:
        """Refuses sums of other tokens than those that are done."""
        held = sum(j - i for i, j in done) if self._over_neurons else self._kept(done)
        for state in states:
            tokens = state.get("tokens") if isinstance(state, dict) else None
            if type(tokens) is not int or tokens != held:
                raise InputError(
                    f"its sums are of {shown(tokens)} tokens, and {held} are marked as done"
                )

    def signals(self) -> AbstractContextManager[Callable[[], bool]]:
        """Whether a signal came; where nothing is saved, it ends the run at once."""
        return nullcontext(lambda: False) if self.saved is None else noted(_REPEATED)

    def _take(self, work: Pass, share: Sequence[Range], i: int) -> Exception | None:
        """The slice of this process; what fails is told the others first."""
        if i >= len(share):
            return None
        try:
            work.update(share[i], share[i + 1] if i + 1 < len(share) else None, self._keep)
        except Exception as error:
            if self._processes is None:
                raise
            return error
        return None

    def _agree(self, failure: Exception | None, interrupted: bool) -> tuple[bool, bool]:
        """Whether to save now, and whether to stop."""
        due = self._rank == 0 and self.saved is not None and self.saved.due
        if self._processes is None:
            return due, interrupted
        flags = [due, interrupted, failure is not None]
        due, interrupted, failed = self._processes.any_set(flags)
        if failure is not None:
            raise failure
        if failed:
            raise InputError("another process stopped; its message says why")
        return due, interrupted

    def _save(self, work: Pass, found: Callable[[], list[Any]], dealt: bool) -> None:
        """Has process 0 write the checkpoint, if there is one, with all sums.

        It gets them from the others, but of a pass that is dealt, where each writes its own.
        """
        now, named = self._position, None
        if dealt and self._parts is not None:
            self._speak("writing the checkpoint")
            named = self._parts.save(work.states(), self._kept(now.done))
        elif self._processes is not None and not dealt:
            self._speak("adding the sums of all processes")
            work.reduce()
        self._speak("")
        if self.saved is None:
            return
        with self.by_first() as first:
            if first:
                self._speak("writing the checkpoint")
                states = work.states() if named is None else named
                self.saved.save(Position(now.plan, now.number, now.done, states, found()))
        assert self._parts is not None
        self._parts.named(named or [])
        self._speak("")

    @contextmanager
    def by_first(self) -> Iterator[bool]:
        """A block of process 0 alone, which the others await; of this one, where there are none."""
        if self._processes is None:
            yield True
            return
        with self._processes.first_alone() as first:
            yield first

    def _speak(self, words: str) -> None:
        if self._rank == 0:
            self._say(words)

    def _tell(self) -> None:
        """Tells of all passes that are over tokens, or of all that are over neurons."""
        search, number = self._over_neurons, self._position.number
        progress = self._search_progress if search else self._progress
        if progress is None:
            return
        each = [
            entry.get("pairs", 1) if ("search" in entry) == search else 0 for entry in self.plan
        ]
        total = [entry["tokens"] * one for entry, one in zip(self.plan, each, strict=True)]
        done = sum(stop - start for start, stop in self._position.done) * each[number]
        progress(sum(total[:number]) + done, sum(total))

    def _where(self) -> str:
        done = sum(stop - start for start, stop in self._position.done)
        unit = "neurons" if self._over_neurons else "tokens"
        return self.where(done, self.plan[self._position.number]["tokens"], unit)

    def where(self, done: int, total: int, unit: str) -> str:
        """What a run that is interrupted says."""
        assert self.saved is not None
        return (
            f"Interrupted after {done} of {total} {unit}, which are saved in {self.saved.path}: the"
            " same command goes on from there."
        )


def _remaining(tokens: int, done: Sequence[Range], step: int) -> list[Range]:
    """Slices of the tokens that are not done, ``step`` at a time."""
    starts = [0, *(stop for _, stop in done)]
    stops = [*(start for start, _ in done), tokens]
    return [
        (first, min(first + step, stop))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, step)
    ]


def _shares(slices: list[Range], count: int) -> list[list[Range]]:
    """Neighbouring slices for each process; the last has the most."""
    ends = [len(slices) * i // count for i in range(count + 1)]
    return [slices[i:j] for i, j in pairwise(ends)]


def _merged(ranges: Sequence[Range]) -> list[Range]:
    """The same tokens in as few ranges as possible, in order."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], stop
        else:
            merged.append((start, stop))
    return merged


def check_same(identities: Sequence[dict[str, Any]]) -> None:
    """Refuses to share work among processes that were given something else.

    Raises:
        InputError: naming what differs.
    """
    for rank, theirs in enumerate(identities):
        for key, value in identities[0].items():
            if theirs.get(key) != value:
                raise InputError(
                    f"process {rank}: was given other {key} than process 0; give all the same files"
                    " and arguments"
                )
