"""Whether controls tell what was learned, and intervals hold; small versions of the tables.

``benchmarks/calibration_controls.py`` makes the networks and counts. The seeds are fixed.
"""

from __future__ import annotations

import math
import sys

import pytest
import torch

from support import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import calibration_controls as calibration
from calibration_controls import KINDS, PLANTED, RHOS, Scale

from univfast.experiment import ModelConfig

# Steps count: after 100, still moving, one of four pairs trained on text and on random tokens had
# more than its controls (4 neurons, where they had 0.25); after 200, none of four.
SMALL = Scale(ModelConfig(d_model=64, d_mlp=128), samples=150, steps=200, seeds=2)
# Networks in which sparse neurons are like no control's: as large as those of `univfast train`.
LARGE = Scale(ModelConfig(), samples=500, steps=200, seeds=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_networks_that_share_nothing_learned_have_no_more_than_controls(kind: str) -> None:
    results = [KINDS[kind](SMALL, seed).correlate(SMALL) for seed in range(SMALL.seeds)]
    assert not any(result.summary["controls"]["more_than_controls"] for result in results)
    for result in results:
        counts = result.summary
        # Each network is as good as a control of the other: so is what is learned by the margin.
        assert counts["learned"] <= counts["learned_by_control"] + 3 * math.sqrt(
            max(counts["learned_by_control"], 1)
        )


@pytest.mark.slow
def test_rotations_alone_would_call_chance_coincidences_universal() -> None:
    """The kinds above decide nothing unless rotations are wrong about some of them."""
    kinds = ("independent codes of one token each", "8 shared factors, bias -2.5")
    for kind in kinds:
        results = [KINDS[kind](SMALL, seed).correlate(SMALL) for seed in range(SMALL.seeds)]
        assert any(calibration.more_than_chance(result) for result in results), kind
        assert all(result.summary["universal_by_chance"] == 0 for result in results), kind


def test_networks_of_a_kind_differ_and_repeat() -> None:
    for kind in ("independent codes of one token each", "position and slow drift alone"):
        once, again = (KINDS[kind](SMALL._replace(samples=10), 1) for _ in range(2))
        layers = [once.a, once.b, *once.controls_a, *once.controls_b]
        assert len(layers) == 2 + 2 * SMALL.controls
        assert torch.equal(once.b["layer"], again.b["layer"])
        assert once.a["layer"].shape == (10, 64, 256)
        for i, one in enumerate(layers):
            assert not any(torch.equal(one["layer"], other["layer"]) for other in layers[:i])


@pytest.mark.slow
def test_planted_pairs_stand_out_from_controls() -> None:
    pairs = calibration.planted(LARGE, seed=0)
    assert [int((pairs.r == one).sum()) for one in torch.tensor(PLANTED)] == [10, 10, 10]
    found = calibration.find_planted(pairs, LARGE)
    assert found.by_control <= 2
    assert found.recall[1] >= 0.5
    assert found.recall[2] >= 0.85
    assert found.false == 0


@pytest.mark.parametrize("rho", RHOS)
def test_streams_have_the_correlation_with_the_token_before(rho: float) -> None:
    noise = torch.randn(4_000, 50, generator=torch.Generator().manual_seed(3))
    x = calibration.autoregressive(noise, rho).double()
    found = (x[1:] * x[:-1]).mean() / x.square().mean()
    assert abs(float(found) - rho) < 0.01
    # Of variance 1 from the first token on.
    assert abs(float(x.square().mean()) - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("rho", RHOS)
def test_intervals_hold_the_true_r(rho: float) -> None:
    found = calibration.coverage(rho, neurons=400, samples=256)
    # The binomial error of 400 at 0.95 is 0.011; blocks of 512 tokens are long, of 100 tokens'
    # memory, but not endless.
    assert 0.92 <= found.jackknife <= 0.98
    if rho:
        assert found.naive < 0.75
