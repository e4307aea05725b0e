"""Correlates two sets of activations that are larger than memory, and says what that took.

    python benchmarks/larger_than_memory.py --gigabytes 27 --folder DIR

Each set is a sparse file, of which a fiftieth has values and the rest are zeros, so it takes little
of the disk. The answer is checked: the second set is the first and as much noise, so r is 0.707.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from univfast.machine.memory import machine_memory

NEURONS = 3072
PARTS, ROWS = 40, 2000


def write(path: Path, tokens: int, noise: int | None) -> None:
    """Values in ``PARTS`` places; noise of this seed added."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(tokens, NEURONS))
    shared = torch.Generator().manual_seed(0)
    own = None if noise is None else torch.Generator().manual_seed(noise)
    for part in range(PARTS):
        rows = torch.randn(ROWS, NEURONS, generator=shared)
        if own is not None:
            rows += torch.randn(ROWS, NEURONS, generator=own)
        start = part * (tokens // PARTS)
        file[start : start + ROWS] = rows.numpy()
    file.flush()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--gigabytes", type=float, required=True, help="of each of the two files")
    options.add_argument("--folder", default=tempfile.gettempdir(), help="for the files")
    given = options.parse_args()
    tokens = int(given.gigabytes * 1e9) // (4 * NEURONS)
    if tokens < PARTS * ROWS:
        options.error(f"give at least {PARTS * ROWS * 4 * NEURONS / 1e9:.2g} gigabytes")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        a, b, out = (Path(folder) / name for name in ("a.npy", "b.npy", "out"))
        # By a process of its own: what this one has resident counts for those that it starts.
        for path, noise in ((a, None), (b, 1)):
            writer = multiprocessing.Process(target=write, args=(path, tokens, noise))
            writer.start()
            writer.join()
        start = time.perf_counter()
        command = ["correlate", a, b, "--draws", "2", "--quiet", "--out", out]
        process = subprocess.Popen([sys.executable, "-m", "univfast", *map(str, command)])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit("the command failed")
        with (out / "neurons.csv").open() as table:
            found = [float(row["correlation"]) for row in csv.DictReader(table)]
    error = max(abs(r - 0.5**0.5) for r in found)
    assert error < 0.01, error
    print(
        f"2 x {given.gigabytes:g} GB on {(machine_memory() or 0) / 1e9:.0f} GB of memory:"
        f" {usage.ru_maxrss * 1024 / 1e6:.0f} MB resident at most, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
