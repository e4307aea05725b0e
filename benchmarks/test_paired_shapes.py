"""The paired stream over widths, dtypes, draws and threads: nothing should fall off a cliff.

Answers are checked as in `test_paired`. Where a layer is too wide for the matrix of a rotation, the
sum of the rotated second moments is, which no rotation changes.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import rivals
import torch
from harness import Activations, Measure
from test_paired import LIMIT, measure_floor, measure_univfast
from torch import Tensor

import univfast as uf
from univfast import reference
from univfast.bench.data import LAYER, correlated
from univfast.sums import moments


def grouped(value: Any, name: str) -> Any:
    """A parameter whose tests form a table."""
    return pytest.param(value, marks=pytest.mark.benchmark(group=f"paired, {name}"), id=name)


WIDTHS = [grouped(width, f"{width:,} neurons") for width in (512, 4096, 14336)]
DTYPES = [
    grouped(dtype, str(dtype).removeprefix("torch."))
    for dtype in (torch.float64, torch.float16, torch.bfloat16)
]
# 2^k, m 2^k with a small odd m, as models have them, and odd and prime ones.
EVERY_WIDTH = [
    *(64, 128, 256, 512, 768, 1000, 1023, 1024, 1536, 2048, 2304, 2560, 3072, 4096, 4099, 5120),
    *(6400, 8192, 9216, 11008, 14336, 16384, 20011, 28672, 32768),
]
# The float64 matrix of a rotation of so many neurons takes 0.1 GB.
_DENSE_NEURONS = 4096


def rotation(neurons: int) -> reference.Array:
    return reference.rotation_matrix("hadamard", neurons, 0, 0, LAYER)


def values(request: pytest.FixtureRequest) -> int:
    """Of one model: as many as in `test_paired`, however they are arranged."""
    option = request.config.getoption
    return int(option("tokens")) * int(option("neurons"))


# ---- widths that models have --------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_width(request: pytest.FixtureRequest) -> Activations:
    return Activations(*correlated(max(4, values(request) // request.param), request.param))


@pytest.mark.parametrize("of_width", WIDTHS, indirect=True)
@pytest.mark.parametrize("draws", [None, 0, 1, 5, 20])
def test_width(measure: Measure, of_width: Activations, draws: int | None) -> None:
    measure_draws(measure, of_width, draws)


def line_of(draws: int) -> str:
    return f"univfast, {draws} draw{'s' if draws > 1 else ''}" if draws else "univfast"


def measure_draws(measure: Measure, data: Activations, draws: int | None) -> None:
    """A line of univfast, or, for None, the floor."""
    if draws is None:
        measure_floor(measure, data)
    else:
        measure_line(measure, line_of(draws), data, draws)


def measure_line(measure: Measure, line: str, data: Activations, draws: int) -> None:
    if draws == 0:
        measure_univfast(measure, line, data, [], rotation="none")
    elif data.neurons <= _DENSE_NEURONS:
        measure_univfast(measure, line, data, [rotation(data.neurons)], draws=draws)
    else:
        measure_wide(measure, line, data, draws)


def measure_wide(measure: Measure, line: str, data: Activations, draws: int) -> None:
    accumulator = uf.PairedCorrelation(data.neurons, draws=draws, shifts=0)

    def run() -> None:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        accumulator.compute()

    measure(line, run, data)
    measure.check(accumulator.correlations().correlation, data, data.exact, LIMIT)
    state = accumulator.state_dict()["moments"]
    total = state[moments.M2_B].sum()
    torch.testing.assert_close(
        state[moments.ROTATED :: 2].sum(dim=1), total.expand(draws), rtol=1e-5, atol=0
    )


# ---- every width, by the same number of values --------------------------------------------------


class SomeValues(Activations):
    """The same values as layers of any width, so that times compare."""

    def __init__(self, a: Tensor, b: Tensor, width: int) -> None:
        tokens = len(a) // width
        super().__init__(*(x[: tokens * width].view(tokens, width) for x in (a, b)))
        self.size = f"{len(a):,} values"


@pytest.fixture(scope="module")
def flat(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    count = max(values(request) // 4, 4 * max(EVERY_WIDTH))
    a, b = (torch.rand(count, generator=g) for _ in range(2))
    return a, b.add_(a)


@pytest.mark.benchmark(group="paired, time by width")
def test_every_width_floor(measure: Measure, flat: tuple[Tensor, Tensor]) -> None:
    measure_floor(measure, SomeValues(*flat, width=1024))


@pytest.mark.benchmark(group="paired, time by width")
@pytest.mark.parametrize("width", EVERY_WIDTH)
def test_every_width(measure: Measure, flat: tuple[Tensor, Tensor], width: int) -> None:
    measure_line(measure, f"{width:,} neurons, 1 draw", SomeValues(*flat, width), 1)


# ---- dtypes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_dtype(request: pytest.FixtureRequest, float32: Activations) -> Activations:
    return Activations(*(x.to(request.param) for x in (float32.a, float32.b)))


@pytest.mark.parametrize("of_dtype", DTYPES, indirect=True)
@pytest.mark.parametrize("draws", [None, 0, 1, 5])
def test_dtype(measure: Measure, of_dtype: Activations, draws: int | None) -> None:
    measure_draws(measure, of_dtype, draws)


@pytest.mark.parametrize("of_dtype", DTYPES, indirect=True)
def test_dtype_arithmetic(measure: Measure, of_dtype: Activations) -> None:
    """One token over and over, which stays in the cache: what conversion and sums take alone."""
    a, b = (x[:1].expand(len(x), -1) for x in (of_dtype.a, of_dtype.b))
    accumulator = uf.PairedCorrelation(of_dtype.neurons, rotation="none", shifts=0)

    def run() -> None:
        accumulator.reset()
        accumulator.update(a, b)
        accumulator.compute()

    measure("univfast, arithmetic alone", run, of_dtype)
    assert accumulator.correlations().correlation.isnan().all()


# ---- threads ------------------------------------------------------------------------------------


def some_threads() -> list[int]:
    most = os.cpu_count() or 1
    return sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i <= most)})


@pytest.mark.benchmark(group="paired, threads")
@pytest.mark.parametrize("draws", [0, 5])
@pytest.mark.parametrize("threads", some_threads())
def test_threads(measure: Measure, float32: Activations, threads: int, draws: int) -> None:
    line = f"{threads} threads, {draws} draws"
    options = {"draws": draws} if draws else {"rotation": "none"}
    rotations = [rotation(float32.neurons)] if draws else []
    measure_univfast(measure, line, float32, rotations, threads=threads, **options)


# ---- what learners write ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(request: pytest.FixtureRequest) -> Activations:
    """A size that the learners' code can finish."""
    option = request.config.getoption
    return Activations(*correlated(min(4096, option("tokens")), min(512, option("neurons"))))


@pytest.mark.benchmark(group="a small layer, 5 rotations")
def test_small_univfast(measure: Measure, small: Activations) -> None:
    measure_univfast(measure, "univfast", small, [rotation(small.neurons)], draws=5)


@pytest.mark.benchmark(group="a small layer, 5 rotations")
def test_small_learners(measure: Measure, small: Activations) -> None:
    matrices = [
        reference.rotation_matrix("haar", small.neurons, draw, 0, LAYER) for draw in range(5)
    ]
    run = partial(rivals.learners, small.a, small.b, [m.T.astype("float32") for m in matrices])
    answer = measure("ortho_group and a pearsonr loop", run, small, once=True)
    measure.check(answer, small, small.exact_rotated(*matrices), 1e-4)
