"""What a process of `pytest -n` computes with: its share of the cores.

Imported before torch, which reads this once: several processes that use all cores each would be
slower than one alone, and sums of other bits than those of the processes that they start, which
read it too.
"""

from __future__ import annotations

import os
import sys

__all__ = ["THREADS"]

_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, (os.cpu_count() or 1) // _processes)
if _processes > 1:
    assert "torch" not in sys.modules, "torch was imported before: it uses all cores"
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
