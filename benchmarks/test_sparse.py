"""Sparse features: the highest r of each feature of A with all features of B.

Every line checks its answer against float64: univfast to 1e-6, and rivals, in float32, to 1e-5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from harness import Array, Measure
from torch import Tensor

import univfast as uf
from univfast.bench.data import spread

ACTIVE = 32  # of each token, of wide dictionaries
LIMIT, RIVAL_LIMIT = 1e-6, 1e-5
_TOKENS = 4096  # that are made dense at a time

sparse = pytest.mark.benchmark(group="sparse features")


class Dictionaries:
    """Two models of the k largest features of each token; the rarer, the higher their number.

    Attributes:
        numbers: of the features of A and of B, int32 ``[tokens, active]`` each.
        values: float32, of the same shape.
    """

    def __init__(self, tokens: int, width: int) -> None:
        self.tokens, self.neurons, self.dtype = tokens, width, torch.float32
        active = max(1, min(ACTIVE, width // 32))
        self.size = f"{tokens:,} tokens x {width:,} features, {active} active"
        self.checked = spread(width)
        generator = torch.Generator().manual_seed(0)
        weight = (20 + torch.arange(width)).float().pow(-0.8)
        shape = tokens, active
        shared = torch.multinomial(weight.expand(tokens, -1), active, generator=generator)
        other = torch.multinomial(weight.expand(tokens, -1), active, generator=generator)
        # Half of B's follow A's; a feature that would stand twice is left out.
        both = torch.cat([shared[:, ::2], other], dim=1)
        first = torch.tensor([[True]]).expand(tokens, both.shape[1]).clone()
        order = both.sort(dim=1, stable=True)
        again = order.values[:, 1:] == order.values[:, :-1]
        first.scatter_(1, order.indices[:, 1:], ~again)
        both = torch.where(first, both, -1)[:, :active]
        self.numbers = [shared.int(), both.int()]
        self.values = [torch.rand(shape, generator=generator) + 0.5 for _ in range(2)]
        self.values[1][both < 0] = 0

    def sources(self) -> list[dict[str, Any]]:
        """As `correlate` takes them."""
        return [
            {"top_indices": numbers, "top_acts": values, "d_sae": self.neurons}
            for numbers, values in zip(self.numbers, self.values, strict=True)
        ]

    def dense(self, model: int, part: slice) -> Tensor:
        """Some tokens, float32 ``[tokens, features]``."""
        numbers, values = self.numbers[model][part].long(), self.values[model][part]
        x = torch.zeros(len(numbers), self.neurons)
        return x.scatter_add_(1, numbers.clamp(min=0), values)

    def exact(self) -> Array:
        """The highest r of the features that are checked, in float64."""
        every = [slice(i, i + _TOKENS) for i in range(0, self.tokens, _TOKENS)]
        n, columns = self.tokens, self.checked
        cross = torch.zeros(len(columns), self.neurons, dtype=torch.float64)
        sums = torch.zeros(4, self.neurons, dtype=torch.float64)
        for part in every:
            a, b = (self.dense(model, part).double() for model in range(2))
            cross += a[:, columns].T @ b
            sums += torch.stack([a.sum(0), a.square().sum(0), b.sum(0), b.square().sum(0)])
        mean_a, mean_b = sums[0] / n, sums[2] / n
        norm_a, norm_b = (sums[1] - n * mean_a**2).sqrt(), (sums[3] - n * mean_b**2).sqrt()
        r = (cross - n * torch.outer(mean_a[columns], mean_b)) / torch.outer(
            norm_a[columns], norm_b
        )
        return r.nan_to_num(nan=-2.0).max(dim=1).values.numpy()[None]


@pytest.fixture(scope="session")
def dictionaries(request: pytest.FixtureRequest) -> Dictionaries:
    option = request.config.getoption
    return Dictionaries(option("tokens"), 2 * option("neurons"))


def highest(cross: Tensor, moments: Tensor, tokens: int) -> Tensor:
    """The highest r ``[features of A]`` of raw sums: x y, and x, x x, y, y y."""
    mean_a, mean_b = moments[0] / tokens, moments[2] / tokens
    inverse = [
        (moments[i + 1] - tokens * mean * mean).rsqrt() for i, mean in ((0, mean_a), (2, mean_b))
    ]
    r = (cross - tokens * torch.outer(mean_a, mean_b)) * inverse[0][:, None] * inverse[1]
    return r.nan_to_num(nan=-2.0).max(dim=1).values


@sparse
def test_read_floor(measure: Measure, dictionaries: Dictionaries) -> None:
    arrays = [*dictionaries.numbers, *dictionaries.values]

    def run() -> list[Tensor]:
        return [x.amax() for x in arrays]

    largest = measure("read floor", run, dictionaries)
    assert [float(x) for x in largest] == [float(x.numpy().max()) for x in arrays]


@sparse
def test_univfast(measure: Measure, dictionaries: Dictionaries) -> None:
    a, b = dictionaries.sources()

    def run() -> uf.CorrelationResult:
        return uf.correlate(a, b, match="best", rotation="none", details=False)

    result = measure("univfast", run, dictionaries)
    measure.check(result.correlation, dictionaries, dictionaries.exact(), LIMIT)


@sparse
def test_densified(measure: Measure, dictionaries: Dictionaries) -> None:
    """As univfast did before, and others do: dense slices, and a product of each."""

    def run() -> uf.CorrelationResult:
        width = dictionaries.neurons
        sums = uf.AllPairsCorrelation({"x": width}, {"x": width}, rotation="none")
        for first in range(0, dictionaries.tokens, _TOKENS):
            sums.update(*(dictionaries.dense(i, slice(first, first + _TOKENS)) for i in range(2)))
        return sums.compute()

    line = "univfast, made dense"
    result = measure(line, run, dictionaries, once=True)
    measure.check(result.correlation, dictionaries, dictionaries.exact(), RIVAL_LIMIT)


@sparse
def test_torch(measure: Measure, dictionaries: Dictionaries) -> None:
    def run() -> Tensor:
        cross = torch.zeros(dictionaries.neurons, dictionaries.neurons)
        moments = torch.zeros(4, dictionaries.neurons)
        for first in range(0, dictionaries.tokens, _TOKENS):
            a, b = (dictionaries.dense(i, slice(first, first + _TOKENS)) for i in range(2))
            cross.addmm_(a.T, b)
            moments += torch.stack([a.sum(0), a.square().sum(0), b.sum(0), b.square().sum(0)])
        return highest(cross.double(), moments.double(), dictionaries.tokens)

    answer = measure("dense slices, torch product and max", run, dictionaries, once=True)
    measure.check(answer, dictionaries, dictionaries.exact(), RIVAL_LIMIT)


@sparse
def test_scipy(measure: Measure, dictionaries: Dictionaries) -> None:
    """``A.T @ B`` of CSR; float64, as its float32 sums are."""
    models = []
    for numbers, values in zip(dictionaries.numbers, dictionaries.values, strict=True):
        starts = np.arange(dictionaries.tokens + 1) * numbers.shape[1]
        entries = values.double().flatten().numpy(), numbers.clamp(min=0).flatten().numpy(), starts
        models.append(scipy.sparse.csr_array(entries, (dictionaries.tokens, dictionaries.neurons)))

    def run() -> Tensor:
        a, b = models
        moments = [x for m in models for x in (m.sum(axis=0), m.multiply(m).sum(axis=0))]
        cross = torch.from_numpy((a.T.tocsr() @ b).toarray())
        return highest(cross, torch.from_numpy(np.stack(moments)), dictionaries.tokens)

    answer = measure("scipy.sparse, A.T @ B and max", run, dictionaries, once=True)
    measure.check(answer, dictionaries, dictionaries.exact(), LIMIT)
