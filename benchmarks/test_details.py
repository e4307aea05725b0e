"""Details of matched pairs, beside the pass that they are taken in, or that comes before them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from harness import Activations, Layers, Measure
from test_all_pairs import measure_floor as measure_product_floor
from test_paired import measure_floor
from torch import Tensor

import univfast as uf
from univfast.sums.details import PairDetails
from univfast.sums.token_facts import TokenFacts, token_groups

LIMIT = 1e-6
PAIRS_LIMIT = 1e-5

# Tokens that are read at a time, and of a sample.
_SLICE = 4096
_WINDOW = 512
# Ids of a vocabulary, about as often as words are.
_IDS, _EXPONENT = 50_000, 1.1

by_index = pytest.mark.benchmark(group="details, index")
of_best = pytest.mark.benchmark(group="details, all pairs")

PASS = "the pass, 5 draws"
ROTATIONS = 5


def facts_of(tokens: int, known: bool) -> TokenFacts:
    if not known:
        return TokenFacts(tokens)
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1, _IDS + 1, dtype=torch.float64).pow(-_EXPONENT)
    ids = torch.multinomial(weights, tokens, replacement=True, generator=generator)
    return TokenFacts(tokens, min(_WINDOW, tokens // 2), token_groups(ids))


def update(details: PairDetails, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    details.reset()
    for first in range(0, details.facts.tokens, _SLICE):
        part = slice(first, first + _SLICE)
        details.update_rows([x[part] for x in a], [x[part] for x in b], None, first)


# ---- by index -----------------------------------------------------------------------------------


@by_index
def test_read_floor(measure: Measure, float32: Activations) -> None:
    measure_floor(measure, float32)


@by_index
def test_pass(measure: Measure, float32: Activations) -> None:
    accumulator = uf.PairedCorrelation(float32.neurons, draws=ROTATIONS)

    def run() -> None:
        accumulator.reset()
        accumulator.update(float32.a, float32.b)

    measure(PASS, run, float32, against=PASS)
    measure.check(accumulator.correlations().correlation, float32, float32.exact, LIMIT)


@by_index
@pytest.mark.parametrize("known", [False, True], ids=["pairs", "ids and positions"])
@pytest.mark.parametrize("match", ["index", "anywhere"])
def test_details(measure: Measure, float32: Activations, match: str, known: bool) -> None:
    """Each partner beside the last one, and the same partners with the neurons of B in disorder."""
    neurons, b = float32.neurons, float32.b
    order = torch.arange(neurons)
    if match == "anywhere":
        order = torch.randperm(neurons, generator=torch.Generator().manual_seed(0))
        b = b[:, order.argsort()].contiguous()
    layers = {"x": neurons}
    details = PairDetails(layers, layers, order, facts_of(float32.tokens, known))
    line = f"details, {match}" + ", ids and positions" * known
    measure(line, partial(update, details, [float32.a], [b]), float32, against=PASS)
    found = details.finish()
    assert (found.token_r2 is not None) == known
    assert (found.correlation_low <= found.correlation).all()
    measure.check(found.correlation, float32, float32.exact, LIMIT)


@by_index
@pytest.mark.parametrize("known", [False, True], ids=["pairs", "ids and positions"])
def test_finish(measure: Measure, float32: Activations, known: bool) -> None:
    """What is done once, at the end."""
    layers = {"x": float32.neurons}
    match = torch.arange(float32.neurons)
    details = PairDetails(layers, layers, match, facts_of(float32.tokens, known))
    update(details, [float32.a], [float32.b])
    line = "finish" + ", ids and positions" * known
    found = measure(line, details.finish, float32, against=PASS)
    measure.check(found.correlation, float32, float32.exact, LIMIT)


# ---- after all pairs ----------------------------------------------------------------------------


@of_best
def test_product_floor(measure: Measure, two_layers: Layers) -> None:
    measure_product_floor(measure, two_layers)


@of_best
def test_pass_of_all_pairs(measure: Measure, two_layers: Layers) -> None:
    widths = two_layers.widths
    accumulator = uf.AllPairsCorrelation(widths, widths, draws=ROTATIONS)

    def run() -> None:
        accumulator.reset()
        accumulator.update(two_layers.a, two_layers.b)

    measure(PASS, run, two_layers, floor="product floor", against=PASS)
    result = accumulator.compute()
    measure.check(result.correlation, two_layers, two_layers.exact(), PAIRS_LIMIT)


@of_best
@pytest.mark.parametrize("known", [False, True], ids=["pairs", "ids and positions"])
def test_details_of_best(measure: Measure, two_layers: Layers, known: bool) -> None:
    widths = two_layers.widths
    a, b = list(two_layers.a.values()), list(two_layers.b.values())
    x, y = (torch.cat(side, dim=1).float() for side in (a, b))
    x, y = (v - v.mean(dim=0) for v in (x, y))
    match = ((x / x.norm(dim=0)).T @ (y / y.norm(dim=0))).argmax(dim=1)
    details = PairDetails(widths, widths, match, facts_of(two_layers.tokens, known))
    line = "details" + ", ids and positions" * known
    run = partial(update, details, a, b)
    measure(line, run, two_layers, floor="product floor", against=PASS)
    measure.check(details.finish().correlation, two_layers, two_layers.exact(), PAIRS_LIMIT)
