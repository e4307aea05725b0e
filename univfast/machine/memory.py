"""How much memory there is, and what it is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["available_memory", "gigabytes", "machine_memory", "needed", "where"]


class _Names(NamedTuple):
    """Of a control group's files: its limit and what it uses, and of the cache in memory.stat."""

    limit: str
    used: str
    cache: str


_V2 = _Names("memory.max", "memory.current", "inactive_file")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def machine_memory(device: torch.device | None = None) -> int | None:
    """Bytes of memory of this machine, or of a CUDA device; None where the system does not say."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory(device: torch.device | None = None) -> int | None:
    """Bytes that can be had without swapping; None where the system does not say.

    Where this process is in a control group (a container, a batch job) that may have less, that.
    Of a CUDA device: what is free, or held by torch and unused.
    """
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = [size for size in (_available_on_machine(), _left_to_groups()) if size is not None]
    return min(found, default=None)


def _available_on_machine() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return machine_memory()


def _left_to_groups() -> int | None:
    """Bytes left of the smallest limit of the process's control group and those above it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except (OSError, ValueError):
        return None
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = _GROUPS, _V2
        elif "memory" in controllers.split(","):
            root, names = _GROUPS / "memory", _V1
        else:
            continue
        # In a container the path may be the host's, and be missing here: its own group is then what
        # is mounted at the root.
        own = root / path.lstrip("/")
        groups = [own, *own.parents]
        left += [_left(group, names) for group in groups[: groups.index(root) + 1]]
    return min((size for size in left if size is not None), default=None)


def _left(group: Path, names: _Names) -> int | None:
    """Bytes left to a group; None where it has no limit, or does not say."""
    try:
        limit, used = (int((group / name).read_text()) for name in (names.limit, names.used))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used, but give way.
        return max(0, limit - used + int(stat[names.cache]))
    except (OSError, ValueError, KeyError):  # v2 has "max" for no limit
        return None


def where(device: torch.device) -> str:
    """Whose memory it is, for a message."""
    return str(device) if device.type == "cuda" else "this machine"


def gigabytes(size: float) -> str:
    """Bytes that there are, for a message: rounded down."""
    return _rounded(size, up=False)


def needed(size: float) -> str:
    """Bytes that something takes, for a message: rounded up, so that as many are enough."""
    return _rounded(size, up=True)


def _rounded(size: float, up: bool) -> str:
    """To three digits, so that what is too little never looks like what is needed."""
    whole = round(size)
    step = 10 ** max(0, len(str(whole)) - 3)
    steps = -(-whole // step) if up else whole // step
    return f"{steps * step / 1e9:,.9f}".rstrip("0").rstrip(".") + " GB"
