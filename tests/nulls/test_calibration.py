"""Whether the verdicts hold, on activations whose truth is known; small versions of the tables.

``benchmarks/calibration.py`` makes the activations and counts; `benchmarks/README.md` has the
numbers for larger layers. The seeds are fixed. Limits come from the spread over seeds, not from
what was found.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from support import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import calibration
from calibration import NOISY, PLANTED, SHAPES, SPARSE, THRESHOLDS, Shape, Size

import univfast as uf
from univfast import reference

PAIRS = Size(neurons=400, tokens=5000, draws=20, seeds=1)
NULL = Size(neurons=120, tokens=500, draws=10, seeds=30)
# One-to-one, of fewer neurons in B: half, and so few that most of A's have no match in most draws.
NARROW = (60, 20)

# With 30 seeds, a mean is this many standard errors from 0 in one case of 2,500; three dozen are
# looked at.
STANDARD_ERRORS = 4.0


# ---- planted partners ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("common", calibration.COMMON.values(), ids=calibration.COMMON)
def test_planted_partners_are_found(common: float, rotation: str) -> None:
    data = calibration.planted(common, PAIRS, seed=0)
    found = calibration.find_planted(data, PAIRS, rotation, seed=0)
    # The threshold is of the excess: what passes has r above 0.5 and the baseline together.
    assert found["universal"].recall[: PLANTED.index(0.5) + 1] == [0, 0]
    assert found["universal"].recall[-1] == 1
    assert found["universal"].false == 0
    # q sees all that stand out of the baseline, and lets through one in twenty that do not: here
    # of about 80 flagged, 9 would be four standard errors too many.
    assert found["q < 0.05"].recall[1:] == [1, 1, 1]
    assert found["q < 0.05"].false <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 80)


def test_planted_pairs_have_the_r_they_were_given() -> None:
    data = calibration.planted(0.2, PAIRS, seed=0)
    own = data.partner >= 0
    r = reference.pearson(data.a[:, own].numpy(), data.b[:, data.partner[own]].numpy())
    planted = data.r[own].numpy()
    error = (1 - planted**2) / np.sqrt(PAIRS.tokens)
    assert (np.abs(r - planted) < 4.5 * error).all()
    assert len(data.partner[own].unique()) == own.sum() == PAIRS.neurons // 20 * len(PLANTED)


# ---- nothing shared -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("match", calibration.MATCHES)
@pytest.mark.parametrize("name", SHAPES)
def test_as_much_is_flagged_as_chance_would(name: str, match: str) -> None:
    results = calibration.null_results(SHAPES[name], NULL, match)
    for threshold in THRESHOLDS:
        found = calibration.counts(results, threshold)
        assert abs(found.standard_errors) <= STANDARD_ERRORS, f"above {threshold}: {found}"
    for result in results:
        # The summary has the same counts, at its threshold.
        assert result.summary["universal"] == int((result.excess > 0.5).sum())
        by_chance = calibration.counts([result], 0.5).by_chance
        assert result.summary["universal_by_chance"] == pytest.approx(float(by_chance))


@pytest.mark.slow
@pytest.mark.parametrize("width", NARROW)
def test_fewer_neurons_in_b_give_what_chance_gives(width: int) -> None:
    """A draw leaves over other neurons than the models do, and all that it matches count."""
    results = calibration.null_results(SHAPES[NOISY], NULL, "one-to-one", width=width)
    found = calibration.counts(results, THRESHOLDS[0])
    assert abs(found.standard_errors) <= STANDARD_ERRORS, found
    assert found.flagged.mean() > 1, "hardly any is flagged: a case that decides nothing"
    p = torch.stack([result.p_value[result.correlation.isfinite()] for result in results])
    assert p.shape == (NULL.seeds, width)
    uniformity = calibration.uniformity(list(p))
    assert uniformity.distance <= uniformity.limit


@pytest.mark.slow
def test_dead_neurons_of_b_are_none_in_a_draw() -> None:
    results = []
    for seed in range(NULL.seeds):
        a, b = calibration.unaligned(SHAPES[NOISY], NULL, seed)
        b[:, 60:] = 1
        results.append(uf.correlate(a, b, match="one-to-one", draws=NULL.draws, seed=seed))
    found = calibration.counts(results, THRESHOLDS[0])
    assert abs(found.standard_errors) <= STANDARD_ERRORS, found


@pytest.mark.slow
def test_counts_are_compared_where_there_are_some() -> None:
    """The limits above would mean nothing if hardly a neuron passed the lower threshold."""
    cases = {"index": "rank 2", "best": "rank 10", "one-to-one": "rank 10"}
    for match, name in cases.items():
        shape = SHAPES[name]
        found = calibration.counts(calibration.null_results(shape, NULL, match), THRESHOLDS[0])
        assert found.flagged.mean() > 3
        assert found.by_chance.mean() > 3


@pytest.mark.parametrize("match", ["index", "best"])
@pytest.mark.parametrize("rank", [1, 2, 3, 10])
def test_low_rank_gives_no_spurious_r(rank: int, match: str) -> None:
    """Of float32 values, r and each rotated r are exact to 1e-5, also where a rotation cancels."""
    a, b = calibration.unaligned(Shape(rank), NULL, seed=rank)
    draws = 10
    layers = {"activations": NULL.neurons}
    exact = reference.AllPairsCorrelation(layers, layers, draws=draws)
    exact.update({"activations": a.numpy()}, {"activations": b.numpy()})
    matrix, matrices = exact.compute()
    taken = np.diagonal if match == "index" else lambda r: reference.best(r)[1]
    r, rotated = taken(matrix), np.array([taken(m) for m in matrices])

    if match == "index":
        sums = uf.PairedCorrelation(NULL.neurons, draws=draws)
        sums.update(a, b)
        result, found = sums.compute(), sums.correlations().rotated
    else:
        result = uf.correlate(a, b, match=match, draws=draws)
        assert result.null_excess is not None
        found = result.baseline + result.null_excess * (draws - 1) / draws
    assert torch.isfinite(found).all()
    assert (result.correlation.abs() <= 1).all()
    assert (result.baseline.abs() <= 1).all()
    assert np.abs(result.correlation.numpy() - r).max() <= 1e-5
    assert np.abs(found.numpy() - rotated).max() <= 1e-5


# ---- p-values -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("match", calibration.MATCHES)
def test_p_values_are_uniform(match: str, rotation: str) -> None:
    results = calibration.null_results(SHAPES[NOISY], NULL, match, rotation)
    found = calibration.uniformity([result.p_value for result in results])
    assert found.distance <= found.limit


@pytest.mark.slow
def test_gaussian_matrices_are_nearly_right() -> None:
    """They are not orthogonal, so that the highest r of a rotated layer is a little lower."""
    results = calibration.null_results(SHAPES[NOISY], NULL, "best", "gaussian")
    found = calibration.uniformity([result.p_value for result in results])
    assert found.limit < found.distance < 0.06
    # Hardly any of it is in the tail, which the verdicts are drawn from: the error of 0.05 is the
    # binomial one of as many p-values as these are worth.
    worth = (1.628 / found.limit) ** 2
    assert abs(found.below[0] - 0.05) < 4 * np.sqrt(0.05 * 0.95 / worth)


@pytest.mark.slow
def test_a_wrong_null_is_seen() -> None:
    """What passes for chance above must not pass for it here."""
    wrong = [
        calibration.averaged_first(SHAPES[NOISY], NULL._replace(draws=8), seed)
        for seed in range(10)
    ]
    found = calibration.uniformity(wrong)
    assert found.distance > 0.5
    assert found.distance > 10 * found.limit


@pytest.mark.slow
def test_sparse_loadings_are_no_chance() -> None:
    """What rotations cannot do: a layer with axes of its own differs from them, shared or not."""
    results = calibration.null_results(SPARSE["8 sparse factors and noise"], NULL, "best")
    assert calibration.counts(results, THRESHOLDS[0]).standard_errors > 10
    found = calibration.uniformity([result.p_value for result in results])
    assert found.distance > found.limit
