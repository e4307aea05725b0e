"""Rotations: what they are, that they cannot change unnoticed, that they act as uniform ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

from support.parity import LAYER, Array, hadamard_transform, structured_rotation
from univfast import native, reference
from univfast.errors import InputError
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import Rotations, make_rotations

ODD_WIDTHS = [257, 448, 701, 1024]


def rotations_of(kind: str, neurons: int, draws: int, seed: int, layer: str) -> Rotations:
    return make_rotations(Baseline(kind, draws, seed), neurons, layer)


def matrices(kind: str, neurons: int, draws: int, seed: int = 0) -> Array:
    """``[draws, neurons, neurons]``, from what the package applies to activations."""
    rotations = rotations_of(kind, neurons, draws, seed, LAYER)
    columns = rotations.apply(torch.eye(neurons, dtype=torch.float64))
    return columns.transpose(1, 2).numpy()


# ---- the matrices -------------------------------------------------------------------------------


def test_native_is_the_reference_at_every_width() -> None:
    for neurons in range(1, 131):
        expected = [
            reference.rotation_matrix("hadamard", neurons, draw, 3, LAYER) for draw in (0, 1)
        ]
        np.testing.assert_allclose(
            matrices("hadamard", neurons, 2, 3), expected, rtol=0, atol=1e-14, err_msg=f"{neurons}"
        )


@pytest.mark.parametrize("neurons", ODD_WIDTHS)
def test_native_is_the_reference_at_large_widths(neurons: int) -> None:
    expected = reference.rotation_matrix("hadamard", neurons, 0, 3, LAYER)
    np.testing.assert_allclose(matrices("hadamard", neurons, 1, 3)[0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("neurons", [1600, 3072])
def test_native_is_the_definition_at_widths_in_use(neurons: int) -> None:
    x = np.random.default_rng(0).standard_normal((20, neurons))
    rotated = rotations_of("hadamard", neurons, 2, 3, LAYER).apply(torch.from_numpy(x))
    for draw in (0, 1):
        expected = structured_rotation(x, draw, 3)
        np.testing.assert_allclose(rotated[draw], expected, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hadamard", "haar"])
def test_every_width_is_orthogonal(kind: str) -> None:
    for neurons in range(1, 131):
        r = matrices(kind, neurons, 1)[0]
        np.testing.assert_allclose(
            r @ r.T, np.eye(neurons), rtol=0, atol=1e-13, err_msg=f"{neurons}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("neurons", [*ODD_WIDTHS, 1600, 3072])
def test_large_widths_are_orthogonal(neurons: int) -> None:
    r = torch.from_numpy(matrices("hadamard", neurons, 1)[0])
    off = (r @ r.T).sub_(torch.eye(neurons, dtype=torch.float64)).abs().max()
    assert off < 1e-13


@pytest.mark.parametrize("kind", ["haar", "gaussian"])
def test_dense_rotations_are_the_reference(kind: str) -> None:
    expected = [reference.rotation_matrix(kind, 65, draw, 3, LAYER) for draw in range(3)]
    np.testing.assert_allclose(matrices(kind, 65, 3, 3), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["hadamard", "haar", "gaussian"])
@pytest.mark.parametrize("neurons", [1, 2, 3, 63, 64, 65, 257, 448, 701])
def test_float32_is_float64_rounded(kind: str, neurons: int) -> None:
    x = np.random.default_rng(0).standard_normal((50, neurons))
    rotations = rotations_of(kind, neurons, 2, 3, LAYER)
    wide = rotations.apply(torch.from_numpy(x))
    narrow = rotations.apply(torch.from_numpy(x).float())
    assert narrow.dtype == torch.float32
    error = (narrow - wide).abs().max() / wide.norm(dim=-1).max() * np.sqrt(neurons)
    assert error < 3e-6


def test_rows_rotate_alike_wherever_they_lie() -> None:
    rotations = rotations_of("hadamard", 130, 3, 0, LAYER)
    whole = torch.randn(40, 200, generator=torch.Generator().manual_seed(0))
    x = whole[::3, 7:137]
    rotated = rotations.apply(x)
    for i in range(len(x)):
        assert torch.equal(rotated[:, i], rotations.apply(x[i : i + 1].clone())[:, 0])


def test_rotation_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 257, generator=torch.Generator().manual_seed(0))
    signs = native.rotation_signs(257, 3, 0)
    results = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(native.rotate(x, signs))
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_no_rows_and_no_draws() -> None:
    assert rotations_of("hadamard", 5, 2, 0, LAYER).apply(torch.empty(0, 5)).shape == (2, 0, 5)
    assert rotations_of("none", 5, 2, 0, LAYER).apply(torch.ones(3, 5)).shape == (0, 3, 5)


# ---- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hadamard", "haar", "gaussian"])
def test_rotations_follow_seed_draw_and_layer(kind: str) -> None:
    x = torch.eye(63)

    def rotated(seed: int, layer: str) -> torch.Tensor:
        return rotations_of(kind, 63, 2, seed, layer).apply(x)

    first = rotated(0, "mlp.0")
    assert torch.equal(first, rotated(0, "mlp.0"))
    for other in (rotated(1, "mlp.0"), rotated(-1, "mlp.0"), rotated(0, "mlp.1"), first.flip(0)):
        assert (first - other).abs().amax(dim=(1, 2)).min() > 0.1


def test_fewer_draws_are_the_first_draws() -> None:
    for kind in ("hadamard", "haar", "gaussian"):
        assert np.array_equal(matrices(kind, 48, 2), matrices(kind, 48, 5)[:2])


def test_signs_are_fair_and_independent() -> None:
    signs = native.rotation_signs(1024, 20, 5).double().reshape(-1, 1024)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    correlations = signs @ signs.T / 1024 - torch.eye(len(signs))
    assert correlations.abs().max() < 6 / np.sqrt(1024)
    assert signs.mean(dim=0).abs().max() < 6 / np.sqrt(len(signs))


def words(row: torch.Tensor) -> list[int]:
    bits = (row < 0).reshape(-1, 64).numpy()
    return [sum(1 << i for i in np.flatnonzero(word).tolist()) for word in bits]


def test_signs_never_change() -> None:
    """Golden: a saved state of PairedCorrelation is good for its own rotations alone."""
    assert reference.layer_seed(0, "activations") == 0xCE46A558B6960F8D
    assert reference.layer_seed(-7, "blocks.3.mlp") == 0x5367DABB8694C8D4
    golden = {
        (0, 0): [0x652CA56A6545006F, 0x5CB2C04AEA36B12C],
        (0, 1): [0x9C45F6EBC43D047C, 0xF52A84F2CA943E55],
        (1, 0): [0xA7B07FCC283C02EA, 0x70D29AA7CB3728D3],
        (3, 1): [0xAA7ED8FF79CBADE6, 0xE7E1F4EEEEC2C317],
    }
    signs = native.rotation_signs(128, 2, 0xCE46A558B6960F8D)
    assert signs.shape == (4, 2, 128)
    for (number, stage), expected in golden.items():
        assert words(signs[number, stage]) == expected
        row = reference.rotation_signs(128, number, 0xCE46A558B6960F8D)[stage]
        assert words(torch.from_numpy(row)) == expected


def test_matrices_never_change() -> None:
    row = matrices("hadamard", 20, 2)[1, 0]
    expected = [20.0, -18.0, -16.0, -4.0, -16.0, 14.0]
    np.testing.assert_allclose(row[:6] * 64, expected, rtol=0, atol=1e-12)
    wide = matrices("hadamard", 1536, 1)[0, :2, 700]
    np.testing.assert_allclose(wide * 512, [23.0, -23.0], rtol=0, atol=1e-12)
    haar = [0.83899306, 0.41560783, 0.35122754]
    np.testing.assert_allclose(matrices("haar", 3, 2)[1, 0], haar, rtol=0, atol=1e-8)
    gaussian = [0.97468271, 0.20326211, -0.0931565]
    np.testing.assert_allclose(matrices("gaussian", 3, 2)[1, 0], gaussian, rtol=0, atol=1e-8)


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"kind": "fourier"},
            InputError,
            "rotation: got 'fourier', expected one of hadamard, haar",
        ),
        ({"draws": 0}, InputError, "draws: got 0"),
        ({"draws": -3, "kind": "haar"}, InputError, "draws: got -3"),
        ({"draws": 2.0}, TypeError, "draws: expected an integer, got float"),
        ({"draws": True}, TypeError, "draws: expected an integer, got bool"),
        ({"seed": "0"}, TypeError, "seed: expected an integer, got str"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"kind": "hadamard", "draws": 2, "seed": 0}
    with pytest.raises(error, match=message):
        Baseline(**(good | options))  # type: ignore[arg-type]


# ---- the baseline that they give ----------------------------------------------------------------

DRAWS = 300


def padded(neurons: int, draw: int) -> Array:
    """What zero-padding to a power of two and cutting back gives."""
    size = 1 << (neurons - 1).bit_length()
    return reference.rotation_matrix("hadamard", size, draw, 0, LAYER)[:neurons, :neurons]


def without_fresh_signs(neurons: int, draw: int) -> Array:
    return structured_rotation(np.eye(neurons), draw, 0, fresh_signs=False).T


def without_dealing(neurons: int, draw: int) -> Array:
    return structured_rotation(np.eye(neurons), draw, 0, dealt=False).T


def permutation(neurons: int, draw: int) -> Array:
    g = np.random.default_rng([draw, neurons])
    return np.eye(neurons)[g.permutation(neurons)]


def one_round(neurons: int, draw: int) -> Array:
    block = neurons & -neurons
    signs = reference.rotation_signs(neurons, draw, 0)[0]
    return np.kron(np.eye(neurons // block), hadamard_transform(np.eye(block))) * signs


def data_sets(neurons: int) -> dict[str, tuple[Array, Array]]:
    """Two models of one lineage (neuron i resembles neuron i), and two of different bases."""
    g = np.random.default_rng([5, neurons])
    tokens = 512
    factors = g.standard_normal((tokens, 5))
    a = factors @ g.standard_normal((5, neurons)) / 3 + g.standard_normal((tokens, neurons))
    b = 0.8 * a + 0.6 * g.standard_normal((tokens, neurons))
    scale = np.where(np.arange(neurons) % 16 == 3, 20.0, 1.0)
    low_rank = [factors @ g.standard_normal((5, neurons)) for _ in range(2)]
    noise = g.standard_normal((2, tokens, neurons)) / 10
    return {
        "low rank": (low_rank[0] + noise[0], low_rank[1] + noise[1]),
        "post-ReLU": (np.maximum(a - 0.5, 0), np.maximum(b - 0.5, 0)),
        "outlier neurons": (a * scale, b * scale),
    }


def rotated_r(a: Array, b: Array, rotations: Array) -> Array:
    """``[draws, neurons]``, by way of the co-moments, as all draws share them."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    cross, inner = a.T @ b / np.linalg.norm(a, axis=0)[:, None], b.T @ b
    return np.array([(cross * r).sum(1) / np.sqrt(((r @ inner) * r).sum(1)) for r in rotations])


