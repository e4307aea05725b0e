"""Where activations are accumulated: on the CPU, or on a CUDA device."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.native.extension import _native

__all__ = [
    "CPU",
    "as_device",
    "auto_device",
    "of_inputs",
    "thread_count",
    "unavailable",
]

CPU = torch.device("cpu")

# More than any machine has; each needs memory of its own.
_MAX_THREADS = 1024


def unavailable() -> str:
    """Why no CUDA device can be used, in one line; empty where one can be."""
    if reason := _native.cuda.unavailable():
        return str(reason)
    if torch.version.cuda is None:
        return "torch is not a CUDA build"
    return "" if torch.cuda.is_available() else "torch finds no device"


def as_device(device: str | torch.device | None) -> torch.device | None:
    """The device that an argument names, a CUDA device by its number; None for None.

    Raises:
        InputError: no device that this build and this machine can accumulate on.
        TypeError: no str and no torch.device.
    """
    if device is None:
        return None
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device: expected a str or torch.device, got {type(device).__name__}")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InputError(f"device: got {str(device)!r}, expected 'cpu', 'cuda' or 'cuda:N'")
    if found.type == "cpu":
        return CPU
    if reason := unavailable():
        raise InputError(f"device: {str(device)!r} cannot be used: {reason}; use device='cpu'")
    number = torch.cuda.current_device() if found.index is None else found.index
    if number >= torch.cuda.device_count():
        raise InputError(
            f"device: got {str(device)!r}, this machine has {torch.cuda.device_count()} CUDA"
            " devices, numbered from 0"
        )
    return torch.device("cuda", number)


def auto_device() -> torch.device:
    """A CUDA device where one can be used, else the CPU."""
    return CPU if unavailable() else torch.device("cuda", torch.cuda.current_device())


def of_inputs(*tensors: Tensor) -> torch.device:
    """Where tensors are accumulated if no device is named: on the first that is a CUDA device.

    Only where this build can use it; tensors on any other device are copied to the CPU.
    """
    return next((x.device for x in tensors if x.is_cuda and not unavailable()), CPU)


def thread_count(threads: int | None) -> int:
    """At most this many threads; None for torch's number.

    Raises:
        InputError: out of range.
        TypeError: no integer.
    """
    if threads is None:
        return torch.get_num_threads()
    return as_integer("threads", threads, 1, _MAX_THREADS)
