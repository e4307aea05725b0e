"""The paired stream: r of neuron i of A with neuron i of B, alone and with rotations of B.

Every line checks its answer against float64: univfast to 1e-6, as README promises, and a rival to
what float32 sums over the tokens can be expected to keep.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import rivals
import torch
from harness import Activations, Array, Measure
from torch import Tensor

import univfast as uf
from univfast import reference

LIMIT = 1e-6
RIVAL_LIMIT = 1e-4

# Words that the check of a read converts at a time, to bound its memory.
_WORDS = 1 << 22

paired = pytest.mark.benchmark(group="paired")
paired_rotation = pytest.mark.benchmark(group="paired+rotation")


def fastest_read(data: Activations) -> str:
    """The name of the read that takes the least time here."""
    best = {}
    for name, read in rivals.READS.items():
        times = []
        for _ in range(5):
            started = time.perf_counter()
            read(data.a, data.b)
            times.append(time.perf_counter() - started)
        best[name] = min(times)
    return min(best, key=best.__getitem__)


def measure_floor(measure: Measure, data: Activations) -> None:
    name = fastest_read(data)
    read = rivals.READS[name]
    got = measure("read floor", partial(read, data.a, data.b), data, read=name)
    words = [read.words(x) for x in (data.a, data.b)]
    for x, w in zip((data.a, data.b), words, strict=True):
        assert x.nbytes - w.nbytes < read.word.itemsize
    parts = zip(*(w.split(_WORDS) for w in words), strict=True)
    exact = sum(read.combine(x.to(read.exact), y.to(read.exact)) for x, y in parts)
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=0, check_dtype=False)


def measure_univfast(
    measure: Measure, line: str, data: Activations, rotations: Sequence[Array], **options: Any
) -> None:
    """`update` with everything and `compute`; rotations are made before, as for the rivals.

    Args:
        rotations: the matrices of all draws, or of the first ones where only those are checked.
        options: of `PairedCorrelation`; no shifts if they do not say.
    """
    accumulator = uf.PairedCorrelation(data.a.shape[1], **{"shifts": 0, **options})

    def run() -> None:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        accumulator.compute()

    measure(line, run, data)
    found = accumulator.correlations()
    answer = torch.cat((found.correlation[None], found.rotated[: len(rotations)]))
    exact = data.exact_rotated(*rotations) if rotations else data.exact
    measure.check(answer, data, exact, LIMIT)


def measure_rival(
    measure: Measure, line: str, data: Activations, run: Callable[[], Tensor], exact: Array
) -> None:
    measure.check(measure(line, run, data), data, exact, RIVAL_LIMIT)


def compiled(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[[], Tensor]:
    """``torch.compile`` of a rival, compiled for these arguments; skips where it cannot be."""
    run = partial(torch.compile(function, fullgraph=True, dynamic=False), *arguments)
    with warnings.catch_warnings():
        # torch's compiler uses what torch itself has deprecated.
        warnings.simplefilter("ignore")
        try:
            run()
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).split("\n\n")[0]
            pytest.skip(f"torch.compile: {' '.join(reason.split())[:200]}")
    return run


# ---- r ------------------------------------------------------------------------------------------


@paired
def test_read_floor(measure: Measure, float32: Activations) -> None:
    measure_floor(measure, float32)


@paired
def test_univfast(measure: Measure, float32: Activations) -> None:
    measure_univfast(measure, "univfast", float32, [], rotation="none")


@paired
def test_univfast_update(measure: Measure, float32: Activations) -> None:
    """Without the result, whose tables and statistics take as long for any number of tokens."""
    accumulator = uf.PairedCorrelation(float32.neurons, rotation="none", shifts=0)

    def run() -> None:
        accumulator.reset()
        accumulator.update(float32.a, float32.b)

    measure("univfast, update alone", run, float32)
    measure.check(accumulator.correlations().correlation, float32, float32.exact, LIMIT)


@paired
def test_univfast_shifts(measure: Measure, float32: Activations) -> None:
    """r with wrong partners too, of which `correlate` by index takes as many by default."""
    accumulator = uf.PairedCorrelation(float32.neurons, rotation="none", shifts=20)

    def run() -> None:
        accumulator.reset()
        accumulator.update(float32.a, float32.b)

    measure("univfast, update alone, 20 shifts", run, float32)
    found = accumulator.correlations()
    answer = torch.cat((found.correlation[None], found.shifted))
    shifts = reference.shifts_of(float32.neurons, 20, 0, "activations").tolist()
    a = float32.a[:, float32.checked].double().numpy()
    exact = [float32.exact[0]]
    for shift in shifts:
        partners = (float32.checked + shift) % float32.neurons
        exact.append(reference.pearson(a, float32.b[:, partners].double().numpy()))
    measure.check(answer, float32, np.stack(exact), LIMIT)


@paired
@pytest.mark.parametrize(
    ("line", "rival"),
    [
        ("naive torch", rivals.naive),
        ("NumPy", rivals.numpy_naive),
        ("torchmetrics, streaming", rivals.torchmetrics_streaming),
    ],
)
def test_rival(
    measure: Measure, float32: Activations, line: str, rival: Callable[[Tensor, Tensor], Tensor]
) -> None:
    run = partial(rival, float32.a, float32.b)
    measure_rival(measure, line, float32, run, float32.exact)


@paired
def test_scipy(measure: Measure, float32: Activations) -> None:
    run = partial(rivals.scipy_pearsonr, float32.a, float32.b)
    answer = measure("SciPy, pearsonr a neuron", run, float32, once=True)
    measure.check(answer, float32, float32.exact, RIVAL_LIMIT)


@paired
def test_compiled(measure: Measure, float32: Activations) -> None:
    run = compiled(rivals.naive, float32.a, float32.b)
    measure_rival(measure, "torch.compile", float32, run, float32.exact)


# ---- r and the rotated r ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hadamard(float32: Activations) -> Array:
    """The first structured rotation, as a matrix."""
    return reference.rotation_matrix("hadamard", float32.a.shape[1], 0, 0, "activations")


@paired_rotation
@pytest.mark.parametrize(
    ("line", "draws"), [("univfast", 1), ("univfast, 5 draws", 5), ("univfast, 20 draws", 20)]
)
def test_univfast_rotation(
    measure: Measure, float32: Activations, hadamard: Array, line: str, draws: int
) -> None:
    measure_univfast(measure, line, float32, [hadamard], draws=draws)


@paired_rotation
def test_univfast_haar(measure: Measure, float32: Activations, haar: Array) -> None:
    measure_univfast(measure, "univfast, haar", float32, [haar], draws=1, rotation="haar")


@paired_rotation
@pytest.mark.parametrize(
    ("line", "rival"),
    [
        ("naive torch", rivals.naive_rotated),
        ("NumPy", rivals.numpy_rotated),
        ("torchmetrics, streaming", rivals.torchmetrics_rotated),
    ],
)
def test_rival_rotation(
    measure: Measure,
    float32: Activations,
    haar: Array,
    line: str,
    rival: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    run = partial(rival, float32.a, float32.b, torch.from_numpy(haar).float())
    measure_rival(measure, line, float32, run, float32.exact_rotated(haar))


@paired_rotation
def test_compiled_rotation(measure: Measure, float32: Activations, haar: Array) -> None:
    rotation = torch.from_numpy(haar).float()
    run = compiled(rivals.naive_rotated, float32.a, float32.b, rotation)
    measure_rival(measure, "torch.compile", float32, run, float32.exact_rotated(haar))
