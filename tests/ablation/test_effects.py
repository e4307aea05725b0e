"""Intervals over documents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from univfast import reference
from univfast.ablation.effects import DocumentSums


def test_they_are_those_of_the_reference() -> None:
    g = np.random.default_rng(0)
    lengths = g.integers(0, 9, 40)
    documents = [g.normal(0.3, 1, (n, 2)) for n in lengths]
    sums = DocumentSums(2)
    for start in range(0, 40, 7):
        part = documents[start : start + 7]
        sums.add(
            torch.tensor([float(len(x)) for x in part], dtype=torch.float64),
            torch.from_numpy(np.stack([x.sum(axis=0) for x in part])),
        )
    assert sums.tokens == lengths.sum()
    assert sums.documents == (lengths > 0).sum()
    for i, found in enumerate(sums.intervals()):
        expected = reference.over_documents([x[:, i] for x in documents])
        assert found.mean == pytest.approx(expected.mean, rel=1e-12)
        assert found.low == pytest.approx(expected.low, rel=1e-9)
        assert found.high == pytest.approx(expected.high, rel=1e-9)


def test_of_documents_of_one_length_it_is_the_t_interval() -> None:
    from scipy import stats

    g = np.random.default_rng(1)
    values = g.normal(2, 1, 12)
    sums = DocumentSums(1)
    tokens = torch.full((12,), 5.0, dtype=torch.float64)
    sums.add(tokens, torch.from_numpy(values * 5)[:, None])
    (found,) = sums.intervals()
    low, high = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_few_documents() -> None:
    none = DocumentSums(2)
    assert all(math.isnan(x.mean) for x in none.intervals())
    one = DocumentSums(1)
    one.add(torch.tensor([4.0, 0.0]).double(), torch.tensor([[2.0], [9.0]]).double())
    (found,) = one.intervals()
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_coverage() -> None:
    """Of 1,000 samples of 15 documents of unequal lengths, about 95% cover the truth."""
    g = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        lengths = g.integers(5, 30, 15).astype(float)
        own = g.normal(0.4, 0.3, 15)  # documents differ
        sums = DocumentSums(1)
        values = torch.from_numpy(own * lengths + g.normal(0, 1, 15) * np.sqrt(lengths))
        sums.add(torch.from_numpy(lengths), values[:, None])
        (found,) = sums.intervals()
        covered += found.low <= 0.4 <= found.high
    assert 0.92 <= covered / 1000 <= 0.97
