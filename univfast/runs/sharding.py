"""Passes whose layers of A are dealt to the processes, where one cannot hold all co-moments.

Each process then reads all tokens of its layers and of B, and holds and searches their co-moments;
only what it found is sent. In other passes each has the co-moments of all layers, and of a share of
the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from univfast.errors import InputError
from univfast.method import Dealt
from univfast.runs.planning import Job

__all__ = ["dealt_to", "dealt_work", "jobs_in", "plan_round", "steps_in"]

# Halvings of the limit: a thousandth of it is no work.
_HALVINGS = 10
# A process may multiply so many times what its share of all tokens takes: what is gained (nothing
# is added over the processes) is worth no more where tokens are many.
_MOST_MORE = 1.25

# Numbers of comparisons with names of layers.
Layers = Collection[tuple[int, str]]


class Loads(Protocol):
    """`plan_passes` of some comparisons."""

    def __call__(self, limit: float, *, done: Layers = ()) -> list[list[Job]]:
        """The jobs cut into such as fit so many bytes, as few as can be, in order."""


def plan_round(
    tokens: int,
    loads: Loads,
    work: Callable[[Sequence[Job]], float],
    limit: float,
    processes: int,
    done: Layers = (),
) -> list[dict[str, Any]]:
    """The passes of some jobs as plain values, which are dealt to the processes where that pays.

    In a pass that is not dealt the tokens are shared, and the co-moments of all processes, each of
    the whole, are added in the first. L such passes read B's layers, and multiply those within B,
    L / N times for each of N processes, and all else evenly; dealt they are ``ceil(L / N)`` passes,
    of which each takes as long as its largest load. So layers are dealt where fewer passes come of
    it, unless they are so few or so uneven that a process would multiply far more.

    Args:
        tokens: of each pass.
        loads: the jobs, cut.
        work: multiplications that some jobs take, a token.
        limit: bytes of a process.
        processes: that share the work; 1 where nothing is to be dealt.
        done: left out.

    Raises:
        InputError: what ``loads`` raises.
    """
    shared = loads(limit, done=done)
    if processes > 1 and len(shared) > 1:
        dealt = _deal(loads, limit, processes, done)
        longest = sum(max(map(work, each)) for each in dealt)
        if longest <= _MOST_MORE * sum(map(work, shared)) / processes:
            return [
                {"tokens": tokens, "dealt": [[job.plain() for job in jobs] for jobs in each]}
                for each in dealt
            ]
    return [{"tokens": tokens, "jobs": [job.plain() for job in jobs]} for jobs in shared]


def _deal(loads: Loads, limit: float, processes: int, done: Layers) -> list[list[list[Job]]]:
    """Of each pass, as few as can be, the jobs of each process."""
    passes = -(-len(loads(limit, done=done)) // processes)
    found = _evenly(loads, limit, passes * processes, done)
    before = found[: (passes - 1) * processes]
    taken = {(job.comparison, name) for jobs in before for job in jobs for name in job.layers}
    found = [*before, *_evenly(loads, limit, processes, {*done, *taken})]
    found += [[] for _ in range(passes * processes - len(found))]
    return [found[i : i + processes] for i in range(0, len(found), processes)]


def _evenly(loads: Loads, limit: float, number: int, done: Layers) -> list[list[Job]]:
    """At most so many loads, the largest as small as can be."""
    found, low, high = loads(limit, done=done), 0.0, limit
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        try:
            fewer = loads(middle, done=done)
        except InputError:  # a single layer takes more
            low = middle
            continue
        if len(fewer) <= number:
            found, high = fewer, middle
        else:
            low = middle
    return found


def dealt_to(entry: Mapping[str, Any]) -> int | None:
    """How many processes a pass is dealt to; None where its tokens are shared."""
    return len(entry["dealt"]) if "dealt" in entry else None


def jobs_in(entry: Mapping[str, Any]) -> list[Any]:
    """The jobs of a pass, of whatever process, in order; none of a pass of details.

    Raises:
        ValueError: it is no pass of any plan.
    """
    if "dealt" not in entry:
        return list(entry.get("jobs", ()))
    dealt = entry["dealt"]
    lists = isinstance(dealt, list) and all(isinstance(jobs, list) for jobs in dealt)
    if not lists or len(dealt) < 2:
        raise ValueError(dealt)
    return [job for jobs in dealt for job in jobs]


def steps_in(
    plan: Sequence[Mapping[str, Any]], whole: bool, widths: Sequence[Mapping[str, int]]
) -> list[Any]:
    """What is done one after another, however it is cut into passes.

    Args:
        plan: the passes.
        whole: all layers of a job are done at once.
        widths: of each comparison, the neurons of A's layers by name; parts of one follow each
            other.

    Raises:
        LookupError, TypeError, ValueError: it is no plan.
    """
    steps: list[Any] = []
    done = 0  # neurons of a layer that is done in parts
    for entry in plan:
        if set(entry) == {"tokens", "details"}:
            steps.append([entry["tokens"], entry["details"]])
            continue
        jobs = jobs_in(entry)
        known = [{"tokens", "jobs"}, *([] if whole else [{"tokens", "dealt"}])]
        if set(entry) not in known or not jobs:
            raise ValueError(entry)
        for number, layers, *part in jobs:
            if not isinstance(layers, list) or not layers:
                raise ValueError(layers)
            parts = [layers] if whole else [[layer] for layer in layers]
            following = [[entry["tokens"], number, each] for each in parts]
            if part or done:
                (first, last), (name,), (step,) = part, layers, following
                if whole or first != done or last <= first or (done and step != steps[-1]):
                    raise ValueError(part)
                done = 0 if last == widths[number][name] else last
                following = [] if first else following
            steps += following
    if done:
        raise ValueError(done)
    return steps


def dealt_work(plan: Sequence[Mapping[str, Any]]) -> Dealt | None:
    """How the work of a plan was dealt, for who reads the result; None where nothing was."""
    dealt = [entry for entry in plan if dealt_to(entry)]
    if not dealt:
        return None
    return {
        "layers": len({name for entry in dealt for job in jobs_in(entry) for name in job[1]}),
        "processes": max(len(entry["dealt"]) for entry in dealt),
        "passes": len(dealt),
    }
