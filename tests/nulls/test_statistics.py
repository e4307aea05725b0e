"""Baseline, excess, chance, p and q; and whether they find what is there and only that."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import univfast as uf
from support.parity import Array
from univfast import reference
from univfast.nulls.statistics import Statistics, statistics

# ---- against the reference ----------------------------------------------------------------------


# r [neurons] and rotated r [draws, neurons] of one layer
Measured = tuple[Array, Array]


def random_layers(
    seed: int, sizes: list[int], draws: int, dead: float, missing: float = 0.0
) -> list[Measured]:
    """``dead`` neurons have no r at all, ``missing`` ones none by themselves: shares of each."""
    g = np.random.default_rng(seed)
    layers = []
    for i, neurons in enumerate(sizes):
        values = g.uniform(-1, 1, (1 + draws, neurons))
        absent = (g.random(neurons) < dead) | (g.random((1 + draws, neurons)) < missing)
        r, *rotated = np.where(absent, np.nan, values)
        layers.append((r, np.reshape(rotated, (draws, neurons)) * (i + 1) / 4))
    return layers


def ours(layers: list[Measured], threshold: float) -> Statistics:
    return statistics(
        torch.from_numpy(np.concatenate([r for r, _ in layers]))[None],
        torch.from_numpy(np.concatenate([rotated for _, rotated in layers], axis=1))[None],
        [len(r) for r, _ in layers],
        threshold,
    )


def assert_as_reference(layers: list[Measured], threshold: float) -> Statistics:
    found = ours(layers, threshold)
    theirs = reference.statistics(
        np.concatenate([r for r, _ in layers]),
        np.concatenate([rotated for _, rotated in layers], axis=1),
        np.repeat(np.arange(len(layers)), [len(r) for r, _ in layers]),
        threshold,
    )
    for name in ("baseline", "baseline_std", "excess", "p_value", "q_value"):
        got, expected = getattr(found, name), getattr(theirs, name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14, err_msg=name)
    np.testing.assert_array_equal(found.universal, theirs.universal)
    if found.chance_counts is None:
        assert found.null_excess is None
        assert np.isnan(theirs.universal_by_chance)
    else:
        assert found.null_excess is not None
        by_chance = float(found.chance_counts.double().mean())
        assert by_chance == pytest.approx(theirs.universal_by_chance)
    return found


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.floats(-1, 1),
)
def test_fast_statistics_are_the_references(
    seed: int, sizes: list[int], draws: int, dead: float, missing: float, threshold: float
) -> None:
    assert_as_reference(random_layers(seed, sizes, draws, dead, missing), threshold)


def test_ties_count_as_hits() -> None:
    g = np.random.default_rng(0)
    r, rotated = g.integers(-4, 5, 60) / 4, g.integers(-4, 5, (2, 60)) / 4  # exact in binary
    s = assert_as_reference([(r, rotated)], 0.25)
    assert s.null_excess is not None
    assert torch.isin(s.excess, s.null_excess).any(), "no ties: a case that decides nothing"
    assert (s.excess == 0.25).any(), "none at the threshold, which is not above it"


def test_a_wide_layer() -> None:
    s = assert_as_reference(random_layers(0, [400, 700], 5, 0.1), 0.5)
    assert s.universal.any(), "a case that decides nothing"


@pytest.mark.parametrize("draws", [0, 1])
def test_fewer_than_two_draws_give_no_null(draws: int) -> None:
    s = assert_as_reference(random_layers(1, [20, 5], draws, 0.2), 0.5)
    assert s.null_excess is None
    assert s.chance_counts is None
    assert all(column.isnan().all() for column in (s.p_value, s.q_value, s.baseline_std))
    assert bool(s.baseline.isnan().all()) == (draws == 0)


def test_a_layer_that_is_dead_whole() -> None:
    layers = random_layers(2, [20, 30], 3, 0.0)
    layers.insert(1, (np.full(10, np.nan), np.full((3, 10), np.nan)))
    s = assert_as_reference(layers, 0.2)
    assert s.q_value[20:30].isnan().all()
    assert not s.q_value[:20].isnan().any()


def test_every_match_has_an_excess() -> None:
    layers = random_layers(4, [60, 90, 1], 4, 0.1, missing=0.8)
    layers[2] = (np.array([0.3]), np.full((4, 1), np.nan))  # matched in no draw, as its whole layer
    s = assert_as_reference(layers, 0.2)
    r = torch.from_numpy(np.concatenate([r for r, _ in layers]))
    rotated = torch.from_numpy(np.concatenate([rotated for _, rotated in layers], axis=1))
    alone = ~r.isnan() & rotated.isnan().all(dim=0)
    assert alone[:60].any(), "each has a draw: a case that decides nothing"
    assert torch.equal(s.excess.isnan(), r.isnan())
    assert s.null_excess is not None
    assert torch.equal(s.null_excess.isnan(), rotated.isnan())
    assert s.baseline[:60][alone[:60]].unique().tolist() == [float(rotated[:, :60].nanmean())]
    assert float(s.baseline[-1]) == pytest.approx(float(rotated.nanmean()))


def test_nulls_are_pooled_within_a_layer() -> None:
    layers = random_layers(3, [50, 50], 4, 0.0)
    both = ours(layers, 0.5)
    alone = [ours([layer], 0.5) for layer in layers]
    assert torch.equal(both.p_value, torch.cat([s.p_value for s in alone]))
    assert both.p_value.min() >= 1 / (1 + 4 * 50)
    assert not torch.equal(both.q_value, torch.cat([s.q_value for s in alone]))


# ---- what they find -----------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_planted_neurons_are_found(rotation: str) -> None:
    g = np.random.default_rng(0)
    tokens, neurons, r = 3000, 512, 0.9
    a, b = g.standard_normal((2, tokens, neurons))
    planted = np.sort(g.choice(neurons, 40, replace=False))
    b[:, planted] = r * a[:, planted] + np.sqrt(1 - r * r) * b[:, planted]
    # Scale and offset are none of correlation's business.
    b = b * g.uniform(0.5, 2, neurons) + g.uniform(-5, 5, neurons)

    result = uf.correlate(a.astype(np.float32), b.astype(np.float32), rotation=rotation, draws=5)
    assert result.universal.nonzero().flatten().tolist() == planted.tolist()
    assert result.summary["universal"] == 40
    assert result.summary["universal_by_chance"] == 0
    assert result.summary["chance_counts"] == [0] * 20
    assert result.summary["fdr"] == 0
    assert (result.q_value[planted] < 0.05).all()
    assert result.p_value[planted].max() == pytest.approx(1 / (1 + 20 * neurons))
    assert (result.excess[planted] - r).abs().max() < 0.15
    others = np.setdiff1d(np.arange(neurons), planted)
    # BH at 0.05 may add some: about 40 * 0.05 / 0.95, by chance.
    assert (result.q_value[others] < 0.05).sum() <= 8
    assert "more than chance" in result.verdict()


def unaligned(seed: int, neurons: int = 512, tokens: int = 800) -> tuple[Array, Array]:
    """Two models that learned the same five features, each in a basis of its own."""
    g = np.random.default_rng([seed, 17])
    factors = g.standard_normal((tokens, 5))
    a, b = (factors @ g.standard_normal((5, neurons)) for _ in range(2))
    return a + 0.1 * g.standard_normal(a.shape), b + 0.1 * g.standard_normal(b.shape)


@pytest.mark.slow
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_unaligned_models_give_what_chance_gives(rotation: str) -> None:
    flagged, expected, p_values, significant = [], [], [], 0
    for seed in range(6):
        a, b = unaligned(seed)
        result = uf.correlate(a, b, rotation=rotation, draws=16, seed=seed)
        flagged.append(result.summary["universal"])
        expected.append(result.summary["universal_by_chance"])
        p_values.append(result.p_value.numpy())
        significant += result.summary["q_below_0.05"]
        assert result.correlation.abs().max() > 0.9, "no strong correlations: an easy case"
        assert "about what chance gives" in result.verdict()
    assert min(flagged) > 30, "few are flagged: an easy case"
    # Counts of nearly independent neurons: binomial.
    error = np.sqrt(sum(expected))
    assert abs(sum(flagged) - sum(expected)) < 3 * error
    assert significant <= 3
    for p in p_values:
        assert scipy.stats.kstest(p, "uniform").statistic < 1.63 / np.sqrt(len(p))
    pooled = np.concatenate(p_values)
    assert scipy.stats.kstest(pooled, "uniform").statistic < 1.63 / np.sqrt(len(pooled))


def test_a_few_planted_among_many_by_chance() -> None:
    """Where chance flags many, the fdr says what share of those flagged is real."""
    g = np.random.default_rng(4)
    a, b = unaligned(9)
    b[:, :60] = 0.95 * a[:, :60] + 0.3 * g.standard_normal((len(a), 60))
    result = uf.correlate(a, b, draws=16)
    assert result.universal[:60].all()
    false = int(result.universal[60:].sum())
    assert false > 20
    by_chance = result.summary["universal_by_chance"]
    # The chance count is that of all 512 neurons, so a little above what the other 452 give.
    assert abs(by_chance - false * 512 / 452) < 3 * np.sqrt(by_chance)
    assert result.summary["fdr"] == by_chance / result.summary["universal"]
    assert "more than chance explains" in result.verdict()
