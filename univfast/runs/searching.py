"""The search behind a pass: told as it goes, saved, gone on with, and shared by several processes.

The sums of a pass are in process 0, or dealt to all, and stay saved as they were at its end. Each
process searches some rows of them, a while at a time, and then all agree on whether to go on. What
was found is small: it is moved to process 0 when it is saved, and in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, NamedTuple, Protocol

from torch import Size, Tensor, dtype

from univfast.errors import InputError
from univfast.machine.processes import Processes
from univfast.runs.run import Interrupted, Progress, Run
from univfast.runs.sharing import share_norms, share_rows, share_sides, shares
from univfast.runs.to_search import ToSearch
from univfast.search.assigning import AssignWork
from univfast.search.saved import check_number
from univfast.search.searches import Work
from univfast.sums.states import check_fields, check_range, check_tensor

__all__ = ["Searching"]

# Seconds that each process searches before all tell each other how far they are: far above what
# that takes, far below what a user waits for.
_ROUND = 1.0


class _Shape(NamedTuple):
    """What the state of a work looks like, which may be in another process."""

    done: tuple[Size, dtype]
    parts: int
    tensors: dict[str, tuple[Size, dtype]]

    @staticmethod
    def of(work: Work) -> _Shape:
        tensors = {name: (x.shape, x.dtype) for name, x in work.tensors().items()}
        return _Shape((work.done.shape, work.done.dtype), work.parts, tensors)


class _Way(Protocol):
    """What a task finds, pass by pass."""

    def pairs(self, entry: Mapping[str, Any]) -> int:
        """Pairs of neurons that are compared behind a pass."""

    def take(self, entry: Mapping[str, Any], work: Any) -> None:
        """Takes what a pass gave that needs no search, in process 0."""

    def to_search(self, entry: Mapping[str, Any], work: Any) -> ToSearch:
        """What is searched behind a pass, of those that compare pairs: else it is not called."""


class Searching:
    """The searches of a run.

    Args:
        run: whose passes they are behind.
        way: what they find.
        processes: those that share the work; None for this one alone.
        progress: called with the pairs of neurons that are done, over all passes, and their total.
        say: called with what is done that progress does not show; with nothing at its end.
    """

    def __init__(
        self,
        run: Run,
        way: _Way,
        processes: Processes | None,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._way, self._processes = run, way, processes
        self._rank = 0 if processes is None else processes.rank
        self._progress, self._say = progress, say
        pairs = [way.pairs(entry) for entry in run.plan]
        self._done, self._total = sum(pairs[: run.first]), sum(pairs)
        self._told = float("-inf")

    def do(self, number: int, work: Any) -> None:
        """Searches the sums of a pass, or takes what it gave; all is then in process 0.

        Raises:
            InputError: what a search raises, or another process died.
            Interrupted: by a signal, after what was found was saved.
        """
        entry = self._run.plan[number]
        if self._rank == 0:
            self._way.take(entry, work)
        if not self._way.pairs(entry):
            return
        with self._run.signals() as interrupted:
            self._speak("adding the last tokens")
            given = self._way.to_search(entry, work)
            self._speak("")
            if self._processes is not None and not given.dealt:
                for _, state in given.sums:
                    share_sides(state, self._processes)
            works = [each for searches, state in given.sums for each in searches.works(state)]
            self._load(given, works)
            self._tell(self._together(given, sum(each.finished() for each in works)), "")
            if given.dealt:
                self._search(given, works, works, interrupted)
            else:
                for each in works:
                    self._search(given, works, [each], interrupted)
            self._save(given, works)
            _, (stop,) = self._agree(0, [interrupted()], None)
        if stop:
            raise self._interrupted()

    def _search(
        self,
        given: ToSearch,
        works: Sequence[Work],
        now: Sequence[Work],
        interrupted: Callable[[], bool],
    ) -> None:
        """Does some of the works of a pass: one that is shared, or all that this process has."""
        for stop, save in self._rounds(given, now, interrupted):
            if stop or save:
                self._gather(given, now)
                self._save(given, works)
            if stop:
                raise self._interrupted()
        self._gather(given, now)
        if self._rank == 0:
            for each in now:
                each.end()

    def _interrupted(self) -> Interrupted:
        return Interrupted(self._run.where(self._done, self._total, "pairs"))

    def _rounds(
        self, given: ToSearch, works: Sequence[Work], interrupted: Callable[[], bool]
    ) -> Iterator[tuple[bool, bool]]:
        """Searches what is left, for a while at a time.

        Yields:
            Whether to stop, and whether to save.
        """
        steps = [each.run(self._share(given, each)) for each in works]
        every, going = chain.from_iterable(steps), True
        while going:
            pairs, ended, failure = self._round(every)
            flags = [not ended, interrupted(), self._due()]
            pairs, (going, stop, save) = self._agree(pairs, flags, failure)
            self._tell(pairs, works[0].words() if works else "")
            yield stop, save and going

    def _share(self, given: ToSearch, work: Work) -> list[int]:
        """What is left of a work for this process, which gets what it needs for that."""
        left = [unit for unit, done in enumerate(work.done.tolist()) if done < work.parts]
        if self._processes is None or given.dealt or not left:
            return left
        self._speak("giving sums to the other processes")
        units = shares(left, self._processes.count, isinstance(work, AssignWork))
        share_norms(work, self._processes)
        share_rows(work, units, self._processes)
        return units[self._rank]

    def _round(self, steps: Iterator[int]) -> tuple[int, bool, Exception | None]:
        """Pairs that were compared, whether all is done, and why it cannot be."""
        start, pairs = time.monotonic(), 0
        try:
            for more in steps:
                pairs += more
                # Alone, nobody waits to be told.
                if self._processes is None or time.monotonic() - start >= _ROUND:
                    return pairs, False, None
        except Exception as error:
            if self._processes is None:
                raise
            return pairs, True, error
        return pairs, True, None

    def _due(self) -> bool:
        return self._rank == 0 and self._run.saved is not None and self._run.saved.due

    def _agree(
        self, pairs: int, flags: list[bool], failure: Exception | None
    ) -> tuple[int, list[bool]]:
        """Pairs of all processes together, and whether each flag is set in any."""
        if self._processes is None:
            return pairs, flags
        found = self._processes.gather((pairs, flags, failure is not None))
        if failure is not None:
            raise failure
        if any(failed for _, _, failed in found):
            raise InputError("another process stopped; its message says why")
        together = [any(each) for each in zip(*(theirs for _, theirs, _ in found), strict=True)]
        return sum(count for count, _, _ in found), together

    def _together(self, given: ToSearch, pairs: int) -> int:
        """Pairs of all processes, where each has sums of its own."""
        return sum(self._processes.gather(pairs)) if self._processes and given.dealt else pairs

    def _gather(self, given: ToSearch, works: Sequence[Work]) -> None:
        """Moves what all processes have found to process 0; they go on with nothing."""
        if self._processes is None:
            return
        for searches in given.searches:
            searches.gather(self._processes)
        for searches, state in given.sums:
            searches.tokens = state.tokens
        for work in () if given.dealt else works:
            for done, tensors in self._processes.gather((work.done, work.tensors())):
                work.merge(done, tensors)

    # ---- saved -----------------------------------------------------------------------------------

    def _save(self, given: ToSearch, works: Sequence[Work]) -> None:
        """Has process 0 save what was found, where there is a checkpoint."""
        saved = self._run.saved
        if saved is None:
            return
        self._speak("writing what was found")
        done = [(work.done, work.tensors()) for work in works]
        if self._processes is not None and given.dealt:
            done = list(chain.from_iterable(self._processes.gather(done)))
        with self._run.by_first() as first:
            if first:
                # Assignments are put together anew, from their tensors.
                found = [{**searches.state(), "assigned": []} for searches in given.searches]
                saved.save_search({"works": done, "found": found})
        self._speak("")

    def _load(self, given: ToSearch, works: Sequence[Work]) -> None:
        """Goes on from what was saved, where it is whole."""
        saved, processes = self._run.saved, self._processes
        if saved is None:
            return
        every = [_Shape.of(work) for work in works]
        own = slice(0, len(works))
        if processes is not None and given.dealt:
            shapes = processes.gather(every)
            start = sum(map(len, shapes[: self._rank]))
            own, every = slice(start, start + len(works)), [x for some in shapes for x in some]
        done: list[tuple[Tensor, dict[str, Tensor]]] | None = None
        with self._run.by_first() as first:
            content = saved.load_search() if first else None
            if content is not None:
                try:
                    done = _loaded(content, given, every)
                except (InputError, TypeError) as error:
                    reason = str(error).removeprefix("load_state_dict: ").partition("; was the")[0]
                    saved.refuse_search(f"does not hold the state of a search ({reason})")
        done = done if processes is None else processes.gather(done)[0]
        for work, (parts, tensors) in zip(works, () if done is None else done[own], strict=False):
            work.merge(parts, tensors)

    # ---- told ------------------------------------------------------------------------------------

    def _tell(self, pairs: int, words: str) -> None:
        """Tells of pairs that are done, and now and then that work goes on."""
        self._done += pairs
        now = time.monotonic()
        if self._rank == 0 and (pairs or now - self._told >= _ROUND):
            self._told = now
            self._say(words)
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _speak(self, words: str) -> None:
        if self._rank == 0:
            self._say(words)


def _loaded(
    content: Mapping[str, Any], given: ToSearch, works: Sequence[_Shape]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Loads what `Searching` saved into the searches, and gives what is done of the works.

    Raises:
        InputError, TypeError: it is none of these; nothing is then changed.
    """
    done = []
    saved = check_number("works", content.get("works"), len(works))
    for each, shape in zip(saved, works, strict=True):
        parts, tensors = check_number("parts of a work", each, 2)
        check_tensor("what is done", parts, *shape.done)
        check_range("what is done", parts, 0, shape.parts)
        check_fields("assignments", tensors, shape.tensors.keys())
        for name, (size, kind) in shape.tensors.items():
            check_tensor(name, tensors[name], size, kind)
        done.append((parts, dict(tensors)))
    found = check_number("searches", content.get("found"), len(given.searches))
    tokens = given.sums[0][1].tokens
    before = [deepcopy(searches.state()) for searches in given.searches]
    try:
        for searches, state in zip(given.searches, found, strict=True):
            searches.load(state, tokens, assigned=False)
    except (InputError, TypeError):
        for searches, state in zip(given.searches, before, strict=True):
            searches.load({**state, "assigned": []}, state["tokens"], assigned=False)
        raise
    return done
