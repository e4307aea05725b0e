"""The processes that a launcher such as torchrun started together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from univfast.errors import InputError

if TYPE_CHECKING:
    import torch

    from univfast.machine.processes import Processes

__all__ = ["joined_processes"]


@contextmanager
def joined_processes(
    device: str, timeout: float
) -> Iterator[tuple[Processes | None, torch.device]]:
    """This process among those that were launched together, and where it computes.

    The group ends with the block, whatever happens in it: its threads need an interpreter, and
    abort the process if they outlive that.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``: of the CUDA devices of a machine, each process
            takes its own.
        timeout: seconds to wait for another process.

    Yields:
        None for the processes where it was not launched with others (by torchrun, which sets
        ``WORLD_SIZE``, ``RANK`` and more).

    Raises:
        InputError: the device cannot be used, or the others are not there.
    """
    from univfast.machine.devices import as_device, auto_device
    from univfast.native.place import on_cuda

    place = as_device(None if device == "auto" else device) or auto_device()
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        yield None, place
        return
    if on_cuda(place):
        place = _own_device()
    processes = _joined("nccl" if on_cuda(place) else "gloo", timedelta(seconds=timeout))
    try:
        yield processes, place
    finally:
        processes.close()


def _joined(backend: str, timeout: timedelta) -> Processes:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from univfast.machine.processes import Processes

    try:
        store, rank, count = next(iter(rendezvous("env://", timeout=timeout)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
        # Flags go over the CPU, so that a CUDA device is not waited for after each slice.
        control = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"torchrun: the processes do not come together ({reason}); start them all with"
            " torchrun, or unset WORLD_SIZE and RANK"
        ) from error
    return Processes(control=control, store=store, timeout=timeout)


def _own_device() -> torch.device:
    import torch

    number, processes = (int(os.environ.get(f"LOCAL_{x}", "0")) for x in ("RANK", "WORLD_SIZE"))
    devices = torch.cuda.device_count()
    if processes > devices:
        raise InputError(
            f"device: {processes} processes were started on a machine with {devices} CUDA devices;"
            f" start {devices}, or use --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
