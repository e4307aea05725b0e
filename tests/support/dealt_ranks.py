"""What each process does in the tests of layers that are dealt: run by torchrun, or alone.

It says at its end how many slices it has read, and dies in one of them where ``DIES`` says so, as
"process slice".
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from univfast.cli.torchrun import joined_processes
from univfast.correlation import correlate_together
from univfast.options import CorrelateOptions, complete
from univfast.runs import over_pairs
from univfast.runs.over_pairs import PairsPass
from univfast.sums import co_moments

CHUNK = 64


def small_slices() -> None:
    over_pairs.READ_BYTES = 1
    co_moments._CHUNK_TOKENS, co_moments._TILE_BYTES = CHUNK, 4096


def count_slices() -> None:
    rank, slices, update = os.environ.get("RANK", "0"), [], PairsPass.update

    def counted(*given: Any) -> None:
        slices.append(given)
        if os.environ.get("DIES") == f"{rank} {len(slices)}":
            os.kill(os.getpid(), signal.SIGKILL)
        update(*given)

    PairsPass.update = counted  # type: ignore[method-assign]
    atexit.register(lambda: print(f"process {rank} has read {len(slices)} slices", flush=True))


if __name__ == "__main__":
    small_slices()
    count_slices()
    a, b, asked, out = sys.argv[1:]
    options = complete(CorrelateOptions, json.loads(asked), "correlate")
    with joined_processes("cpu", 60) as (processes, _):
        result = correlate_together(processes, a, b, options)
    if result is not None:
        assert result.reverse is not None
        found = [result.columns(), result.reverse.columns()]
        Path(out).write_text(json.dumps(found))
