"""The tiny transformer: its shapes, and what each token can see."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.tiny_models import SMALL
from univfast.errors import InputError
from univfast.experiment import ModelConfig, TinyTransformer
from univfast.experiment.data import generator


@pytest.mark.parametrize("length", [1, 7, 16])
def test_logits_have_a_row_for_every_token(length: int) -> None:
    tokens = torch.randint(128, (5, length), generator=generator("tokens", 0))
    assert TinyTransformer(SMALL)(tokens).shape == (5, length, 128)


def test_a_later_token_never_changes_earlier_logits() -> None:
    model = TinyTransformer(SMALL).eval()
    tokens = torch.randint(128, (4, 16), generator=generator("tokens", 1))
    before = model(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % 128
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
        later = (after[:, position:] - before[:, position:]).abs().amax(dim=(0, 2))
        assert (later > 1e-4).all(), "a token must reach its own and every later position"


def test_positions_are_told_apart() -> None:
    """Without positional encoding, equal tokens would give equal logits everywhere."""
    logits = TinyTransformer(SMALL)(torch.full((1, 16), 65))[0]
    assert torch.pdist(logits).min() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 127}, "^vocabulary: got 127, expected at least 128$"),
        ({"sequence": 0}, "^sequence: got 0, expected at least"),
        ({"d_model": 10**9}, "^d_model: got 1000000000, expected at most"),
        ({"layers": -1}, "^layers: got -1, expected at least"),
        ({"d_mlp": 0}, "^d_mlp: got 0, expected at least"),
        ({"heads": 3}, "^heads: 3 does not divide d_model 128; change one so that it does$"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**change)


@pytest.mark.parametrize("value", [2.0, True, "2"])
def test_sizes_must_be_ints(value: Any) -> None:
    with pytest.raises(TypeError, match="layers: expected an integer"):
        ModelConfig(layers=value)
