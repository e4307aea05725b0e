"""What is said of networks that learned nothing, and what is found of what both learned.

Small forms of the tables in ``benchmarks``. The networks read the same tokens, which few neurons
need to tell apart: so they agree neuron by neuron far more than rotations do, with nothing learned.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf

NEURONS, TOKENS, VOCABULARY, WIDTH = 512, 2000, 40, 32
PLANTED = {0.5: slice(0, 10), 0.7: slice(10, 20), 0.9: slice(20, 30)}  # neurons of each r

pytestmark = pytest.mark.slow


def network(seed: int, bias: float, mix: float) -> Tensor:
    """ReLU of (pre - bias) of an untrained network that reads a token and the one before."""
    g = torch.Generator().manual_seed(seed)
    frequent = 1 / (torch.arange(VOCABULARY) + 2.0)
    same = torch.Generator().manual_seed(77)
    ids = torch.multinomial(frequent, TOKENS, replacement=True, generator=same)
    embedding = torch.randn(VOCABULARY, WIDTH, generator=g)
    x = embedding[ids] + mix * embedding[ids.roll(1)]
    weights = torch.randn(WIDTH, NEURONS, generator=g) / (WIDTH * (1 + mix * mix)) ** 0.5
    return torch.relu(x @ weights - bias)


def compared(a: Tensor, b: Tensor, seed: int, bias: float, mix: float) -> uf.CorrelationResult:
    """A and B beside four controls a side."""
    controls = [[network(seed + 10 * i + k, bias, mix) for k in range(4)] for i in (1, 2)]
    return uf.correlate(a, b, draws=2, controls_a=controls[0], controls_b=controls[1])


def test_two_untrained_networks_are_no_more_than_controls() -> None:
    shares = []
    for seed in range(0, 5000, 1000):
        a, b = network(seed, 1.5, 0.2), network(seed + 1, 1.5, 0.2)
        result = compared(a, b, seed, 1.5, 0.2)
        s = result.summary
        assert s["universal"] > 50, "few are flagged: an easy case"
        assert s["universal_by_chance"] == 0, "rotations tell: an easy case"
        shares.append(s["fdr_control"])
        assert not s["controls"]["more_than_controls"]
        assert "that is no more than controls, and no evidence that both" in result.verdict()
        assert s["learned"] <= 3
        assert s["learned_by_control"] <= 3
        # The least p is that of one neuron in K + 1; of both sides at once, of fewer.
        for name, low, high in (("p_control_b", 0.12, 0.28), ("p_control", 0.0, 0.1)):
            p = getattr(result, name)[~result.dead]
            assert low <= float((p < 0.21).double().mean()) <= high, name
    assert 0.8 <= np.mean(shares) <= 1.25


def test_what_both_learned_stands_out_of_controls() -> None:
    found: dict[float, list[float]] = {r: [] for r in PLANTED}
    for seed in range(0, 3000, 1000):
        a, b = network(seed, 1.0, 0.7), network(seed + 1, 1.0, 0.7)
        g = torch.Generator().manual_seed(seed)
        for r, part in PLANTED.items():
            own, other = (torch.relu(torch.randn(TOKENS, 10, generator=g) - 1) for _ in range(2))
            a[:, part] = own
            b[:, part] = r * own + (1 - r * r) ** 0.5 * other
        result = compared(a, b, seed, 1.0, 0.7)
        s = result.summary
        assert max(s["controls"]["flagged_a"] + s["controls"]["flagged_b"]) <= 2
        assert s["controls"]["more_than_controls"]
        assert s["learned_by_control"] <= 0.5
        assert result.excess_control is not None
        assert result.learned is not None
        for r, part in PLANTED.items():
            found[r].append(float((result.excess_control[part] > 0.3).double().mean()))
        assert int(result.learned[30:].sum()) <= 1
        assert result.learned[PLANTED[0.9]].all()
        assert "need not be learned by both" in result.verdict()
    assert np.mean(found[0.7]) >= 0.5
    assert np.mean(found[0.9]) >= 0.85
