"""In which dtype a chunk of tokens is multiplied."""

from __future__ import annotations

import pytest
import torch

from univfast.sums import chunks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("neurons", [100, 600, 2000])
def test_layers_of_low_rank_are_multiplied_in_float64(neurons: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    ones = torch.ones(neurons).double()
    for rank in range(1, 7):
        layer = torch.randn(700, rank, generator=g) @ torch.randn(rank, neurons, generator=g)
        assert chunks._cancels(layer - layer.mean(dim=0), ones), rank
    layer = torch.randn(700, neurons, generator=g)
    assert chunks._cancels(layer, torch.where(torch.arange(neurons) == 7, 1e3, ones))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("neurons", [100, 600, 2000])
@pytest.mark.parametrize("tokens", [128, 4096])
def test_ordinary_layers_are_multiplied_in_float32(tokens: int, neurons: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    own = torch.randn(tokens, neurons, generator=g)
    factors = torch.randn(tokens, 8, generator=g) @ torch.randn(8, neurons, generator=g) / 8**0.5
    kinds = {
        "independent": own,
        "8 factors and noise": factors + own,
        "one factor and a quarter of noise": torch.randn(tokens, 1, generator=g) * 3**0.5 + own,
        "after the ReLU": own.relu(),
        "factors after the ReLU": (2 * factors + own).relu(),
        "rarely active": (own - 1.7).relu(),
        "of all scales": own * torch.logspace(-2, 0, neurons),
    }
    for name, layer in kinds.items():
        ones = torch.ones(neurons).double()
        assert not chunks._cancels(layer - layer.mean(dim=0), ones), name
    assert not chunks._cancels(torch.zeros(tokens, neurons), ones), "constant"
