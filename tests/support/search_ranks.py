"""What each process does in the test of shared searches: run by torchrun, with a folder.

All checkpoints of the folder are gone on from, by two processes and by all. What the first one
finds is written beside; each says how many parts of searches it did.
"""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore
from torch.distributed.rendezvous import rendezvous

from support.searched import SEARCHES, numbers, pair, small
from univfast.correlation import correlate_together
from univfast.machine.processes import Processes
from univfast.options import CorrelateOptions, complete
from univfast.runs.searching import Searching

if __name__ == "__main__":
    small()
    store, rank, count = next(iter(rendezvous("env://", timeout=timedelta(minutes=2))))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    parts = 0
    searched = Searching._round

    def counted(*given: Any) -> Any:
        global parts
        found = searched(*given)
        parts += found[0] > 0
        return found

    Searching._round = counted  # type: ignore[method-assign]
    folder = Path(sys.argv[1])
    for name, options in SEARCHES.items():
        for some in (2, count):
            # All make it, though not all are in it.
            group = dist.new_group(list(range(some)))
            if rank >= some:
                continue
            own = folder / f"{name}-{some}.pt"
            if rank == 0:
                shutil.copy(folder / f"{name}.pt", own)
            processes = Processes(group, store=PrefixStore(own.name, store))
            parts = 0
            asked = {**options, "checkpoint": own}
            given = complete(CorrelateOptions, asked, "correlate")
            found = correlate_together(processes, *pair(name), given)
            if found is not None:
                own.with_suffix(".txt").write_text(numbers(found))
            assert parts > 0, f"process {rank} of {some} found nothing to do for {name}"
    print("done")
