"""The sums of one process, handed to the others, which search their share of them.

Behind a pass all sums are in process 0; the others have room for as many. Each is given the rows
that it searches, and r of its neurons is as process 0 would have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import torch

from univfast.machine.processes import Processes
from univfast.search.searches import Work
from univfast.sums.co_moments import CoMoments

__all__ = ["share_norms", "share_rows", "share_sides", "shares"]


def shares(left: Sequence[int], count: int, dealt: bool) -> list[list[int]]:
    """What is left to do, for each process: neighbours or, where it is dealt, one after another."""
    if dealt:
        return [list(left[rank::count]) for rank in range(count)]
    ends = [len(left) * i // count for i in range(count + 1)]
    return [list(left[i:j]) for i, j in pairwise(ends)]


def share_sides(state: CoMoments, processes: Processes) -> None:
    """Gives all processes the variances of the neurons of both models; a collective."""
    state.tokens = processes.gather(state.tokens)[0]
    for side in (state.a, state.b):
        processes.broadcast(side.m2)


def share_norms(work: Work, processes: Processes) -> None:
    """Gives all processes the norms of rotated neurons, computed once; a collective.

    Those of a layer are computed by one process, which gets the co-moments within it.
    """
    search, side = work.search, work.block.searched
    names = side.layout.names
    known = set[tuple[str, int]].intersection(*processes.gather(set(search.inverses)))
    new = [(i, draws) for i, draws in work.turns if (names[i], draws.start) not in known]
    numbers = sorted({i for i, _ in new})
    # What was streamed is small, and the norms are in it.
    owners = {i: 0 if i in side.streamed else at % processes.count for at, i in enumerate(numbers)}
    for i in numbers:
        if owners[i]:
            processes.copy(side.within[i], owners[i])
    with processes.each_alone():  # for matrices of wide layers take long
        for i, draws in new:
            if owners[i] == processes.rank:
                deque(search.prepare(side, i, draws, work.rotation), maxlen=0)
    for i, draws in new:
        key = names[i], draws.start
        if owners[i] != processes.rank:
            shape = len(draws), side.layout.widths[i]
            search.inverses[key] = torch.empty(shape, dtype=torch.float64, device=side.m2.device)
        processes.broadcast(search.inverses[key], owners[i])


def share_rows(work: Work, units: Sequence[Sequence[int]], processes: Processes) -> None:
    """Gives each process the co-moments that its units take; a collective."""
    for rank, own in enumerate(units):
        for rows in _joined(work.needs(own)):
            processes.copy(work.block.cross[rows], rank)


def _joined(rows: Sequence[slice]) -> list[slice]:
    """The same rows in as few slices as possible, which are in order."""
    joined: list[slice] = []
    for each in rows:
        if joined and joined[-1].stop == each.start:
            joined[-1] = slice(joined[-1].start, each.stop)
        else:
            joined.append(each)
    return joined
