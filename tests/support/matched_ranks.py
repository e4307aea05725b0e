"""What each process does in the tests of matched pairs: run by torchrun, not by pytest.

Each takes every so-manieth batch; afterwards all must hold what the reference makes of all tokens.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import univfast.machine.processes
from support.dtypes import F32, F64
from support.matched import Matched, assert_statistics, matched, slices
from univfast.errors import InputError
from univfast.sums.details import PairDetails

LIMITS = {F64: 1e-9, F32: 2e-5}


def fed(case: Matched, numbers: range, *, into: PairDetails | None = None) -> PairDetails:
    parts = slices(*[50] * 14)
    return case.feed(into or case.accumulator(), [parts[i] for i in numbers])


def check_reductions(dtype: torch.dtype) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    case = matched(dtype=dtype, masked=True)
    mine = fed(case, range(rank, 14, world))
    mine.all_reduce()
    assert_statistics(mine.finish(), case, LIMITS[dtype])
    # Twice: after the first, the others hold no tokens, and go on with more.
    mine = fed(case, range(rank, 8, world))
    mine.reduce(dst=world - 1)
    assert (mine.tokens > 0) == (rank == world - 1)
    fed(case, range(8 + rank, 14, world), into=mine)
    mine.reduce()
    if rank == 0:
        assert_statistics(mine.finish(), case, LIMITS[dtype])
    else:
        assert mine.tokens == 0
    idle = case.accumulator()  # one process had no batch at all
    if rank == world - 1:
        fed(case, range(14), into=idle)
    idle.all_reduce()
    assert_statistics(idle.finish(), case, LIMITS[dtype])


def check_refused() -> None:
    case = matched()
    case.match[7] = dist.get_rank()
    with pytest.raises(InputError, match=r"^all_reduce: match differs"):
        case.accumulator().all_reduce()


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    univfast.machine.processes._PART = 50  # so that tensors are sent in parts
    for dtype in LIMITS:
        check_reductions(dtype)
    if dist.get_world_size() > 1:
        check_refused()
    print(f"process {dist.get_rank()} is content")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
