"""What each process does in the tests of sums of candidates: run by torchrun, not by pytest.

Each takes every so-manieth batch; afterwards all must hold what is made of all tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import univfast.machine.processes
from support.candidates import all_correlations, feed, layout, pair_correlations, some_pairs
from support.dtypes import F32, F64
from support.parity import activations, assert_close
from univfast.errors import InputError
from univfast.sums.candidates import CandidateSums
from univfast.sums.checked import CheckedRows

LIMITS = {F64: 1e-12, F32: 1e-6}
TOKENS, BATCH, NEURONS = 3000, 100, 40
LAYOUTS = layout("a", [NEURONS]), layout("b", [NEURONS])
PAIRS = some_pairs(NEURONS, NEURONS)
NUMBERS = torch.tensor([7, 0, 39])

Sums = CandidateSums | CheckedRows


def models(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """With means of 100 standard deviations that drift from batch to batch."""
    a, b = activations(TOKENS, NEURONS)
    drift = np.linspace(0, 3, TOKENS)[:, None]
    return torch.from_numpy(a + 100 + drift).to(dtype), torch.from_numpy(b - 100 + drift).to(dtype)


def fed(sums: Sums, dtype: torch.dtype, batches: range) -> Sums:
    a, b = models(dtype)
    for i in batches:
        part = slice(i * BATCH, (i + 1) * BATCH)
        feed(sums, a[part], b[part], ([NEURONS], [NEURONS]))
    return sums


def check_whole(sums: Sums, dtype: torch.dtype) -> None:
    a, b = models(dtype)
    assert sums.tokens == TOKENS
    if isinstance(sums, CandidateSums):
        expected = pair_correlations(a, b, PAIRS)
        return assert_close(sums.correlations(), expected, LIMITS[dtype], "r")
    exact = all_correlations(a, b)[NUMBERS.numpy()]
    r, place = sums.best()
    assert_close(r, exact.max(axis=1), LIMITS[dtype], "highest r")
    return np.testing.assert_array_equal(place.numpy(), exact.argmax(axis=1))


def make(kind: str, **changed: Tensor) -> Sums:
    if kind == "candidates":
        return CandidateSums(*LAYOUTS, PAIRS, threads=1)
    return CheckedRows(*LAYOUTS, changed.get("numbers", NUMBERS), threads=1)


def check_reductions(kind: str, dtype: torch.dtype) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = fed(make(kind), dtype, range(rank, TOKENS // BATCH, world))
    mine.all_reduce()
    check_whole(mine, dtype)
    # Twice: after the first, the others hold no tokens, and go on with more.
    mine = fed(make(kind), dtype, range(rank, 20, world))
    mine.reduce(dst=world - 1)
    assert mine.tokens == (20 * BATCH if rank == world - 1 else 0)
    fed(mine, dtype, range(20 + rank, TOKENS // BATCH, world))
    mine.reduce()
    if rank == 0:
        check_whole(mine, dtype)
    else:
        assert mine.tokens == 0
    idle = make(kind)  # one process had no batch at all
    if rank == world - 1:
        fed(idle, dtype, range(TOKENS // BATCH))
    idle.all_reduce()
    check_whole(idle, dtype)


def check_refused() -> None:
    other = make("checked", numbers=torch.tensor([dist.get_rank()]))
    with pytest.raises(InputError, match=r"^all_reduce: numbers differs"):
        other.all_reduce()


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    univfast.machine.processes._PART = 50  # so that tensors are sent in parts
    for kind in ("candidates", "checked"):
        for dtype in LIMITS:
            check_reductions(kind, dtype)
    if dist.get_world_size() > 1:
        check_refused()
    print(f"process {dist.get_rank()} is content")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
