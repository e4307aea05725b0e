"""Candidate pairs alone, beside all pairs: r of some tens of pairs of each neuron.

Every line checks its answer against float64: univfast to 1e-6, as its docstring promises, and the
others to what float32 gives.
"""

from __future__ import annotations

import pytest
import torch
from harness import Array, Measure
from torch import Tensor

from univfast import native, reference
from univfast.bench.data import correlated, spread
from univfast.inputs.layout import Layout
from univfast.sums.batches import PairOrigin
from univfast.sums.candidates import Candidates, CandidateSums

LIMIT = 1e-6
FLOAT32_LIMIT = 1e-4

# Candidates of each neuron in each direction.
_EACH = 32
# Neurons whose rows a cache holds, tokens of a row, and pairs that a rival gathers at a time.
_PANEL, _BLOCK, _GATHERED = 16384, 128, 4096
# Rows of the product that is made at a time.
_ROWS = 2048

pytestmark = pytest.mark.benchmark(group="candidates")

UNIVFAST = "univfast"
FLOOR = "row floor"


class Pairs:
    """Two models and pairs of their neurons, (i, i) among them, in no order."""

    def __init__(self, tokens: int, width: int) -> None:
        self.a, self.b = correlated(tokens, width)
        g = torch.Generator().manual_seed(0)
        forward, backward = torch.randint(0, width, (2, width, _EACH), generator=g)
        forward[:, 0] = torch.arange(width)
        self.candidates = Candidates.of(forward, backward)
        self.rows, self.places = self.candidates.rows(), self.candidates.places
        self.layout = Layout(("mlp",), (width,))
        # As the harness counts: a pair has an r, as elsewhere a neuron has one.
        self.tokens, self.neurons, self.dtype = tokens, len(self.places), self.a.dtype
        self.size = f"{tokens:,} tokens x {width:,} neurons, {self.neurons:,} pairs"
        self.checked = spread(self.neurons)

    def exact(self, dtype: torch.dtype = torch.float32) -> Array:
        """r of the checked pairs, ``[1, checked]``, of values as they are in a dtype."""
        x, y = (
            side[:, places[self.checked]].to(dtype).double().numpy()
            for side, places in ((self.a, self.rows), (self.b, self.places))
        )
        return reference.pearson(x, y)[None]

    def standardised(self) -> tuple[Tensor, Tensor]:
        """``[neurons, tokens]``, so that a product of two rows is their r."""
        both = []
        for x in (self.a, self.b):
            centred = (x - x.mean(dim=0)).T.contiguous()
            both.append(centred.div_(centred.norm(dim=1, keepdim=True)))
        return both[0], both[1]


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest) -> Pairs:
    option = request.config.getoption
    return Pairs(max(64, option("tokens") // 16), option("neurons") * 16 // 3)


def test_row_floor(measure: Measure, pairs: Pairs) -> None:
    """As many bytes of rows of B as the pairs read, from a cache, in order, by one BLAS call."""
    panel = min(_PANEL, pairs.layout.neurons)
    y, x = torch.ones(panel, _BLOCK), torch.ones(_BLOCK)
    products = torch.empty(panel)
    times = max(1, round(pairs.neurons * pairs.tokens / (panel * _BLOCK)))

    def run() -> Tensor:
        for _ in range(times):
            torch.mv(y, x, out=products)
        return products

    found = measure(FLOOR, run, pairs, floor=FLOOR, against=UNIVFAST)
    assert (found == _BLOCK).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_univfast(measure: Measure, pairs: Pairs, dtype: torch.dtype) -> None:
    """`CandidateSums`: all tokens, and r; candidates are cut beforehand."""
    a, b = pairs.a.to(dtype), pairs.b.to(dtype)
    sums = CandidateSums(pairs.layout, pairs.layout, pairs.candidates)

    def run() -> Tensor:
        sums.reset()
        sums.update_rows([a], [b], None, PairOrigin())
        return sums.correlations()

    line = UNIVFAST + (", bfloat16" if dtype == torch.bfloat16 else "")
    found = measure(line, run, pairs, floor=FLOOR, against=UNIVFAST)
    measure.check(found, pairs, pairs.exact(dtype), LIMIT)


def test_without_panels(measure: Measure, pairs: Pairs) -> None:
    """The same operation on whole rows of B, wherever they are in memory."""
    x, y = pairs.standardised()
    ones, zeros = (torch.full((len(x),), value, dtype=torch.float64) for value in (1.0, 0.0))
    sums = torch.empty(pairs.neurons, dtype=torch.float64)

    def run() -> Tensor:
        sums.zero_()
        for u, v in zip(x.split(_BLOCK, dim=1), y.split(_BLOCK, dim=1), strict=True):
            native.candidate_products(
                u, v, pairs.candidates, (ones, ones), (zeros, zeros), sums, torch.get_num_threads()
            )
        return sums

    line = "candidate_products, without panels"
    found = measure(line, run, pairs, floor=FLOOR, against=UNIVFAST)
    measure.check(found, pairs, pairs.exact(), FLOAT32_LIMIT)


def test_torch_gathered(measure: Measure, pairs: Pairs) -> None:
    """Both rows of each pair gathered, multiplied and summed; standardised beforehand."""
    x, y = pairs.standardised()

    def run() -> Tensor:
        return torch.cat(
            [
                torch.einsum("pt,pt->p", x[i], y[j])
                for i, j in zip(
                    pairs.rows.split(_GATHERED), pairs.places.split(_GATHERED), strict=True
                )
            ]
        )

    found = measure("torch, gathered", run, pairs, floor=FLOOR, against=UNIVFAST)
    measure.check(found, pairs, pairs.exact(), FLOAT32_LIMIT)


def test_all_pairs(measure: Measure, pairs: Pairs) -> None:
    """`torch.mm` of all pairs, some rows at a time, of which those asked for are taken."""
    x, y = pairs.standardised()
    starts = pairs.candidates.starts

    def product(first: int) -> Tensor:
        end = min(first + _ROWS, len(x))
        own = slice(int(starts[first]), int(starts[end]))
        return (x[first:end] @ y.T)[pairs.rows[own] - first, pairs.places[own]]

    def run() -> Tensor:
        return torch.cat([product(first) for first in range(0, len(x), _ROWS)])

    line = "torch, all pairs, run once"
    found = measure(line, run, pairs, floor=FLOOR, against=UNIVFAST, once=True)
    measure.check(found, pairs, pairs.exact(), FLOAT32_LIMIT)
