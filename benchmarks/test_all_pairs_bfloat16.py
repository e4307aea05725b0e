"""All pairs of bfloat16 layers, beside the float32 product that they need not take.

The product floor is that of float32, of the same numbers. Every line checks its answer.
"""

from __future__ import annotations

from functools import partial

import pytest
import rivals
import torch
from harness import Layers, Measure
from test_all_pairs import (
    LIMIT,
    R_ALONE,
    line_of,
    measure_floor,
    measure_published,
    measure_univfast,
)

TOP = 10

pytestmark = pytest.mark.benchmark(group="all pairs, bfloat16")


@pytest.fixture(scope="module")
def layers(two_layers: Layers) -> Layers:
    return Layers(*({n: x.bfloat16() for n, x in m.items()} for m in (two_layers.a, two_layers.b)))


def test_product_floor(measure: Measure, layers: Layers) -> None:
    measure_floor(measure, layers)


def test_torch_bfloat16(measure: Measure, layers: Layers) -> None:
    """The product alone by torch, whose result is rounded to 8 bits: faster than it may be."""
    a, b = (torch.cat([*side.values()], dim=1) for side in (layers.a, layers.b))
    product = torch.empty(layers.neurons, layers.neurons, dtype=torch.bfloat16)
    run = partial(torch.mm, a.T, b, out=product)
    measure("torch.mm of bfloat16, rounded", run, layers, floor="product floor", against=R_ALONE)
    exact = a[:, layers.checked].double().T @ b[:, layers.checked].double()
    got = product[layers.checked][:, layers.checked].double()
    torch.testing.assert_close(got, exact, rtol=1e-2, atol=1e-2 * layers.tokens)


@pytest.mark.parametrize("draws", [0, 1, 10])
def test_univfast(measure: Measure, layers: Layers, draws: int) -> None:
    kinds = ["hadamard"] if draws else []
    measure_univfast(measure, line_of(draws), layers, *kinds, draws=max(draws, 1))


@pytest.mark.parametrize("draws", [0, 1, 10])
def test_univfast_float32(measure: Measure, layers: Layers, draws: int) -> None:
    kinds = ["hadamard"] if draws else []
    line = f"{line_of(draws)}, products=float32"
    options = {"draws": max(draws, 1), "products": "float32"}
    measure_univfast(measure, line, layers, *kinds, **options)


def test_torch_topk(measure: Measure, layers: Layers) -> None:
    run = partial(rivals.top_pairs, [*layers.a.values()], [*layers.b.values()], TOP)
    answer = measure("torch product and topk", run, layers, floor="product floor", against=R_ALONE)
    measure.check(answer, layers, layers.exact(), LIMIT)


def test_faiss(measure: Measure, layers: Layers) -> None:
    pytest.importorskip("faiss")
    run = partial(rivals.faiss_pairs, [*layers.a.values()], [*layers.b.values()], TOP)
    answer = measure("FAISS, flat index", run, layers, floor="product floor", against=R_ALONE)
    measure.check(answer, layers, layers.exact(), LIMIT)


@pytest.mark.parametrize("draws", [0, 1])
def test_published(measure: Measure, layers: Layers, draws: int) -> None:
    measure_published(measure, layers, draws)