def assert_as_haar(rotations: Array, haar: Array) -> None:
    """Baselines with ``rotations`` are distributed as with ``haar``, up to sampling error."""
    neurons = rotations.shape[-1]
    off = np.abs(rotations[0] @ rotations[0].T - np.eye(neurons)).max()
    assert off < 1e-12, "not orthogonal"
    # How much of neuron i is left at i: what decides the baseline of models of one lineage.
    squares = np.diagonal(rotations, axis1=1, axis2=2) ** 2 * neurons
    diagonal = squares.mean()
    assert abs(diagonal - 1) < 0.07, f"mean square of the diagonal {diagonal:.3f} of Haar's"
    for name, (a, b) in data_sets(neurons).items():
        ours, theirs = rotated_r(a, b, rotations), rotated_r(a, b, haar)
        distance = scipy.stats.ks_2samp(ours.ravel(), theirs.ravel()).statistic
        assert distance < 0.025, f"{name}: Kolmogorov-Smirnov distance {distance:.3f}"
        spread = ours.std() / theirs.std()
        assert abs(spread - 1) < 0.05, f"{name}: spread {spread:.3f} of Haar's"
        # Neuron by neuron, in standard errors: the mean baseline, whose square averages 1.
        error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / len(ours))
        z = (ours.mean(axis=0) - theirs.mean(axis=0)) / error
        assert np.abs(z).max() < 5, f"{name}: a mean is {np.abs(z).max():.1f} standard errors off"
    # From draw to draw: sqrt(2 / neurons) if neurons are independent, sqrt(2) if all have one size.
    alike = squares.mean(axis=1).std() / np.sqrt(2 / neurons)
    assert alike < 3, f"neurons are alike: {alike:.1f} times the spread of the diagonal's size"


