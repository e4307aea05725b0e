"""From which share of active features on products of dense slices are faster than sums by entries.

    python benchmarks/sparse_crossover.py --features 3072 --tokens 16384

Both are `univfast.correlate` of the same sparse features, told by `univfast.runs.sparse_plan` to
go either way; both give the same r. Medians of pairs of runs, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

import univfast as uf
from univfast.runs import sparse_plan

ACTIVE = (1 / 64, 1 / 32, 1 / 24, 1 / 16, 1 / 12, 1 / 8)  # of the features, of each token
LIMIT = 2e-5  # of r, between the two


def features(width: int, tokens: int, active: int, seed: int) -> dict[str, Any]:
    """Random features, as many of each token."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(tokens, width, generator=generator).topk(active, dim=1).indices
    values = torch.rand(tokens, active, generator=generator) + 0.5
    return {"top_indices": numbers.int(), "top_acts": values, "d_sae": width}


def timed(a: dict[str, Any], b: dict[str, Any], by_entries: bool) -> tuple[float, torch.Tensor]:
    """Seconds that either way takes, and r."""
    sparse_plan._LARGEST_SHARE = 1.0 if by_entries else 0.0
    start = time.perf_counter()
    result = uf.correlate(a, b, match="best", rotation="none", details=False)
    seconds = time.perf_counter() - start
    assert result.summary["method"]["sums"] == ("sparse" if by_entries else "dense")
    return seconds, result.correlation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=int, default=3072)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each kind")
    given = parser.parse_args()
    print("| active | of value pairs | by entries, s | dense, s | entries / dense |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for share in ACTIVE:
        active = max(1, round(share * given.features))
        a, b = (features(given.features, given.tokens, active, seed) for seed in (1, 2))
        found: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(given.pairs):
            for by_entries, times in found.items():
                seconds, r = timed(a, b, by_entries)
                times.append(seconds)
                if by_entries:
                    exact = r
            assert float((exact - r).abs().max()) < LIMIT
        entries, dense = (statistics.median(found[way]) for way in (True, False))
        ratio = statistics.median(x / y for x, y in zip(found[True], found[False], strict=True))
        both = (active / given.features) ** 2
        print(
            f"| {share:.2%} | {both:.3%} | {entries:.2f} | {dense:.2f} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
