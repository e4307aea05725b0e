"""Intervals of r: how often they hold the true r where tokens hang together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from univfast.nulls.intervals import fisher_interval, jackknife_error, lower_excess, t_quantile
from univfast.sums.details import PairDetails
from univfast.sums.token_facts import TokenFacts

PAIRS, TOKENS, WINDOW = 1000, 6400, 50
# Of what 1,000 independent intervals cover, three standard errors.
NOISE = 3 * np.sqrt(0.95 * 0.05 / PAIRS)


def autoregressive(rho: float, r: float, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian pairs of this r, each token correlated ``rho`` with the one before."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, TOKENS, PAIRS, generator=g, dtype=torch.float64)
    y = r * x + (1 - r * r) ** 0.5 * y
    fresh = (1 - rho * rho) ** 0.5
    for values in (x, y):
        values[1:] *= fresh
        for token in range(1, TOKENS):
            values[token] += rho * values[token - 1]
    return x, y


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.0, 0.7])
@pytest.mark.parametrize("rho", [0.0, 0.9, 0.99])
def test_coverage(rho: float, r: float) -> None:
    x, y = autoregressive(rho, r, seed=int(100 * rho))
    details = PairDetails(
        {"x": PAIRS}, {"y": PAIRS}, torch.arange(PAIRS), TokenFacts(TOKENS, WINDOW), top_k=1
    )
    details.update_rows([x], [y], None, 0)
    found = details.finish()
    assert found.blocks == 32
    held = (found.correlation_low <= r) & (r <= found.correlation_high)
    assert 0.93 - NOISE <= held.double().mean() <= 0.97 + NOISE
    # That of independent tokens.
    reach = 1.96 / (TOKENS - 3) ** 0.5
    naive = (found.correlation.atanh() - np.arctanh(r)).abs() <= reach
    assert naive.double().mean() < {0.0: 0.97 + NOISE, 0.9: 0.6, 0.99: 0.3}[rho]


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(32, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left_out = (values.sum(dim=0) - values) / 31
    expected = values.std(dim=0) / 32**0.5
    torch.testing.assert_close(jackknife_error(left_out), expected, rtol=1e-12, atol=0)
    assert jackknife_error(values[:1]).isnan().all()


def test_quantiles_of_t() -> None:
    for blocks in (2, 5, 32):
        assert t_quantile(blocks) == pytest.approx(stats.t.ppf(0.975, blocks - 1), rel=1e-12)
    assert np.isnan(t_quantile(1))


def test_ends() -> None:
    r = torch.tensor([0.5, 1.0, -1.0, np.nan, 1.0], dtype=torch.float64)
    error = torch.tensor([0.1, 0.0, 1e-9, 0.1, np.nan], dtype=torch.float64)
    low, high = fisher_interval(r, error, 32)
    reach = t_quantile(32) * 0.1 / 0.75
    assert low[0] == pytest.approx(np.tanh(np.arctanh(0.5) - reach))
    assert high[0] == pytest.approx(np.tanh(np.arctanh(0.5) + reach))
    assert low[1:3].tolist() == high[1:3].tolist() == [1, -1]
    assert low[3:].isnan().all()
    assert high[3:].isnan().all()


def test_the_lower_end_of_an_excess() -> None:
    excess, error, std = torch.tensor([[0.6], [0.03], [0.2]], dtype=torch.float64)
    low = lower_excess(excess, error, std, draws=25, blocks=32)
    assert low.item() == pytest.approx(0.6 - t_quantile(32) * 0.05)
