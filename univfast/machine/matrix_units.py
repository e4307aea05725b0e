"""Units of a CPU that multiply matrices of bfloat16 many times faster than those of float32."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Literal

import torch

__all__ = ["Units", "matrix_units"]

Units = Literal["amx", "arm"]

_CPU = Path("/proc/cpuinfo")


@functools.cache
def matrix_units() -> Units | None:
    """Those that torch's products use in its bfloat16 mode: Intel's AMX, ARM's bf16; or none."""
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "amx"
    if platform.machine() in ("aarch64", "arm64") and "bf16" in _features():
        return "arm"
    return None


def _features() -> set[str]:
    """What Linux says that the processor has; nothing where it does not say."""
    try:
        lines = _CPU.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return {
        word
        for line in lines
        if line.startswith("Features")
        for word in line.partition(":")[2].split()
    }
