"""The search behind a pass: told as it goes, saved, gone on with, and shared by several processes.

The sums of a pass are in process 0, and stay saved as they were at its end. Each process searches
some rows of them, a few seconds at a time, between which all agree on whether to go on. What was
found is small: it is moved to process 0 when it is saved, and in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from univfast.checks import shown
from univfast.errors import InputError
from univfast.machine.processes import Processes
from univfast.runs.run import Interrupted, Progress, Run
from univfast.runs.search_job import SearchJob
from univfast.runs.sharing import share_norms, share_rows, share_sides, shares
from univfast.search.assigning import AssignWork
from univfast.search.saved import check_number
from univfast.search.searches import Work
from univfast.sums.states import check_fields, check_range, check_tensor, refused

__all__ = ["Searching"]

# Seconds that each process searches before all tell each other how far they are: far above what
# that takes, far below what a user waits for.
_ROUND = 1.0


class _Found(Protocol):
    """What a task finds, pass by pass."""

    def pairs(self, entry: Mapping[str, Any]) -> int:
        """Pairs of neurons that are compared behind a pass."""

    def take(self, entry: Mapping[str, Any], work: Any) -> None:
        """Takes what a pass gave that needs no search, in process 0."""

    def jobs(self, work: Any) -> list[SearchJob]:
        """What is searched behind a pass."""


class _Place(NamedTuple):
    """How far the search behind a pass is: the work that is under way, and what of it is done."""

    job: int = 0
    work: int = 0
    done: Tensor | None = None
    tensors: dict[str, Tensor] | None = None


class Searching:
    """The searches of a run.

    Args:
        run: whose passes they are behind.
        found: what they find.
        processes: those that share the work; None for this one alone.
        progress: called with the pairs of neurons that are done, over all passes, and their total.
        say: called with what is done that progress does not show; with nothing at its end.
    """

    def __init__(
        self,
        run: Run,
        found: _Found,
        processes: Processes | None,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._found, self._processes = run, found, processes
        self._progress, self._say = progress, say
        self._rank = 0 if processes is None else processes.rank
        pairs = [found.pairs(entry) for entry in run.plan]
        self._done, self._total = sum(pairs[: run.first]), sum(pairs)
        self._told = float("-inf")

    def do(self, number: int, work: Any) -> None:
        """Searches the sums of a pass, or takes what it gave; all is then in process 0.

        Raises:
            InputError: what a search raises, or another process died.
            Interrupted: by a signal, after what was found was saved.
        """
        if self._rank == 0:
            self._found.take(self._run.plan[number], work)
        jobs = self._found.jobs(work)
        if not jobs:
            return
        with self._run.signals() as interrupted:
            first = self._load(jobs)
            for at, job in enumerate(jobs):
                self._search(jobs, at, job, first, interrupted)
            self._save(jobs, _Place(len(jobs)))

    def _search(
        self,
        jobs: Sequence[SearchJob],
        at: int,
        job: SearchJob,
        first: _Place,
        interrupted: Callable[[], bool],
    ) -> None:
        if self._processes is not None:
            share_sides(job.state, self._processes)
        for number, work in enumerate(job.searches.works(job.state)):
            if (at, number) < (first.job, first.work):
                work.done.fill_(work.parts)
            elif (at, number) == (first.job, first.work) and first.done is not None:
                work.merge(first.done, work.tensors() if first.tensors is None else first.tensors)
            self._done += work.finished()
            left = [unit for unit, done in enumerate(work.done.tolist()) if done < work.parts]
            if not left:
                if (at, number) >= (first.job, first.work) and self._rank == 0:
                    work.end()
                continue
            for stop, save in self._rounds(work, left, interrupted):
                if stop or save:
                    self._gather(job, work)
                    self._save(jobs, _Place(at, number, work.done, work.tensors()))
                if stop:
                    raise Interrupted(self._run.where(self._done, self._total, "pairs"))
            self._gather(job, work)
            if self._rank == 0:
                work.end()

    def _rounds(
        self, work: Work, left: Sequence[int], interrupted: Callable[[], bool]
    ) -> Iterator[tuple[bool, bool]]:
        """Searches what is left, for a while at a time.

        Yields:
            Whether to stop, and whether to save.
        """
        own = left
        if self._processes is not None:
            self._speak("giving sums to the other processes")
            units = shares(left, self._processes.count, isinstance(work, AssignWork))
            share_norms(work, self._processes)
            share_rows(work, units, self._processes)
            own = units[self._rank]
        before = len(work.done) - len(left)
        steps = work.run(own)
        going = True
        self._tell(0, work.words(before))
        while going:
            pairs, ended, failure = self._round(steps)
            done = int((work.done[own] == work.parts).sum())
            told = self._agree([pairs, done], [not ended, interrupted(), self._due()], failure)
            (pairs, done), (going, stop, save) = told
            self._tell(pairs, work.words(before + done))
            yield stop, save and going

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
        self, counts: list[int], flags: list[bool], failure: Exception | None
    ) -> tuple[list[int], list[bool]]:
        """Counts of all processes together, and whether each flag is set in any."""
        if self._processes is None:
            return counts, flags
        found = self._processes.gather((counts, flags, failure is not None))
        if failure is not None:
            raise failure
        if any(failed for _, _, failed in found):
            raise InputError("another process stopped; its message says why")
        together = [sum(each) for each in zip(*(x for x, _, _ in found), strict=True)]
        return together, [any(each) for each in zip(*(x for _, x, _ in found), strict=True)]

    def _gather(self, job: SearchJob, work: Work) -> None:
        """Moves what all processes have found to process 0; they go on with nothing."""
        if self._processes is None:
            return
        job.searches.gather(self._processes)
        job.searches.tokens = job.state.tokens
        for done, tensors in self._processes.gather((work.done, work.tensors())):
            work.merge(done, tensors)

    # ---- saved -----------------------------------------------------------------------------------

    def _save(self, jobs: Sequence[SearchJob], place: _Place) -> None:
        """Has process 0 save what was found, where there is a checkpoint."""
        if self._run.saved is None:
            return
        self._speak("writing what was found")
        with self._run.by_first() as first:
            if first:
                searched = jobs[: place.job + 1]
                content = {
                    "job": place.job,
                    "work": place.work,
                    "done": place.done,
                    "tensors": place.tensors,
                    "found": [x.searches.state() for x in searched],
                }
                self._run.saved.save_search(content)

    def _load(self, jobs: Sequence[SearchJob]) -> _Place:
        """Goes on from what was saved, where it is whole."""
        place = _Place()
        with self._run.by_first() as first:
            saved = self._run.saved
            content = saved.load_search() if first and saved is not None else None
            if content is not None and saved is not None:
                before = [(x.searches, deepcopy(x.searches.state())) for x in jobs]
                try:
                    place = _placed(content, jobs)
                except (InputError, TypeError) as error:
                    for searches, state in before:
                        searches.load(state, state["tokens"], len(state["assigned"]))
                    reason = str(error).removeprefix("load_state_dict: ").partition("; was the")[0]
                    saved.refuse_search(f"does not hold the state of a search ({reason})")
        if self._processes is not None:
            known = self._processes.gather(place._replace(tensors=None))[0]
            place = known if self._rank else place
        return place

    # ---- told ------------------------------------------------------------------------------------

    def _tell(self, pairs: int, words: str) -> None:
        """Tells of pairs that are done, and now and then that work goes on."""
        self._done += pairs
        now = time.monotonic()
        if self._progress is not None and (pairs or now - self._told >= _ROUND):
            self._told = now
            self._speak(words)
            self._progress(self._done, self._total)

    def _speak(self, words: str) -> None:
        if self._rank == 0:
            self._say(words)


def _placed(content: Mapping[str, Any], jobs: Sequence[SearchJob]) -> _Place:
    """Loads what `Searching` saved into the searches.

    Raises:
        InputError, TypeError: it is none of these jobs.
    """
    job, number = content.get("job"), content.get("work")
    if type(job) is not int or not 0 <= job <= len(jobs):
        raise refused(f"its job is {shown(job)} of {len(jobs)}")
    searched = jobs[: job + 1]
    found = check_number("searches", content.get("found"), len(searched))
    works: list[Work] = []
    if job < len(jobs):
        works = jobs[job].searches.works(jobs[job].state)
    if type(number) is not int or not 0 <= number < max(1, len(works)):
        raise refused(f"its part is {shown(number)} of {len(works)}")
    for at, each in enumerate(searched):
        ended = sum(isinstance(x, AssignWork) for x in works[:number]) if at == job else None
        each.searches.load(found[at], each.state.tokens, ended)
    if not works:
        return _Place(job)
    work = works[number]
    done = check_tensor("what is done", content.get("done"), work.done.shape, work.done.dtype)
    check_range("what is done", done, 0, work.parts)
    own = work.tensors()
    tensors = check_fields("assignments", content.get("tensors"), own.keys())
    for name, x in own.items():
        check_tensor(name, tensors[name], x.shape, x.dtype)
    return _Place(job, number, done, dict(tensors))
