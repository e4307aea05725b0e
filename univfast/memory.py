"""How much memory there is, and what it is called."""

from __future__ import annotations

import os

__all__ = ["available_memory", "gigabytes", "machine_memory"]


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return machine_memory()


def gigabytes(size: float) -> str:
    """Bytes, for a message."""
    return f"{size / 1e9:.2g} GB"
