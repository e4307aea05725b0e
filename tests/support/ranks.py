"""What each process does in the tests of `all_reduce`: run by torchrun, not by pytest.

Each takes every so-manieth batch of the same tokens; afterwards all must hold what one accumulator
holds that was given all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import univfast as uf
import univfast.machine.processes

TOKENS, BATCH = 3000, 100
Accumulator = uf.PairedCorrelation | uf.AllPairsCorrelation


def activations() -> tuple[torch.Tensor, torch.Tensor]:
    """Float64, with means of 1,000 standard deviations that drift from batch to batch."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(TOKENS, 40, dtype=torch.float64, generator=generator)
    b = a + torch.randn(TOKENS, 40, dtype=torch.float64, generator=generator)
    drift = torch.linspace(0, 3, TOKENS, dtype=torch.float64)[:, None]
    return a + 1000 + drift, b - 1000 + drift


def paired(rotation: str, draws: int) -> uf.PairedCorrelation:
    return uf.PairedCorrelation(40, rotation=rotation, draws=draws)


def all_pairs(draws: int) -> uf.AllPairsCorrelation:
    return uf.AllPairsCorrelation({"x": 40}, {"x": 40}, draws=draws, reverse=True)


def feed(accumulator: Accumulator, batches: range) -> None:
    a, b = activations()
    for i in batches:
        part = slice(i * BATCH, (i + 1) * BATCH)
        accumulator.update(a[part], b[part])


def check_same(name: str, found: Accumulator, expected: Accumulator) -> None:
    assert found.tokens == expected.tokens == TOKENS, name
    one, other = found.compute(), expected.compute()
    for column in ("correlation", "baseline", "excess"):
        values = getattr(one, column), getattr(other, column)
        torch.testing.assert_close(*values, rtol=0, atol=1e-12, equal_nan=True, msg=name)
    if one.null_excess is not None:
        nulls = one.null_excess, other.null_excess
        torch.testing.assert_close(*nulls, rtol=0, atol=1e-12, equal_nan=True, msg=name)


def check_reductions(make: Callable[[], Accumulator], name: str) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = make()
    feed(whole, range(TOKENS // BATCH))
    mine = make()
    feed(mine, range(rank, TOKENS // BATCH, world))
    mine.all_reduce()
    check_same(f"{name}, all_reduce", mine, whole)
    # Twice: after the first, the others hold no tokens, and go on with more.
    mine = make()
    feed(mine, range(rank, 20, world))
    mine.reduce(dst=world - 1)
    assert mine.tokens == (20 * BATCH if rank == world - 1 else 0)
    feed(mine, range(20 + rank, TOKENS // BATCH, world))
    mine.reduce()
    if rank == 0:
        check_same(f"{name}, reduce", mine, whole)
    else:
        assert mine.tokens == 0
    idle = make()  # one process had no batch at all
    if rank == 0:
        feed(idle, range(TOKENS // BATCH))
    idle.all_reduce()
    check_same(f"{name}, idle", idle, whole)


def check_refused(make: Callable[[int], Accumulator]) -> None:
    accumulator = make(2 if dist.get_rank() == 0 else 3)
    message = "^all_reduce: draws differs, 2 in process 0, 3 in process 1; "
    with pytest.raises(uf.InputError, match=message):
        accumulator.all_reduce()


def check_order_refused() -> None:
    layers = {"x": 4, "y": 4} if dist.get_rank() == 0 else {"y": 4, "x": 4}
    with pytest.raises(uf.InputError, match=r"^all_reduce: layers_a differs"):
        uf.AllPairsCorrelation(layers, {"x": 4}).all_reduce()


def check_subgroup() -> None:
    """The last two processes alone; ``dst`` is a number within the group."""
    ranks = [dist.get_world_size() - 2, dist.get_world_size() - 1]
    group = dist.new_group(ranks)
    if dist.get_rank() not in ranks:
        return
    mine = paired("hadamard", 2)
    feed(mine, range(dist.get_rank(group), 10, 2))
    mine.reduce(dst=1, group=group)
    assert mine.tokens == (10 * BATCH if dist.get_rank(group) == 1 else 0)


def check_distributed_tensors() -> None:
    """Made whole, however they are shared; those that are on their way are waited for."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    a, b = activations()
    shared = distribute_tensor(a, mesh, [Shard(0)]), distribute_tensor(b, mesh, [Shard(1)])
    sent = functional.all_reduce(b / dist.get_world_size(), "sum", mesh)
    assert type(sent) is functional.AsyncCollectiveTensor
    whole = paired("hadamard", 2)
    whole.update(a, b)
    for x, y in (shared, (nn.Parameter(shared[0]), sent)):
        found = paired("hadamard", 2)
        found.update(x, y)
        check_same("distributed tensors", found, whole)


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    univfast.machine.processes._PART = 50  # so that tensors are sent in parts
    for rotation, draws in (("hadamard", 3), ("haar", 2), ("none", 0)):
        check_reductions(lambda r=rotation, d=draws: paired(r, d), f"paired, {rotation}")
    check_reductions(lambda: all_pairs(1), "all pairs, streamed rotations")
    check_reductions(lambda: all_pairs(5), "all pairs, co-moments within layers")
    empty = paired("hadamard", 2)
    empty.all_reduce()
    assert empty.tokens == 0
    check_distributed_tensors()
    if dist.get_world_size() > 1:
        check_refused(lambda draws: paired("hadamard", draws))
        check_refused(all_pairs)
        check_order_refused()
        check_subgroup()
    print(f"process {dist.get_rank()} is content", flush=True)
    dist.destroy_process_group()
    # All is checked. As the interpreter ends, torch aborts now and then ("terminate called without
    # an active exception"), with a thread that it has not joined.
    os._exit(0)


if __name__ == "__main__":
    main()
