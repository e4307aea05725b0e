"""The float64 reference, against SciPy, exact arithmetic and examples done by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

import univfast as uf
from support.parity import Array, activations, structured_rotation
from univfast import reference
from univfast.nulls.kinds import MIN_STRUCTURED

# ---- pearson ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [3, 17, 1000])
def test_pearson_is_scipys(tokens: int) -> None:
    a, b = activations(tokens, 65)
    expected = [scipy.stats.pearsonr(a[:, i], b[:, i]).statistic for i in range(65)]
    np.testing.assert_allclose(reference.pearson(a, b), expected, rtol=0, atol=1e-14)


def exact_square_of_r(x: Array, y: Array) -> tuple[Fraction, int]:
    """r^2 without rounding, and the sign of r."""
    u, v = ([Fraction(float(value)) for value in values] for values in (x, y))
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    u, v = [value - mean_u for value in u], [value - mean_v for value in v]
    c = sum(p * q for p, q in zip(u, v, strict=True))
    variances = sum(p * p for p in u) * sum(q * q for q in v)
    return c * c / variances, 1 if c > 0 else -1


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e4, 1), (1e4, 1e-18), (-1e4, 1e18)])
def test_pearson_is_exact(offset: float, scale: float) -> None:
    a, b = ((v + offset) * scale for v in activations(200, 7))
    for i, r in enumerate(reference.pearson(a, b)):
        square, sign = exact_square_of_r(a[:, i], b[:, i])
        assert abs(r - sign * float(square) ** 0.5) < 1e-14


def test_pearson_of_constants_is_nan() -> None:
    a, b = activations(100, 4)
    a[:, 1] = 0.1  # no float: its mean, taken plainly, differs from it
    b[:, 2] = 1e18 / 3
    np.testing.assert_array_equal(np.isnan(reference.pearson(a, b)), [False, True, True, False])


def test_pearson_stays_within_one() -> None:
    a, _ = activations(999, 500)
    assert np.all(reference.pearson(a, a) <= 1)
    assert np.all(reference.pearson(a, -3 * a) >= -1)


# ---- rotations ----------------------------------------------------------------------------------

WIDTHS = [1, 2, 3, 5, 16, 48, 63, 64, 65, 96, 127, 128, 192, 257, 320]


@pytest.mark.parametrize("kind", ["hadamard", "haar"])
@pytest.mark.parametrize("neurons", WIDTHS)
def test_rotations_are_orthogonal(kind: str, neurons: int) -> None:
    r = reference.rotation_matrix(kind, neurons, 1, 7, "layer")
    np.testing.assert_allclose(r @ r.T, np.eye(neurons), rtol=0, atol=1e-13)


@pytest.mark.parametrize("neurons", WIDTHS)
def test_gaussian_has_rows_of_norm_one(neurons: int) -> None:
    r = reference.rotation_matrix("gaussian", neurons, 1, 7, "layer")
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 1.0, rtol=1e-14)
    if neurons > 1:
        assert np.abs(r @ r.T - np.eye(neurons)).max() > 0.05, "it should not be orthogonal"


@pytest.mark.parametrize("neurons", [n for n in WIDTHS if n >= MIN_STRUCTURED])
def test_structured_matrix_does_what_is_documented(neurons: int) -> None:
    r = reference.rotation_matrix("hadamard", neurons, 2, 3, "activations")
    steps = structured_rotation(np.eye(neurons), 2, 3).T
    np.testing.assert_allclose(r, steps, rtol=0, atol=1e-14)


def test_haar_has_the_moments_of_a_uniform_rotation() -> None:
    n, draws = 8, 4000
    r = np.array([reference.rotation_matrix("haar", n, d, 0, "layer") for d in range(draws)])
    error = 5 / np.sqrt(draws)
    # Uniform: E[trace] = 0, E[trace^2] = 1; without the signs of Mezzadri the trace is biased.
    trace = np.trace(r, axis1=1, axis2=2)
    assert abs(trace.mean()) < error
    assert abs((trace**2).mean() - 1) < 2 * error
    assert abs((r[:, 0, 0] ** 4).mean() - 3 / (n * (n + 2))) < error / n**2
    assert set(np.linalg.det(r).round(9)) == {-1.0, 1.0}


def test_rotations_depend_on_seed_draw_layer_and_kind() -> None:
    choices = [
        (kind, 16, draw, seed, layer)
        for kind in ("hadamard", "haar", "gaussian")
        for draw in (0, 1)
        for seed in (0, 1, -1, 2**70)
        for layer in ("mlp.0", "mlp.1")
    ]
    matrices = [reference.rotation_matrix(*choice) for choice in choices]
    assert len({m.tobytes() for m in matrices}) == len(choices)
    again = [reference.rotation_matrix(*choice) for choice in choices]
    assert [m.tobytes() for m in matrices] == [m.tobytes() for m in again]


def test_other_kinds_have_no_matrix() -> None:
    for kind in ("none", "fourier"):
        with pytest.raises(ValueError, match="rotation"):
            reference.rotation_matrix(kind, 4, 0, 0, "layer")


# ---- the accumulator ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", reference.KINDS)
def test_accumulator_joins_batches_and_drops_masked_tokens(kind: str) -> None:
    a, b = activations(60, 9)
    acc = reference.PairedCorrelation(9, draws=3, rotation=kind, seed=5, layer="mlp")
    acc.update(a[:20].reshape(4, 5, 9), b[:20].reshape(4, 5, 9))
    spoilt = a[20:].copy()
    spoilt[::2] = np.nan
    acc.update(spoilt, b[20:], mask=np.arange(40) % 2 == 1)
    r, rotated, shifted = acc.compute()

    keep = np.r_[0:20, 21:60:2]
    np.testing.assert_allclose(r, reference.pearson(a[keep], b[keep]), rtol=0, atol=1e-15)
    assert rotated.shape == (0 if kind == "none" else 3, 9)
    for draw, row in enumerate(rotated):
        turned = b[keep] @ reference.rotation_matrix(kind, 9, draw, 5, "mlp").T
        np.testing.assert_allclose(row, reference.pearson(a[keep], turned), rtol=0, atol=1e-13)
    assert shifted.shape == (8, 9)
    for shift, row in zip(reference.shifts_of(9, 20, 5, "mlp"), shifted, strict=True):
        for i in range(9):
            partner = reference.pearson(a[keep, i : i + 1], b[keep, (i + shift) % 9][:, None])
            np.testing.assert_allclose(row[i], partner[0], rtol=0, atol=1e-15)


def test_reference_is_public() -> None:
    assert uf.reference is reference


# ---- statistics ---------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    # Two layers of two neurons; the last neuron is dead. Binary fractions, so equality is exact.
    correlation = np.array([0.875, 0.25, 0.5, np.nan])
    rotated = np.array([[0.0, 0.75, 0.25, np.nan], [0.25, -0.25, 0.0, np.nan]])
    layer = np.array([0, 0, 1, 1])
    s = reference.statistics(correlation, rotated, layer, threshold=0.5)

    np.testing.assert_array_equal(s.baseline, [0.125, 0.25, 0.125, np.nan])
    np.testing.assert_allclose(
        s.baseline_std, np.array([0.125, 0.5, 0.125, np.nan]) * np.sqrt(2), rtol=1e-15
    )
    np.testing.assert_array_equal(s.excess, [0.75, 0.0, 0.375, np.nan])
    np.testing.assert_array_equal(s.universal, [True, False, False, False])
    # Null excesses: layer 0 has -0.25, 1 (draw 0) and 0.25, -1 (draw 1); layer 1 has 0.25, -0.25.
    assert s.universal_by_chance == 0.5
    assert s.fdr == 0.5
    np.testing.assert_array_equal(s.p_value, [2 / 5, 3 / 5, 1 / 3, np.nan])
    # Sorted p 1/3, 2/5, 3/5, times 3 / rank: 1, 3/5, 3/5; then the smallest from there on.
    np.testing.assert_allclose(s.q_value, [0.6, 0.6, 0.6, np.nan], rtol=1e-15)


def test_baselines_of_neurons_left_over() -> None:
    """A neuron matched in the model alone, one in draws alone, one in one draw; a layer in none."""
    nan = np.nan
    correlation = np.array([0.5, nan, 0.75, 0.25])
    rotated = np.array([[nan, 0.125, 0.25, nan], [nan, 0.375, nan, nan]])
    s = reference.statistics(correlation, rotated, np.array([0, 0, 0, 1]), threshold=0.125)
    mean = (0.125 + 0.25 + 0.375) / 3
    np.testing.assert_array_equal(s.baseline, [mean, nan, 0.25, mean])
    assert np.isnan(s.baseline_std).all()
    np.testing.assert_array_equal(s.excess, [0.25, nan, 0.5, 0])
    # Nulls: -0.25 and 0.25 of neuron 1; 0.25 - 0.375 of neuron 2, against neuron 1 in the other.
    assert s.universal_by_chance == 0.5
    np.testing.assert_array_equal(s.p_value, [2 / 4, nan, 1 / 4, 1])


def test_a_tie_counts_as_a_hit() -> None:
    rotated = np.array([[0.25, 0.0], [0.0, 0.0]])
    s = reference.statistics(np.array([0.375, 0.0]), rotated, np.zeros(2, dtype=np.int64))
    # The excess 0.25 of neuron 0 is also neuron 0's null excess in draw 0.
    np.testing.assert_array_equal(s.p_value, [2 / 5, 4 / 5])


def test_q_values_are_scipys() -> None:
    g = np.random.default_rng(0)
    correlation = g.uniform(-0.5, 1, 300)
    correlation[::17] = np.nan
    rotated = np.where(np.isnan(correlation), np.nan, g.uniform(-1, 0.5, (4, 300)))
    s = reference.statistics(correlation, rotated, g.integers(0, 3, 300))
    alive = ~np.isnan(correlation)
    expected = scipy.stats.false_discovery_control(s.p_value[alive])
    np.testing.assert_allclose(s.q_value[alive], expected, rtol=1e-14)
    assert np.isnan(s.q_value[~alive]).all()


@pytest.mark.parametrize("draws", [0, 1])
def test_fewer_than_two_draws_give_no_null(draws: int) -> None:
    rotated = np.zeros((draws, 3))
    s = reference.statistics(np.array([0.9, 0.1, 0.2]), rotated, np.zeros(3, dtype=np.int64))
    assert np.isnan(s.p_value).all()
    assert np.isnan(s.q_value).all()
    assert np.isnan(s.baseline_std).all()
    assert np.isnan([s.universal_by_chance, s.fdr]).all()
    assert s.universal.tolist() == [draws == 1, False, False]


def test_none_flagged_gives_no_fdr() -> None:
    s = reference.statistics(np.zeros(3), np.zeros((2, 3)), np.zeros(3, dtype=np.int64))
    assert s.universal_by_chance == 0
    assert np.isnan(s.fdr)
