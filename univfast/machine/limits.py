"""What a process is allowed, and must have before it begins: libraries abort it where that is less.

Imports little, for it is asked before they are loaded.
"""

from __future__ import annotations

import os
import tempfile
import threading

from univfast.errors import InputError

__all__ = ["check_limits"]

# Bytes of address space. torch, SciPy and Matplotlib map 0.7 GB when they are imported, CUDA builds
# more; each thread of a product takes a stack, an arena of the allocator and a buffer.
_TO_BEGIN = 1_000_000_000
_OF_A_THREAD = 100_000_000
# Bytes. With less, importing torch overflows the stack.
_STACK = 256_000
# Of torch, NumPy, SciPy and univfast: each has its own.
_POOLS = 4


def check_limits() -> None:
    """Refuses limits under which nothing can be computed, and a working directory that has gone.

    A machine where nothing can be written, not even temporary files, is no hindrance.

    Raises:
        InputError: saying which, and what to do.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working directory is not there any more ({error.strerror}); change to another one"
        ) from error
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.sep  # packages ask for the name when they are imported
    _check_memory()
    _check_threads()


def _check_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    least = _TO_BEGIN + _OF_A_THREAD * _threads()
    for limit, what, option, needed in (
        (resource.RLIMIT_AS, "address space", "-v", least),
        (resource.RLIMIT_STACK, "stack", "-s", _STACK),
    ):
        allowed = resource.getrlimit(limit)[0]
        if allowed != resource.RLIM_INFINITY and allowed < needed:
            raise InputError(
                f"not enough memory: the {what} is limited to {allowed / 1e6:.4g} MB, at least"
                f" {needed / 1e6:.4g} MB are needed; raise the limit ('ulimit {option}')"
            )


def _check_threads() -> None:
    go = threading.Event()
    started: list[threading.Thread] = []
    needed = _POOLS * _threads()
    try:
        for _ in range(needed):
            thread = threading.Thread(target=go.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise InputError(
            f"not enough threads: only {len(started)} of {needed} can be started; raise the limit"
            " ('ulimit -u', or that of the container), or set OMP_NUM_THREADS lower"
        ) from error
    finally:
        go.set()
        for thread in started:
            thread.join()


def _threads() -> int:
    """Threads that products are made by."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(asked), there or 1) if asked.isdecimal() and int(asked) else there or 1