@pytest.fixture(scope="module")
def haar() -> dict[int, Array]:
    return {n: matrices("haar", n, DRAWS, seed=77) for n in (48, 63, 64, 96, 257)}


@pytest.mark.slow
@pytest.mark.parametrize("neurons", [48, 63, 64, 96, 257])
@pytest.mark.parametrize("kind", ["hadamard", "haar"])
def test_baseline_is_haars(kind: str, neurons: int, haar: dict[int, Array]) -> None:
    assert_as_haar(matrices(kind, neurons, DRAWS), haar[neurons])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rotation", "neurons", "reason"),
    [
        (padded, 48, "not orthogonal"),
        (padded, 257, "not orthogonal"),
        (without_fresh_signs, 48, "diagonal"),
        (without_fresh_signs, 96, "diagonal"),
        (without_dealing, 64, "alike"),
        (permutation, 48, "post-ReLU"),
        (permutation, 257, "post-ReLU"),
        (one_round, 48, "diagonal"),
        (one_round, 96, "diagonal"),
    ],
)
def test_bad_rotations_are_told_from_haar(
    rotation: Callable[[int, int], Array], neurons: int, reason: str, haar: dict[int, Array]
) -> None:
    bad = np.array([rotation(neurons, draw) for draw in range(DRAWS)])
    with pytest.raises(AssertionError, match=reason):
        assert_as_haar(bad, haar[neurons])


