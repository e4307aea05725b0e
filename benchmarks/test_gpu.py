"""univfast on a CUDA device, beside the device's own rates and what others do there.

Needs a device; skipped without one. All inputs are several times the device's cache. Every line
checks its answer against float64, to what README promises. `test_gpu_rivals.py` adds rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from device import (
    DEVICE,
    PAIRED,
    DeviceActivations,
    DeviceMeasure,
    Paired,
    Size,
    clock,
    layers,
    line_of,
    two_layers,
    two_layers_options,
)
from harness import Layers
from test_all_pairs import LIMIT as PAIRS_LIMIT
from test_all_pairs import first_draw
from test_paired import LIMIT
from torch import Tensor

import univfast as uf
from univfast.bench.data import LAYER

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=clock)]

# float16 and bfloat16 are multiplied as they are; tf32 cuts each factor to 11 bits.
HALF_LIMIT = 5e-5
TF32_LIMIT = 2e-3

RATES = "the device"
PRECISIONS = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
# Of a stream: 8 sequences of 512.
BATCH_TOKENS = 4096


class Matrices:
    """What the device's own rates are measured with."""

    def __init__(self, size: str, dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.tokens = self.neurons = 0
        self.checked = torch.empty(0, dtype=torch.int64)


def options_of(draws: int) -> dict[str, Any]:
    return {"draws": draws} if draws else {"rotation": "none"}


# ---- the device ---------------------------------------------------------------------------------


def measure_copy(measure: DeviceMeasure, line: str, source: Tensor, sides: int) -> None:
    """Counts the bytes read and written on the device."""
    target = torch.full_like(source, torch.nan, device=DEVICE)
    data = Matrices(f"{source.nbytes / 1e9:.1f} GB", source.dtype)
    run = partial(target.copy_, source, non_blocking=True)
    measure(line, run, data, floor=line, group=RATES, amount=sides * source.nbytes)
    assert torch.equal(target, source.to(DEVICE))


def test_copy(measure_on_device: DeviceMeasure, size: Size) -> None:
    source = torch.randn(size.nbytes // 8, device=DEVICE)
    measure_copy(measure_on_device, "copy", source, 2)


def test_upload(measure_on_device: DeviceMeasure, size: Size) -> None:
    """From pinned memory of the host."""
    measure_copy(measure_on_device, "upload", torch.randn(size.nbytes // 8).pin_memory(), 1)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether torch multiplies float32 in tf32."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_product(measure_on_device: DeviceMeasure, size: Size, precision: str) -> None:
    n, dtype = min(8192, size.tokens // 4), PRECISIONS[precision]
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    product = torch.full_like(a, torch.nan)
    line = f"product, {precision}"
    run = partial(torch.mm, a, b, out=product)
    data = Matrices(f"{n:,} x {n:,} matrices", dtype)
    with tf32(precision == "tf32"):
        measure_on_device(line, run, data, floor=line, group=RATES, amount=2 * n**3)
    rows = slice(n // 2, n // 2 + 4)
    exact = a[rows].double() @ b.double()
    torch.testing.assert_close(product[rows].double(), exact, rtol=1e-2, atol=1e-2 * n**0.5)


# ---- the paired stream --------------------------------------------------------------------------


NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


def measure_univfast(
    measure: DeviceMeasure,
    line: str,
    data: DeviceActivations,
    draws: int,
    run: Callable[[uf.PairedCorrelation], None],
    **options: Any,
) -> None:
    """``run`` updates an accumulator with all tokens, any number of times."""
    accumulator = uf.PairedCorrelation(data.neurons, device=DEVICE, shifts=0, **options_of(draws))
    options = {"against": line_of(draws), "amount": data.nbytes, **options}
    measure(line, partial(run, accumulator), data, **options)
    found = accumulator.correlations()
    answer = torch.cat((found.correlation[None], found.rotated[:1]))
    measure.check(answer, data, data.exact_draw[: 1 + min(draws, 1)], LIMIT)


@PAIRED
@pytest.mark.parametrize("draws", [0, 1, 5])
def test_univfast(
    measure_on_device: DeviceMeasure, size: Size, wide: bool, dtype: torch.dtype, draws: int
) -> None:
    """`update` with everything, one after another as in a stream."""
    paired = Paired(size, wide, dtype)
    data = paired.data
    measure_univfast(
        measure_on_device,
        line_of(draws),
        data,
        draws,
        lambda accumulator: accumulator.update(data.a, data.b),
        group=paired.group,
    )


@PAIRED
def test_univfast_shifts(
    measure_on_device: DeviceMeasure, size: Size, wide: bool, dtype: torch.dtype
) -> None:
    paired = Paired(size, wide, dtype)
    data = paired.data
    sums = uf.PairedCorrelation(data.neurons, device=DEVICE, shifts=20, rotation="none")
    measure_on_device(
        f"{line_of(0)}, 20 shifts",
        lambda: sums.update(data.a, data.b),
        data,
        against=line_of(0),
        amount=data.nbytes,
        group=paired.group,
    )
    answer = sums.correlations().correlation[None]
    measure_on_device.check(answer, data, data.exact_draw[:1], LIMIT)


@NARROW
@pytest.mark.parametrize("draws", [0, 1])
def test_univfast_in_batches(
    measure_on_device: DeviceMeasure, size: Size, dtype: torch.dtype, draws: int
) -> None:
    paired = Paired(size, False, dtype)
    batches = [list(x.split(BATCH_TOKENS)) for x in (paired.data.a, paired.data.b)]

    def run(accumulator: uf.PairedCorrelation) -> None:
        for a, b in zip(*batches, strict=True):
            accumulator.update(a, b)

    line = f"{line_of(draws)}, batches of {BATCH_TOKENS:,}"
    measure_univfast(measure_on_device, line, paired.data, draws, run, group=paired.group)


# ---- all pairs ----------------------------------------------------------------------------------

BATCHES = 8


@lru_cache(maxsize=1)
def twelve_layers(tokens: int, width: int) -> Layers:
    """One batch over and over, which is larger than the cache too."""
    data = layers(tokens, 12, width, torch.bfloat16)
    data.size = f"{BATCHES} batches of {data.size}"
    return data


@pytest.mark.parametrize("job", ["update", "compute", "both"])
def test_twelve_layers(measure_on_device: DeviceMeasure, size: Size, job: str) -> None:
    """10 draws."""
    data = twelve_layers(size.tokens // 2, size.neurons)
    accumulator = uf.AllPairsCorrelation(data.widths, data.widths, draws=10, device=DEVICE)

    def update() -> None:
        for _ in range(BATCHES):
            accumulator.update(data.a, data.b)

    def both() -> uf.CorrelationResult:
        accumulator.reset()
        update()
        return accumulator.compute()

    runs: dict[str, Callable[[], object]] = {
        "update": update,
        "compute": accumulator.compute,
        "both": both,
    }
    lines = {"update": "univfast, update", "compute": "univfast, compute", "both": line_of(10)}
    operations = 2 * BATCHES * data.tokens * data.neurons**2
    update()
    measure_on_device(
        lines[job],
        runs[job],
        data,
        floor="product, bfloat16",
        against=line_of(10),
        group=f"all pairs, {len(data.a)} layers of {size.neurons:,} neurons, bfloat16",
        amount=0 if job == "compute" else operations,
        batches=BATCHES,
    )
    result = accumulator.compute()
    found = torch.stack([result.correlation, first_draw(result)])
    measure_on_device.check(found, data, data.exact("hadamard"), HALF_LIMIT)


@pytest.mark.parametrize("draws", [0, 1, 10])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_two_layers(
    measure_on_device: DeviceMeasure, size: Size, precision: str, draws: int
) -> None:
    """`update` with everything, and `compute`."""
    data = two_layers(size)
    accumulator = uf.AllPairsCorrelation(
        data.widths, data.widths, device=DEVICE, precision=precision, **options_of(draws)
    )

    def run() -> uf.CorrelationResult:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        return accumulator.compute()

    line = line_of(draws) if precision == "float32" else f"{line_of(draws)}, tf32"
    result = measure_on_device(line, run, data, **two_layers_options(data, draws, precision))
    kinds = ["hadamard"] if draws else []
    found = torch.stack([result.correlation, first_draw(result)][: 1 + len(kinds)])
    limit = TF32_LIMIT if precision == "tf32" else PAIRS_LIMIT
    measure_on_device.check(found, data, data.exact(*kinds), limit)


# ---- from the host ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def on_host(size: Size) -> DeviceActivations:
    """Half of the tokens, and memory that is not pinned."""
    data = Paired(size, False, torch.bfloat16).data
    return DeviceActivations(*(x[: len(x) // 2].cpu() for x in (data.a, data.b)))


FROM_HOST: dict[str, Any] = {"floor": "upload", "group": "from the host, 5 draws, bfloat16"}


def test_from_memory(measure_on_device: DeviceMeasure, size: Size) -> None:
    data = on_host(size)
    measure_univfast(
        measure_on_device,
        "update with CPU tensors",
        data,
        5,
        lambda accumulator: accumulator.update(data.a, data.b),
        **FROM_HOST | {"against": "files, cuda"},
    )


@pytest.mark.parametrize("place", [DEVICE, "cpu"])
def test_from_files(
    measure_on_device: DeviceMeasure, size: Size, place: str, tmp_path: Path
) -> None:
    """Files that the operating system still holds in memory."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    data = on_host(size)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path, x in zip(paths, (data.a, data.b), strict=True):
        save_file({LAYER: x}, path)
    run = partial(uf.correlate, *paths, draws=5, device=place)
    options = FROM_HOST | {"against": "files, cuda", "amount": data.nbytes}
    result = measure_on_device(f"files, {place}", run, data, **options)
    found = torch.stack([result.correlation, first_draw(result)])
    measure_on_device.check(found, data, data.exact_draw, LIMIT)
