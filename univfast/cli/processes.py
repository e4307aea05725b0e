"""The processes that a launcher such as torchrun started together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from univfast.processes import Processes

__all__ = ["launched_processes"]


@contextmanager
def launched_processes(
    device: str, timeout: float
) -> Iterator[tuple[Processes | None, torch.device]]:
    """This process among those that were launched together, and where it computes.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``: of the CUDA devices of a machine, each process
            takes its own.
        timeout: seconds to wait for another process.

    Yields:
        None for the processes where it was not launched with others (by torchrun, which sets
        ``WORLD_SIZE`` and ``RANK``).

    Raises:
        InputError: the device cannot be used.
    """
    from univfast.devices import auto_device, on_cuda

    place = auto_device() if device == "auto" else _own_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield None, place
        return

    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from univfast.processes import Processes

    if on_cuda(place):
        local = int(os.environ.get("LOCAL_RANK", "0"))
        place = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if on_cuda(place) else "gloo", timeout=timedelta(seconds=timeout)
    )
    try:
        yield Processes(), place
    finally:
        dist.destroy_process_group()


def _own_device(device: str) -> torch.device:
    from univfast.devices import as_device

    place = as_device(device)
    assert place is not None
    return place