@pytest.mark.slow
@pytest.mark.parametrize("neurons", [512, 1344, 1536])
def test_wide_rotations_mix_everything(neurons: int) -> None:
    """Too wide to compare baselines with Haar's: the entries, Gaussian and independent."""
    draws = matrices("hadamard", neurons, 6) * np.sqrt(neurons)
    parts = 8
    blocks = (draws**2).reshape(6, parts, neurons // parts, parts, neurons // parts)
    assert np.abs(blocks.mean(axis=(0, 2, 4)) - 1).max() < 0.2
    assert abs((draws**4).mean() - 3) < 0.15
    assert abs((np.diagonal(draws, axis1=1, axis2=2) ** 2).mean() - 1) < 0.15
    # Draws share a round, which leaves them the trace of random signs in common, but no more.
    flat = draws.reshape(6, -1) / neurons
    assert np.abs(flat @ flat.T - np.eye(6)).max() < 5 / np.sqrt(neurons)
    twice = (draws**2 - 1).reshape(6, -1) / neurons
    assert np.abs(twice @ twice.T - 2 * np.eye(6)).max() < 0.2


def test_cut_hadamard_is_rejected_by_its_diagonal_too(haar: dict[int, Array]) -> None:
    cut = np.array([padded(48, draw) for draw in range(DRAWS)])
    cut[0] = haar[48][0]  # the draw that is asked to be orthogonal
    with pytest.raises(AssertionError, match="diagonal"):
        assert_as_haar(cut, haar[48])
