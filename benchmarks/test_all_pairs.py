"""All pairs: the highest r of each neuron of A with all neurons of B, and with rotations of B.

Every line checks its answer against float64: univfast and plain float32 to 1e-5, as README promises
for products, and the published method to what float16 can hold.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import rivals
import torch
from harness import Layers, Measure
from torch import Tensor

import univfast as uf
from univfast import reference

LIMIT = 1e-5
FLOAT16_LIMIT = 5e-3

# Tokens that the cost of many draws is set against, and how many draws.
PASS_TOKENS = 100_000
MANY_DRAWS = 100
# Neurons of a layer from which on that comparison means anything.
_ENOUGH = 512

all_pairs = pytest.mark.benchmark(group="all pairs")
twelve = pytest.mark.benchmark(group="all pairs, 12 layers")
many_draws = pytest.mark.benchmark(group="draws, 12 layers")

R_ALONE = "univfast, r alone"


def line_of(draws: int) -> str:
    return f"univfast, {draws} draw{'s' if draws > 1 else ''}" if draws else R_ALONE


def measure_floor(measure: Measure, data: Layers) -> None:
    """All products of A and B in one call, with nothing to convert before or do after."""
    a, b = (torch.cat([x.float() for x in side.values()], dim=1) for side in (data.a, data.b))
    product = torch.empty(data.neurons, data.neurons)
    run = partial(torch.mm, a.T, b, out=product)
    measure("product floor", run, data, floor="product floor", against=R_ALONE)
    exact = a[:, data.checked].double().T @ b[:, data.checked].double()
    got = product[data.checked][:, data.checked].double()
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4 * data.tokens)


def measure_univfast(
    measure: Measure, line: str, data: Layers, *kinds: str, **options: Any
) -> None:
    """`update` with everything and `compute`.

    Args:
        kinds: of the rotation, if there is one.
        options: of `AllPairsCorrelation`, with ``draws`` if there is a rotation.
    """
    accumulator = uf.AllPairsCorrelation(
        data.widths, data.widths, rotation=kinds[0] if kinds else "none", **options
    )

    def run() -> uf.CorrelationResult:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        return accumulator.compute()

    against = line_of(options["draws"] if kinds else 0)
    result = measure(line, run, data, floor="product floor", against=against)
    found = torch.stack([result.correlation, first_draw(result)][: 1 + len(kinds)])
    measure.check(found, data, data.exact(*kinds), LIMIT)


def first_draw(result: uf.CorrelationResult) -> Tensor:
    """The highest r with the first rotation, ``[neurons]``; NaN if there is none.

    A draw's null excess is over the mean of the others.
    """
    if result.null_excess is None:
        return result.baseline
    draws = len(result.null_excess)
    return result.baseline + result.null_excess[0] * (draws - 1) / draws


def measure_published(measure: Measure, data: Layers, draws: int, *, once: bool = False) -> None:
    """Matrices are made beforehand."""
    rotations = [
        [
            torch.from_numpy(reference.rotation_matrix("gaussian", width, draw, 0, name)).float()
            for name, width in data.widths.items()
        ]
        for draw in range(draws)
    ]
    a, b = list(data.a.values()), list(data.b.values())
    run = partial(rivals.published, a, b, rotations)
    line = line_of(draws).replace("univfast", "published method") + (", run once" * once)
    against = line_of(draws)
    answer = measure(line, run, data, floor="product floor", against=against, once=once)
    exact = data.exact(*["gaussian"] * min(draws, 1))
    measure.check(answer[: len(exact)], data, exact, FLOAT16_LIMIT)


# ---- 2 layers -----------------------------------------------------------------------------------


@all_pairs
def test_product_floor(measure: Measure, two_layers: Layers) -> None:
    measure_floor(measure, two_layers)


@all_pairs
def test_univfast(measure: Measure, two_layers: Layers) -> None:
    measure_univfast(measure, R_ALONE, two_layers)


@all_pairs
@pytest.mark.parametrize("draws", [1, 10])
def test_univfast_draws(measure: Measure, two_layers: Layers, draws: int) -> None:
    measure_univfast(measure, line_of(draws), two_layers, "hadamard", draws=draws)


@all_pairs
def test_univfast_both_directions(measure: Measure, two_layers: Layers) -> None:
    line = f"{line_of(1)}, both directions"
    measure_univfast(measure, line, two_layers, "hadamard", draws=1, reverse=True)


@all_pairs
def test_univfast_gaussian(measure: Measure, two_layers: Layers) -> None:
    measure_univfast(measure, f"{line_of(10)}, gaussian", two_layers, "gaussian", draws=10)


@all_pairs
@pytest.mark.parametrize("draws", [0, 1])
def test_published(measure: Measure, two_layers: Layers, draws: int) -> None:
    measure_published(measure, two_layers, draws)


@all_pairs
def test_published_10_draws(measure: Measure, two_layers: Layers) -> None:
    measure_published(measure, two_layers, 10, once=True)


@all_pairs
def test_naive(measure: Measure, two_layers: Layers) -> None:
    run = partial(rivals.naive_pairs, list(two_layers.a.values()), list(two_layers.b.values()))
    answer = measure(
        "naive torch, r alone", run, two_layers, floor="product floor", against=R_ALONE
    )
    measure.check(answer, two_layers, two_layers.exact(), LIMIT)


@all_pairs
def test_compute(measure: Measure, two_layers: Layers) -> None:
    """Reducing the co-moments to best and top-k costs little beside the product they come from."""
    widths = two_layers.widths
    accumulator = uf.AllPairsCorrelation(widths, widths, rotation="none")
    accumulator.update(two_layers.a, two_layers.b)
    line = "univfast, compute of r alone"
    result = measure(line, accumulator.compute, two_layers, floor="product floor", against=R_ALONE)
    measure.check(result.correlation, two_layers, two_layers.exact(), LIMIT)
    product, compute = measure.median("product floor", two_layers), measure.median(line, two_layers)
    if min(widths.values()) >= _ENOUGH and product is not None and compute is not None:
        assert compute < 0.1 * product * PASS_TOKENS / two_layers.tokens


# ---- 12 layers ----------------------------------------------------------------------------------


@twelve
def test_product_floor_12_layers(measure: Measure, twelve_layers: Layers) -> None:
    measure_floor(measure, twelve_layers)


@twelve
@pytest.mark.parametrize("draws", [0, 1, 10])
def test_univfast_12_layers(measure: Measure, twelve_layers: Layers, draws: int) -> None:
    kinds = ["hadamard"] if draws else []
    measure_univfast(measure, line_of(draws), twelve_layers, *kinds, draws=max(draws, 1))


# ---- many draws, after the data -----------------------------------------------------------------


@many_draws
def test_update(measure: Measure, twelve_layers: Layers) -> None:
    widths = twelve_layers.widths
    accumulator = uf.AllPairsCorrelation(widths, widths, draws=MANY_DRAWS)
    run = partial(accumulator.update, twelve_layers.a, twelve_layers.b)
    measure("update", run, twelve_layers, floor="product floor", against="update")
    assert accumulator.tokens % twelve_layers.tokens == 0


@many_draws
def test_compute_many_draws(measure: Measure, twelve_layers: Layers) -> None:
    """Many draws cost less than the pass over the data, which is reckoned from fewer tokens."""
    widths = twelve_layers.widths
    accumulator = uf.AllPairsCorrelation(widths, widths, draws=MANY_DRAWS)
    accumulator.update(twelve_layers.a, twelve_layers.b)
    line = f"compute, {MANY_DRAWS} draws"
    result = measure(
        line, accumulator.compute, twelve_layers, floor="product floor", against="update"
    )
    found = torch.stack([result.correlation, first_draw(result)])
    measure.check(found, twelve_layers, twelve_layers.exact("hadamard"), LIMIT)
    update = measure.median("update", twelve_layers)
    compute = measure.median(line, twelve_layers)
    if min(widths.values()) >= _ENOUGH and update is not None and compute is not None:
        assert compute < update * PASS_TOKENS / twelve_layers.tokens
