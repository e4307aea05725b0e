"""Wrong partners by index: which they are, and whether chance is what they say."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import univfast as uf
from univfast import native, reference
from univfast.nulls.shifts import make_shifts, partners, shifts_of
from univfast.nulls.statistics import statistics

Array = NDArray[np.float64]

# ---- which they are -----------------------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(1, 700), st.integers(0, 120), st.integers(), st.text(max_size=4))
def test_shifts_are_distinct_and_the_references(
    neurons: int, shifts: int, seed: int, layer: str
) -> None:
    found = shifts_of(neurons, shifts, seed, layer).tolist()
    assert len(found) == min(shifts, neurons - 1)
    assert len(set(found)) == len(found)
    assert all(1 <= shift < neurons for shift in found)
    assert found == reference.shifts_of(neurons, shifts, seed, layer).tolist()


GOLDEN = [1728, 2780, 2434, 137, 2435, 1189, 2241]
GOLDEN_NARROW = [3, 5, 2, 1, 4]


def test_golden_shifts() -> None:
    """A saved state is good for its own shifts alone."""
    assert shifts_of(3072, 7, 0, "activations").tolist() == GOLDEN
    assert shifts_of(6, 20, 1, "mlp.0").tolist() == GOLDEN_NARROW


def test_layers_and_seeds_have_shifts_of_their_own() -> None:
    each = [shifts_of(3072, 20, seed, layer) for seed in (0, 1) for layer in ("mlp.0", "mlp.1")]
    assert len({tuple(one.tolist()) for one in each}) == 4


def test_fewer_shifts_are_the_first_of_more() -> None:
    more = shifts_of(3072, 40, 3, "mlp.0")
    for count in (5, 12, 20):
        assert torch.equal(shifts_of(3072, count, 3, "mlp.0"), more[:count])


def test_wide_layers_share_lags() -> None:
    """What makes them cheap: 9 rows are read for 20 shifts."""
    for neurons in (512, 3072, 4096):
        found = make_shifts(neurons, 20, 0, "activations")
        assert (len(found.leads), len(found.lags)) == (4, native.SHARED_LAGS)


@pytest.mark.parametrize("number", [0, 4, 5, 11, 19])
def test_every_shift_is_equally_likely(number: int) -> None:
    neurons, seeds = 97, 4000
    found = [int(shifts_of(neurons, 20, seed, "layer")[number]) for seed in range(seeds)]
    counts = np.bincount(found, minlength=neurons)[1:]
    expected = seeds / (neurons - 1)
    # Chi squared of 95 degrees, within four standard deviations.
    distance = ((counts - expected) ** 2 / expected).sum()
    assert abs(distance - 95) < 4 * np.sqrt(2 * 95)


def test_partners_go_round() -> None:
    assert partners(torch.tensor([1, 3]), 4).tolist() == [[1, 2, 3, 0], [3, 0, 1, 2]]


@pytest.mark.parametrize(
    ("leads", "lags", "count"), [([8], [0], 1), ([-1], [0], 1), ([1], [0, 1], 2), ([1], [9], 1)]
)
def test_shifts_that_cannot_be_are_refused(leads: list[int], lags: list[int], count: int) -> None:
    x, none = torch.ones(3, 8), native.rotation_signs(8, 0, 0)
    shifts = native.Shifts(torch.tensor(leads), torch.tensor(lags), count)
    with pytest.raises(ValueError, match="shifts"):
        native.paired_moments(x, x, None, none, 1, shifts)


# ---- how many there are -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 7, 20, 23, 41, 63])
def test_any_number_of_shifts(count: int, dtype: torch.dtype) -> None:
    """In cells that are full or not, of any tokens, on any number of threads."""
    g = torch.Generator().manual_seed(count)
    a = (torch.randn(530, 64, generator=g, dtype=torch.float64) + 3).to(dtype)
    b = (torch.randn(530, 64, generator=g, dtype=torch.float64) + a.double()).to(dtype)
    found = []
    for threads in (1, 2):
        sums = uf.PairedCorrelation(64, shifts=count, draws=1, threads=threads)
        for part in (slice(0, 9), slice(9, 530)):
            sums.update(a[part], b[part])
        found.append(sums.correlations().shifted)
    assert torch.equal(*found)
    plain = reference.PairedCorrelation(64, shifts=count, draws=1)
    plain.update(a.double().numpy(), b.double().numpy())
    exact = plain.compute()[2]
    assert found[0].shape == exact.shape == (count, 64)
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    assert np.abs(found[0].numpy() - exact).max(initial=0) <= limit


# ---- statistics ---------------------------------------------------------------------------------


class Layer(NamedTuple):
    """r of one layer: its own ``[neurons]``, with rotations, with wrong partners."""

    r: Array
    rotated: Array
    shifted: Array


def random_layer(g: np.random.Generator, neurons: int, draws: int, shifts: int) -> Layer:
    r, rotated = g.uniform(-1, 1, neurons), g.uniform(-0.2, 0.2, (draws, neurons))
    shifted = np.full((shifts, neurons), np.nan)
    has = min(shifts, neurons - 1)
    shifted[:has] = g.uniform(-1, 1, (has, neurons))
    dead = g.random(neurons) < 0.2
    shifted[g.random(shifted.shape) < 0.1] = np.nan  # dead partners
    r[dead], rotated[:, dead], shifted[:, dead] = np.nan, np.nan, np.nan
    return Layer(r, rotated, shifted)


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 25),
    st.floats(-1, 1),
)
def test_statistics_are_the_references(
    seed: int, sizes: list[int], draws: int, shifts: int, threshold: float
) -> None:
    most = min(shifts, max(sizes) - 1)
    g = np.random.default_rng(seed)
    layers = [random_layer(g, neurons, draws, most) for neurons in sizes]
    r, rotated, shifted = (np.concatenate(parts, axis=-1) for parts in zip(*layers, strict=True))
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    ours = statistics(
        *(torch.from_numpy(x)[None] for x in (r, rotated)),
        sizes,
        threshold,
        torch.from_numpy(shifted)[None],
    )
    theirs = reference.statistics(r, rotated, numbers, threshold, shifted)
    for name in ("baseline", "baseline_std", "excess", "p_value", "q_value"):
        got, expected = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14, err_msg=name)
    np.testing.assert_array_equal(ours.universal, theirs.universal)
    assert (ours.chance_counts is None) == (most < 2) == np.isnan(theirs.universal_by_chance)
    if ours.chance_counts is not None:
        by_chance = float(ours.chance_counts.mean())
        assert by_chance == pytest.approx(theirs.universal_by_chance, abs=1e-12)


def test_layers_of_few_neurons() -> None:
    """A layer stands in each draw with what its own give; one partner alone is no null."""
    g = np.random.default_rng(0)
    widths = {"wide": 40, "three": 3, "two": 2, "one": 1}
    a, b = ({n: g.standard_normal((50, w)) for n, w in widths.items()} for _ in range(2))
    a["three"][:] = b["three"][:] = g.standard_normal((50, 1))  # any partner has r = 1
    result = uf.correlate(a, b, match="index", rotation="none")
    assert result.summary["shifts"] == 20
    assert result.null_excess is not None
    assert result.null_excess.shape == (20, 46)
    assert result.null_excess[:, :40].isfinite().all()
    assert result.null_excess[:2, 40:43].min() > 0.999
    assert result.null_excess[2:, 40:43].isnan().all()
    assert result.null_excess[:, 43:].isnan().all()
    assert result.p_value.isnan().tolist() == [False] * 43 + [True] * 3
    alone = uf.correlate(a["wide"], b["wide"], match="index", rotation="none", threshold=0.5)
    passing = (result.null_excess[:, :40] > 0.5).sum(dim=1).tolist()
    assert result.summary["chance_counts"] == [count + 3 for count in passing]
    assert alone.summary["shifts"] == 20


def test_without_rotations_the_excess_is_r() -> None:
    g = np.random.default_rng(0)
    a, b = g.standard_normal((2, 400, 30))
    b[:, 7] = a[:, 7]
    a[:, 3] = 1
    result = uf.correlate(a, b, match="index", rotation="none")
    assert result.baseline.nan_to_num(9).unique().tolist() == [0, 9]
    assert torch.equal(result.excess.nan_to_num(9), result.correlation.nan_to_num(9))
    assert result.universal.nonzero().flatten().tolist() == [7]
    assert result.summary["universal_by_chance"] == 0
    assert result.summary["fdr"] == 0
    assert result.baseline_std.isnan().all()
    plain = uf.correlate(a, b, match="index", rotation="none", shifts=0)
    assert plain.baseline.isnan().all()
    assert plain.summary["shifts"] == 0
    assert plain.null_excess is None
    best = uf.correlate(a, b, rotation="none", match="best")
    assert best.baseline.isnan().all()
    assert best.summary["shifts"] is None


def test_rotations_do_not_see_the_shifts() -> None:
    g = np.random.default_rng(1)
    a, b = g.standard_normal((2, 100, 40))
    with_them, without = (uf.correlate(a, b, match="index", shifts=shifts) for shifts in (20, 0))
    assert torch.equal(with_them.baseline, without.baseline)
    assert torch.equal(with_them.excess, without.excess)
    # Rotations do not say what chance is by index.
    assert without.null_excess is None
    assert without.summary["universal_by_chance"] is None


@pytest.mark.parametrize("rotation", ["hadamard", "none"])
def test_several_models(rotation: str) -> None:
    """Means over the models that a neuron and its wrong partner are alive in."""
    g = np.random.default_rng(2)
    a, *others = g.standard_normal((4, 200, 25))
    others[0][:, 4] = others[1][:, [4, 9]] = 0
    options: dict[str, Any] = {"rotation": rotation, "draws": 3, "seed": 5}
    result = uf.correlate(a, others, match="index", shifts=6, **options)
    nulls, excesses = [], []
    for other in others:
        plain = reference.PairedCorrelation(25, shifts=6, **options)
        plain.update(a, other)
        r, rotated, shifted = plain.compute()
        baseline = np.where(np.isnan(r), np.nan, rotated.mean(axis=0) if len(rotated) else 0)
        nulls.append(shifted - baseline)
        excesses.append(r - baseline)
    assert result.null_excess is not None
    expected = torch.from_numpy(np.array(nulls)).nanmean(dim=0)
    torch.testing.assert_close(result.null_excess, expected, rtol=0, atol=1e-12, equal_nan=True)
    expected = torch.from_numpy(np.array(excesses)).nanmean(dim=0)
    torch.testing.assert_close(result.excess, expected, rtol=0, atol=1e-12, equal_nan=True)
    for one, null in zip(result.by_model, nulls, strict=True):
        np.testing.assert_allclose(one.null_excess, null, rtol=0, atol=1e-12)


# ---- whether chance is what they say ------------------------------------------------------------


class Factors(NamedTuple):
    """ReLU of factors that both models see, by independent loadings, and of noise."""

    rank: int
    bias: float
    heavy: bool = False  # tails of the factors


TABLE = {
    "rank 8": Factors(8, -1.0),
    "rank 4": Factors(4, -2.0),
    "rank 3": Factors(3, -1.5),
    "rank 8, heavy tails": Factors(8, -1.0, heavy=True),
}
SEEDS, TOKENS, NEURONS = 6, 4000, 512


def nothing_shared_by_index(kind: Factors, seed: int) -> tuple[Tensor, Tensor]:
    g = np.random.default_rng([seed, kind.rank])
    size = TOKENS, kind.rank
    factors = g.standard_t(3, size) if kind.heavy else g.standard_normal(size)

    def model() -> Tensor:
        loadings = g.standard_normal((kind.rank, NEURONS)) / np.sqrt(kind.rank)
        noise = 0.3 * g.standard_normal((TOKENS, NEURONS))
        return torch.from_numpy(np.maximum(factors @ loadings + noise + kind.bias, 0)).float()

    return model(), model()


@pytest.mark.parametrize("name", TABLE)
def test_chance_is_what_wrong_partners_give(name: str) -> None:
    """Where a nonlinearity makes r of what nothing is shared by, which no rotation has."""
    difference, variance, small, by_rotations = 0.0, 0.0, [], []
    for seed in range(SEEDS):
        sums = uf.PairedCorrelation(NEURONS, seed=seed)
        sums.update(*nothing_shared_by_index(TABLE[name], seed))
        result = sums.compute()
        counts = torch.tensor(result.summary["chance_counts"], dtype=torch.float64)
        assert counts.mean() > 3, "hardly any is flagged: a case that decides nothing"
        difference += result.summary["universal"] - float(counts.mean())
        variance += float(counts.var()) * (1 + 1 / len(counts))
        small.append(share_below(result.p_value))
        rotated = statistics(
            result.correlation[None], sums.correlations().rotated[None], [NEURONS], 0.5
        )
        by_rotations.append(share_below(rotated.p_value))
    assert abs(difference) <= 4 * np.sqrt(variance)
    assert 0.03 <= np.mean(small) <= 0.07
    assert np.mean(by_rotations) > 0.07, "rotations would do: a case that decides nothing"


def share_below(p_value: Tensor) -> float:
    live = p_value[~p_value.isnan()]
    return float((live < 0.05).double().mean())


def test_planted_pairs_stand_out() -> None:
    a, b = nothing_shared_by_index(TABLE["rank 8"], 0)
    own = torch.arange(0, NEURONS, 13)
    b[:, own] = a[:, own] + 0.05 * torch.randn(
        TOKENS, len(own), generator=torch.Generator().manual_seed(0)
    )
    result = uf.correlate(a, b, match="index")
    assert result.universal[own].all()
    assert (result.q_value[own] < 0.05).all()
    assert result.summary["fdr"] < 0.5
