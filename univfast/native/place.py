"""Where a tensor is: on the CPU, or on a CUDA device, whose operations are others.

Allocations say where, and of what: what torch does by default is the user's to set.
"""

from __future__ import annotations

from operator import mul

import torch
from torch import Tensor

__all__ = ["CPU", "memory", "numbers", "on_cuda", "stream"]

CPU = torch.device("cpu")


def on_cuda(where: Tensor | torch.device) -> bool:
    """Whether the operations on this tensor, or device, are those for CUDA."""
    return (where.device if isinstance(where, Tensor) else where).type == "cuda"


def stream(device: torch.device) -> tuple[int, int]:
    """The number of a CUDA device and the address of its current stream, for the core."""
    current = torch.cuda.current_stream(device)
    return current.device_index, current.cuda_stream


def numbers(start: int, stop: int | None = None, device: torch.device | None = CPU) -> Tensor:
    """int64 ``start`` to ``stop``, exclusive, or 0 to ``start``; on the CPU by default."""
    first, last = (0, start) if stop is None else (start, stop)
    return torch.arange(first, last, dtype=torch.int64, device=device)


def memory(x: Tensor) -> tuple[int, int]:
    """Bytes that a tensor reaches to in its storage, and bytes that the storage has.

    Shapes and strides are what someone said of them: where the first is larger, they are wrong, or
    the storage was freed.
    """
    if x.numel() == 0:
        return 0, 0
    strides = x.stride()
    last = x.storage_offset() + sum(map(mul, x.shape, strides)) - sum(strides)
    held = x.untyped_storage().nbytes()
    return (last + 1) * x.element_size(), held if min(strides, default=0) >= 0 else -1
