"""What others do on a CUDA device, in the tables of `test_gpu.py`.

Every line checks its answer against float64, to what float32 (or the published method's float16)
can be expected to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import rivals
import torch
from device import (
    DEVICE,
    PAIRED,
    DeviceMeasure,
    Paired,
    Size,
    clock,
    line_of,
    two_layers,
    two_layers_options,
)
from test_all_pairs import FLOAT16_LIMIT
from test_paired import RIVAL_LIMIT, compiled
from torch import Tensor

from univfast import reference
from univfast.bench.data import LAYER

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=clock)]

# Of torchmetrics, whose updates of fewer tokens the launches of its kernels would bound.
METRIC_TOKENS = 8192

# ---- the paired stream --------------------------------------------------------------------------


def naive(a: Tensor, b: Tensor) -> Tensor:
    """In float32: the sums of 16-bit numbers would be of 16 bits, and far off."""
    return rivals.naive(a.float(), b.float())


def measure_rival(
    measure: DeviceMeasure, line: str, paired: Paired, draws: int, run: Callable[[], Tensor]
) -> None:
    data = paired.data
    options = {"against": line_of(draws), "group": paired.group, "amount": data.nbytes}
    answer = measure(line, run, data, **options)
    measure.check(answer.cpu(), data, data.exact_draw[: 1 + draws], RIVAL_LIMIT)


@PAIRED
def test_naive(
    measure_on_device: DeviceMeasure, size: Size, wide: bool, dtype: torch.dtype
) -> None:
    paired = Paired(size, wide, dtype)
    run = partial(naive, paired.data.a, paired.data.b)
    measure_rival(measure_on_device, "naive torch", paired, 0, run)


def test_naive_rotated(measure_on_device: DeviceMeasure, size: Size) -> None:
    """By the matrix of the rotation that univfast does without one."""
    paired = Paired(size, False, torch.float32)
    data = paired.data
    matrix = reference.rotation_matrix("hadamard", data.neurons, 0, 0, LAYER)
    rotation = torch.from_numpy(matrix).float().to(DEVICE)
    run = partial(rivals.naive_rotated, data.a, data.b, rotation)
    measure_rival(measure_on_device, "naive torch, 1 draw", paired, 1, run)


def test_torchmetrics(measure_on_device: DeviceMeasure, size: Size) -> None:
    pytest.importorskip("torchmetrics")
    paired = Paired(size, False, torch.float32)
    run = partial(rivals.torchmetrics_streaming, paired.data.a, paired.data.b, METRIC_TOKENS)
    measure_rival(measure_on_device, "torchmetrics, streaming", paired, 0, run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_compiled(measure_on_device: DeviceMeasure, size: Size, dtype: torch.dtype) -> None:
    paired = Paired(size, False, dtype)
    run = compiled(naive, paired.data.a, paired.data.b)
    measure_rival(measure_on_device, "torch.compile", paired, 0, run)


# ---- all pairs ----------------------------------------------------------------------------------


def test_naive_pairs(measure_on_device: DeviceMeasure, size: Size) -> None:
    data = two_layers(size)
    run = partial(rivals.naive_pairs, list(data.a.values()), list(data.b.values()))
    options = two_layers_options(data, 0)
    answer = measure_on_device("naive torch, r alone", run, data, **options)
    measure_on_device.check(answer.cpu(), data, data.exact(), RIVAL_LIMIT)


@pytest.mark.parametrize("draws", [0, 1])
def test_published(measure_on_device: DeviceMeasure, size: Size, draws: int) -> None:
    """Matrices are made beforehand."""
    data = two_layers(size)
    rotations = [
        [
            torch.from_numpy(reference.rotation_matrix("gaussian", width, draw, 0, name))
            .float()
            .to(DEVICE)
            for name, width in data.widths.items()
        ]
        for draw in range(draws)
    ]
    run = partial(rivals.published, list(data.a.values()), list(data.b.values()), rotations)
    line = line_of(draws).replace("univfast", "published method")
    answer = measure_on_device(line, run, data, **two_layers_options(data, draws))
    exact = data.exact(*["gaussian"] * draws)
    measure_on_device.check(answer.cpu(), data, exact, FLOAT16_LIMIT)
