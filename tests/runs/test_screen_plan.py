"""Whether pairs are screened where nobody asked."""

from __future__ import annotations

import pytest
import torch

import univfast as uf
from univfast.errors import UnivfastWarning


def test_it_is_chosen_alone_where_a_layer_does_not_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(70, 2000, generator=generator) for _ in range(2))
    b[:, :50] = a[:, :50]
    with pytest.warns(UnivfastWarning, match=r"^memory_limit: layer .* pairs were screened on"):
        result = uf.correlate(a, b, draws=1, memory_limit=150e6, axis=-1)
    screen = result.summary["screen"]
    assert screen["tokens"] == 70
    assert str(screen["chosen_alone"]).startswith("memory_limit: layer 'activations' of A with all")
    assert int((result.match_neuron[:50] == torch.arange(50)).sum()) == 50
    with pytest.raises(
        uf.InputError, match=r"^memory_limit: layer .* even a screen of 70 tokens needs"
    ):
        uf.correlate(a, b, draws=1, memory_limit=5e6, axis=-1)
    with pytest.raises(uf.InputError, match=r"^memory_limit: .*; a screen keeps 32 partners of"):
        uf.correlate(a, b, draws=1, memory_limit=150e6, top_k=40, axis=-1)
    with pytest.raises(uf.InputError, match=r"^screen: a sample of 64 tokens needs .* the limit"):
        uf.correlate(a, b, draws=1, memory_limit=5e6, screen=64, axis=-1)


def test_it_is_not_chosen_where_sparse_features_fit_without_rotations() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.stack(
        [torch.arange(1100), torch.randint(0, 12_000, (1100,), generator=generator)]
    )
    model = {
        "x": torch.sparse_coo_tensor(
            places, torch.ones(1100), (1100, 12_000), check_invariants=True
        )
    }
    with pytest.raises(uf.InputError, match=r"^rotation: rotations .* give rotation='none'"):
        uf.correlate(model, model, memory_limit=1e9)
