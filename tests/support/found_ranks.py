"""What each process does in the test of searches that are gathered: run by torchrun."""

from __future__ import annotations

import torch.distributed as dist

from support.found import check_same_found, options, search, searches_of, tied
from univfast.machine.processes import Processes

if __name__ == "__main__":
    dist.init_process_group("gloo")
    processes = Processes()
    a, b = tied(itself=False)
    asked = options(itself=False)
    whole, own = searches_of(a, b, asked), searches_of(a, b, asked)
    dealt = "a0 a1", "a2 a3"
    search(own, a, b, dealt[processes.rank], asked)
    own.gather(processes)
    if processes.rank == 0:
        for names in dealt:
            search(whole, a, b, names, asked)
    check_same_found(own, whole)
    print(f"{processes.rank}:{'empty' if processes.rank else 'same'}")
    dist.destroy_process_group()
