"""Where a tensor is: on the CPU, or on a CUDA device, whose operations are others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["on_cuda", "stream"]


def on_cuda(where: Tensor | torch.device) -> bool:
    """Whether the operations on this tensor, or device, are those for CUDA."""
    return (where.device if isinstance(where, Tensor) else where).type == "cuda"


def stream(device: torch.device) -> tuple[int, int]:
    """The number of a CUDA device and the address of its current stream, for the core."""
    current = torch.cuda.current_stream(device)
    return current.device_index, current.cuda_stream
