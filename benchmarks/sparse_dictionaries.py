"""Correlates two wide dictionaries of sparse features, and says what that took and what it found.

    python benchmarks/sparse_dictionaries.py --features 65536 --active 64 --tokens 1000000

Features are active at random, the n-th of them on a share of tokens that falls with n. Some of A's
have a partner in B, which is active with the same values on a share q of its tokens and nowhere
else, so that their r is near sqrt(q). Found is a partner that is the best match.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from univfast.machine.memory import machine_memory

PLANTED = 3000
SHARES = (0.25, 0.5, 0.8)  # q of every third
CHUNK = 8192
CHECKED = 20  # features whose r is compared with that of the files, in float64

# What a process of its own does, so that what it has resident is its own.
RUN = """
import sys, time, numpy, univfast
a, b, out, limit = sys.argv[1:]
limit = float(limit) * 1e9 or None
start, ends = time.perf_counter(), []
def progress(done, total): ends.append(time.perf_counter() - start)
result = univfast.correlate(a, b, match="best", rotation="none", memory_limit=limit,
                            search_progress=progress)
numpy.savez(out, match=result.match_neuron, r=result.correlation, search=ends,
            seconds=time.perf_counter() - start)
"""


def partners(features: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Of each feature of A the number of its partner in B, -1 for none, and q."""
    count = min(PLANTED, features // 8)
    chosen = np.arange(count) * (features // count)
    partner, share = np.full(features, -1), np.zeros(features)
    partner[chosen] = np.random.default_rng(7).permutation(features)[:count]
    share[chosen] = np.resize(SHARES, count)
    return partner, share


def create(path: Path, tokens: int, active: int, features: int) -> list[np.ndarray[Any, Any]]:
    """A ``.safetensors`` file of the k largest, whose arrays are to be filled."""
    size = 4 * tokens * active
    arrays = {
        name: {"dtype": kind, "shape": [tokens, active], "data_offsets": [i * size, (i + 1) * size]}
        for i, (name, kind) in enumerate((("top_indices", "I32"), ("top_acts", "F32")))
    }
    header = json.dumps({"__metadata__": {"num_latents": str(features)}, **arrays}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    return [
        np.memmap(path, kind, "r+", 8 + len(header) + i * size, (tokens, active))
        for i, kind in enumerate((np.int32, np.float32))
    ]


def write(paths: tuple[Path, Path], tokens: int, active: int, features: int) -> None:
    """Both dictionaries, some tokens at a time; a feature that is drawn twice is so once."""
    random = np.random.default_rng(0)
    partner, share = partners(features)
    rate = 1 / (20 + np.arange(features)) ** 0.8
    below = np.cumsum(rate) / rate.sum()
    ranks = random.permutation(features)  # of B's
    free = np.ones(features, bool)
    free[partner[partner >= 0]] = False
    a, b = (create(path, tokens, active, features) for path in paths)
    for first in range(0, tokens, CHUNK):
        part = slice(first, min(first + CHUNK, tokens))
        shape = (part.stop - first, active)

        own, theirs = np.sort(np.searchsorted(below, random.random((2, *shape))), axis=-1)
        for found in (own, theirs):
            found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
        value, value_b = (random.uniform(0.5, 1.5, shape).astype(np.float32) for _ in range(2))
        theirs = np.where(theirs < 0, -1, ranks[theirs])
        theirs[(theirs >= 0) & ~free[theirs]] = -1
        shared = (own >= 0) & (partner[own] >= 0) & (random.random(shape) < share[own])
        theirs[shared], value_b[shared] = partner[own[shared]], value[shared]
        for (numbers, values), found, given in ((a, own, value), (b, theirs, value_b)):
            numbers[part] = found
            values[part] = np.where(found < 0, 0, given)


def exact(paths: tuple[Path, Path], pair: tuple[int, int], tokens: int, active: int) -> float:
    """r of a feature of A with one of B, in float64 from what the files hold."""
    found = []
    for path, feature in zip(paths, pair, strict=True):
        size = 4 * tokens * active
        offset = path.stat().st_size - 2 * size
        numbers = np.memmap(path, np.int32, "r", offset, (tokens, active))
        values = np.memmap(path, np.float32, "r", offset + size, (tokens, active))
        dense = np.zeros(tokens)
        token, place = np.nonzero(numbers == feature)
        dense[token] = values[token, place]
        found.append(dense)
    return float(np.corrcoef(*found)[0, 1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--features", type=int, default=65536, help="of each dictionary")
    options.add_argument("--active", type=int, default=64, help="of each token, at most")
    options.add_argument("--tokens", type=int, default=1_000_000)
    options.add_argument("--memory-limit", type=float, default=0, help="GB; 0 for none")
    options.add_argument("--folder", default=tempfile.gettempdir(), help="for the files")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        paths = Path(folder) / "a.safetensors", Path(folder) / "b.safetensors"
        size = (given.tokens, given.active, given.features)
        writer = multiprocessing.Process(target=write, args=(paths, *size))
        writer.start()
        writer.join()
        out = Path(folder) / "out.npz"
        start = time.perf_counter()
        command = [sys.executable, "-c", RUN, *map(str, paths), str(out), str(given.memory_limit)]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit("the run failed")
        found = np.load(out)
        partner, share = partners(given.features)
        planted = np.flatnonzero(partner >= 0)
        hit = found["match"][planted] == partner[planted]
        chosen = planted[hit][:: max(1, hit.sum() // CHECKED)]
        error = max(
            abs(found["r"][i] - exact(paths, (i, partner[i]), given.tokens, given.active))
            for i in chosen
        )
    assert error < 1e-6, error
    recall = {f"{q**0.5:.2f}": f"{hit[share[planted] == q].mean():.4f}" for q in SHARES}
    print(
        f"2 x {given.features:,} features, {given.active} active, {given.tokens:,} tokens, on"
        f" {(machine_memory() or 0) / 1e9:.0f} GB of memory: {seconds:.0f} s"
        f" ({usage.ru_utime + usage.ru_stime:.0f} s of a core),"
        f" {usage.ru_maxrss * 1024 / 1e9:.2f} GB resident at most; r off by {error:.1e}; of"
        f" {len(planted):,} planted partners found, by their r: {recall}"
    )


if __name__ == "__main__":
    main()
