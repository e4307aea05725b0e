"""Processes that fork: their threads stay behind, and torch in the new process waits for them.

Imported with the package, as it must know before the fork; it imports next to nothing.
"""

from __future__ import annotations

import os
import threading

__all__ = ["lost_threads"]

lost_threads = False
"""Whether this process was forked from one with threads that Python did not start."""

_TASKS = "/proc/self/task"
_had_threads = False


def _before() -> None:
    global _had_threads
    try:
        _had_threads = len(os.listdir(_TASKS)) > threading.active_count()
    except OSError:  # there is no such directory here, and there may be threads
        _had_threads = True


def _in_child() -> None:
    global lost_threads
    lost_threads = _had_threads


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(before=_before, after_in_child=_in_child)
