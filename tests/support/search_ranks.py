"""What each process does in the test of shared searches: run by torchrun, with a folder.

All checkpoints of the folder are gone on from, by two processes and by all; what the first one
finds is written beside. Then layers are dealt to all, in a search that is interrupted.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

import univfast
from support.searched import SEARCHES, Model, even, numbers, pair, small
from univfast.correlation import correlate_together
from univfast.machine.processes import Processes
from univfast.options import CorrelateOptions, complete
from univfast.runs import searching
from univfast.runs.run import Interrupted
from univfast.runs.searching import Searching

LIMIT = 250e3  # bytes: of two of six layers


def count_parts() -> list[int]:
    """Counts the parts of searches that this process does."""
    parts, searched = [0], Searching._round

    def counted(*given: Any) -> Any:
        found = searched(*given)
        parts[0] += found[0] > 0
        return found

    Searching._round = counted  # type: ignore[method-assign]
    return parts


def correlated(
    processes: Processes, name: str, models: tuple[Model, Model], **more: Any
) -> univfast.CorrelationResult | None:
    progress = more.pop("search_progress", None)
    options = complete(CorrelateOptions, {**SEARCHES[name], **more}, "correlate")
    return correlate_together(processes, *models, options, None, progress)


def share(folder: Path, store: Store, name: str, count: int, parts: list[int]) -> None:
    """Goes on from the sums of a checkpoint, in the first so many processes."""
    group = dist.new_group(list(range(count)))  # all make it, though not all are in it
    rank = dist.get_rank()
    if rank >= count:
        return
    own = folder / f"{name}-{count}.pt"
    if rank == 0:
        shutil.copy(folder / f"{name}.pt", own)
    parts[0] = 0
    processes = Processes(group, store=PrefixStore(own.name, store))
    found = correlated(processes, name, pair(name), checkpoint=own)
    if found is not None:
        own.with_suffix(".txt").write_text(numbers(found))
    assert parts[0] > 0, f"process {rank} of {count} found nothing to do for {name}"


def deal(folder: Path, store: Store) -> None:
    """Deals layers to all processes, which are interrupted in the search, and go on."""
    searching._ROUND = 0.0
    found, ticks = [], list[int]()

    def interrupt(done: int, total: int) -> None:
        if done > total / 3:
            os.kill(os.getpid(), signal.SIGINT)

    def look(done: int, total: int) -> None:
        ticks.append(done)

    saved = {"checkpoint": folder / "dealt.pt"}
    for name, given in {
        "whole": {},
        "interrupted": {**saved, "search_progress": interrupt},
        "gone on with": {**saved, "search_progress": look},
    }.items():
        group = dist.new_group(list(range(dist.get_world_size())))
        processes = Processes(group, store=PrefixStore(name, store))
        try:
            found.append(correlated(processes, "best", even(), memory_limit=LIMIT, **given))
        except Interrupted as error:
            found.append(str(error))
    whole, said, again = found
    assert "pairs, which are saved in" in str(said)
    if dist.get_rank() == 0:
        assert numbers(whole) == numbers(again)
        assert ticks[0] > 0
        assert ticks == sorted(ticks)


if __name__ == "__main__":
    small()
    store, rank, count = next(iter(rendezvous("env://", timeout=timedelta(minutes=2))))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    parts = count_parts()
    for name in SEARCHES:
        for some in (2, count):
            share(Path(sys.argv[1]), store, name, some, parts)
    deal(Path(sys.argv[1]), store)
    print("done")
