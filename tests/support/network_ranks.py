"""What each process does in the tests of networks that several processes hold together.

Run by torchrun, not by pytest. Each gives all batches to its part, as one would to a whole model.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import univfast as uf
from support.networks import HOOKS, OPTIONS, Network, check_both_places, expected, inputs


def sharded(mesh: DeviceMesh, model: Network) -> Any:
    for block in model.layers:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def in_parts(mesh: DeviceMesh, local: bool, model: Network) -> Any:
    plan = {"up": ColwiseParallel(use_local_output=local), "down": RowwiseParallel()}
    for block in model.layers:
        parallelize_module(block, mesh, plan)
    return model


def check_tensor_parallel(mesh: DeviceMesh) -> None:
    check_both_places(partial(in_parts, mesh, False))
    if dist.get_world_size() == 1:
        check_both_places(partial(in_parts, mesh, True))
        return
    for hooks in (HOOKS, "layers.*.up"):
        with pytest.raises(uf.InputError, match=r"may be a part of its neurons; run the model"):
            uf.correlate_models(
                in_parts(mesh, True, Network(1)), Network(2), inputs(), hooks=hooks, **OPTIONS
            )
    # What the module after it is given says that it is a part, and is made whole.
    model = in_parts(mesh, True, Network(1))
    options = {"hooks": "layers.*.down:input", "hooks_b": HOOKS, **OPTIONS}
    found = uf.correlate_models(model, Network(2), inputs(), **options)
    torch.testing.assert_close(
        found.correlation, expected().correlation, rtol=0, atol=5e-6, equal_nan=True
    )


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    check_both_places(nn.parallel.DistributedDataParallel)
    check_both_places(partial(sharded, mesh))
    # A run that ended with its last layer would leave weights gathered.
    model = sharded(mesh, Network(1))
    for _ in range(2):
        uf.correlate_models(model, Network(2), inputs(), hooks=HOOKS, **OPTIONS)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs()[0]), Network(1)(inputs()[0]))
    check_both_places(lambda x: torch.compile(sharded(mesh, x), backend="eager"))
    check_both_places(lambda x: FullyShardedDataParallel(x, device_id=torch.device("cpu")))
    check_tensor_parallel(mesh)
    print(f"process {dist.get_rank()} is content", flush=True)
    dist.barrier()
    # All is checked; see ranks.py for what may happen as the interpreter ends.
    os._exit(0)


if __name__ == "__main__":
    main()
