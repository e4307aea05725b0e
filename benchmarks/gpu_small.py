"""Every CUDA kernel at a small size: for compute-sanitizer, under which they run far slower.

``compute-sanitizer --tool racecheck python benchmarks/gpu_small.py``. Answers are compared with the
CPU's.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import univfast as uf
from univfast import native
from univfast.nulls.rotations import HadamardRotations

DEVICE = "cuda"

# Neurons and tokens: whole vector loads and single ones, one transform and several across blocks,
# sums in registers and (from 3,073 on) not, rows in shared memory and (the widest) not.
SIZES = ((48, 70), (33, 70), (1344, 40), (4096, 20), (32768, 6))
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LIMIT = 5e-5


def near(found: Tensor, expected: Tensor, what: str) -> None:
    assert torch.equal(found.isnan(), expected.isnan()), what
    errors = (found - expected).abs().nan_to_num()
    assert not (errors > LIMIT).any(), f"{what}: off by {float(errors.max()):.2g}"


def data(tokens: int, neurons: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(tokens, neurons, generator=g) for _ in range(2))
    return a.to(dtype), (a + b).to(dtype)


# ---- the paired stream --------------------------------------------------------------------------


def paired(a: Tensor, b: Tensor, mask: Tensor | None = None, **options: Any) -> None:
    """Two batches, so that states merge."""
    found = []
    for device in (DEVICE, "cpu"):
        accumulator = uf.PairedCorrelation(a.shape[1], device=device, **options)
        for part in (slice(0, len(a) // 2), slice(len(a) // 2, None)):
            keep = None if mask is None else mask[part].to(device)
            accumulator.update(a[part].to(device), b[part].to(device), mask=keep)
        found.append(accumulator.correlations())
    what = f"{tuple(a.shape)} {a.dtype} {options}"
    near(found[0].correlation, found[1].correlation, f"r, {what}")
    near(found[0].rotated, found[1].rotated, f"rotated r, {what}")
    near(found[0].shifted, found[1].shifted, f"r with wrong partners, {what}")


def all_paired() -> None:
    for dtype in DTYPES:
        for neurons, tokens in SIZES:
            a, b = data(tokens, neurons, dtype)
            paired(a, b, draws=3)
        a, b = data(70, 48, dtype)
        paired(a, b, rotation="none")
        paired(a, b, torch.arange(70) % 3 > 0, draws=2)
        paired(a[:, :33], b[:, :33], draws=2)  # rows that no vector load fits
        b[:, 0] *= 1000  # which float32 does not hold where it is rotated
        paired(a, b, draws=3)
        refused(a, b)


def refused(a: Tensor, b: Tensor) -> None:
    a = a.clone()
    a[37, 29] = torch.nan
    accumulator = uf.PairedCorrelation(48, draws=2, device=DEVICE)
    accumulator.update(a.to(DEVICE), b.to(DEVICE))
    with pytest.raises(uf.InputError, match="token 37, neuron 29"):
        accumulator.correlations()


def rotations() -> None:
    """The kernel by itself."""
    for dtype in (torch.float32, torch.float64):
        for neurons, _ in SIZES:
            x, _ = data(3, neurons, dtype)
            turn = HadamardRotations(neurons, range(2), 0, "activations")
            found = turn.to(torch.device(DEVICE)).apply(x.to(DEVICE))
            near(found.cpu(), turn.apply(x), f"rotation of {neurons}, {dtype}")


# ---- all pairs ----------------------------------------------------------------------------------


def pairs(a: dict[str, Tensor], b: dict[str, Tensor], **options: Any) -> None:
    results = []
    for device in (DEVICE, "cpu"):
        widths = [{name: x.shape[1] for name, x in side.items()} for side in (a, b)]
        accumulator = uf.AllPairsCorrelation(*widths, device=device, top_k=3, **options)
        accumulator.update(
            *({name: x.to(device) for name, x in side.items()} for side in (a, b)),
        )
        results.append(accumulator.compute())
    for name in ("correlation", "baseline", "top_correlation"):
        found, expected = (getattr(result, name) for result in results)
        near(found, expected, f"{name} of all pairs, {options}")


def all_pairs() -> None:
    for dtype in DTYPES:
        a, b = ({"x": x[:, :48], "y": x[:, 48:]} for x in data(300, 118, dtype))
        pairs(a, b, draws=1, reverse=True)  # rotated as the tokens come
        pairs(a, b, draws=20, exclude_self=True)  # by the co-moments within a layer
    a, b = data(40, 20_000, torch.float32)  # whose rows do not fit shared memory
    pairs({"x": a[:, :4]}, {"y": b}, draws=1)


def main() -> None:
    for job in (all_paired, rotations, all_pairs):
        job()
        torch.cuda.synchronize()
        print(f"{job.__name__}: right", flush=True)
    print(f"CUDA {native.cuda_built_with()}")


if __name__ == "__main__":
    main()
