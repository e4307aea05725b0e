"""What neurons write to the vocabulary, in pieces: planted rows, sizes of all kinds, and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from univfast.neuron_weights import logits
from univfast.neuron_weights.logits import Vocabulary


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("piece", [1, 70, 1000, 2**21])
def test_pieces_of_any_size_are_the_same(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, output = drawn(211, 7) + 3, drawn(13, 7, seed=1)
    whole = Vocabulary(rows).logits_of(output, 5)
    monkeypatch.setattr(logits, "_PIECE", piece)
    parts = Vocabulary(rows).logits_of(output, 5)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-9, atol=1e-12)
    expected = output @ rows.T
    assert torch.equal(whole.top_tokens, expected.topk(5).indices)
    np.testing.assert_allclose(whole.mean, expected.mean(dim=1))
    np.testing.assert_allclose(whole.variance, expected.var(dim=1, correction=0))


def test_a_planted_token_is_the_top_and_makes_the_kurtosis() -> None:
    """A row of V - 1 equal numbers and one other has skew and kurtosis that are known."""
    tokens, width = 50, 50
    rows = torch.eye(tokens, dtype=torch.float32)
    output = torch.zeros(2, width, dtype=torch.float64)
    output[0, 31], output[1, 8] = 2.0, -3.0
    found = Vocabulary(rows).logits_of(output, 1)
    assert (found.top_tokens[0, 0], found.bottom_tokens[1, 0]) == (31, 8)
    ends = float(found.top_logits[0, 0]), float(found.bottom_logits[1, 0])
    assert ends == pytest.approx((2.0, -3.0), rel=1e-6)
    p = 1 / tokens
    spread = p * (1 - p)
    np.testing.assert_allclose(found.variance, [4 * spread, 9 * spread], rtol=1e-6)
    skew = (1 - 2 * p) / spread**0.5
    np.testing.assert_allclose(found.skew, [skew, -skew], rtol=1e-5)
    np.testing.assert_allclose(found.kurtosis, 3 + (1 - 6 * spread) / spread, rtol=1e-5)
    np.testing.assert_allclose(found.cosine_mean, [p, -p], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_powers_of_any_scale_neither_vanish_nor_overflow(scale: float) -> None:
    rows, output = drawn(300, 8, dtype=torch.float32), drawn(6, 8, seed=1)
    plain = Vocabulary(rows).logits_of(output, 2)
    for scaled in (
        Vocabulary(rows).logits_of(output * scale, 2),
        Vocabulary(rows * scale).logits_of(output, 2),
    ):
        np.testing.assert_allclose(scaled.kurtosis, plain.kurtosis, rtol=1e-4)
        np.testing.assert_allclose(scaled.variance, plain.variance * scale**2, rtol=1e-4)
        np.testing.assert_allclose(scaled.top_logits, plain.top_logits * scale, rtol=1e-4)
        np.testing.assert_allclose(scaled.cosine_variance, plain.cosine_variance, rtol=1e-4)


def test_a_large_common_part_costs_no_digits() -> None:
    """Rows of an unembedding may share a direction that is far longer than what differs."""
    rows = (drawn(2000, 16) + 100 * drawn(1, 16, seed=2)).float()
    output = drawn(20, 16, seed=1)
    found = Vocabulary(rows).logits_of(output, 3)
    exact = (output @ rows.double().T).numpy()
    centred = exact - exact.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=1)
    np.testing.assert_allclose(found.mean, exact.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    kurtosis = (centred**4).mean(axis=1) / variance**2
    np.testing.assert_allclose(found.kurtosis, kurtosis, rtol=1e-3)


def test_central_moments_follow_from_raw_ones() -> None:
    x = drawn(3, 500).exp() + 2
    found = logits._central(torch.stack([(x**power).mean(dim=1) for power in (1, 2, 3, 4)]))
    mean = x.mean(dim=1, keepdim=True)
    expected = [mean[:, 0], *(((x - mean) ** power).mean(dim=1) for power in (2, 3, 4))]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_rounding_has_no_shape() -> None:
    """All logits are 1, made of unit rows and lengths that differ."""
    rows = torch.ones(500, 2, dtype=torch.float32)
    rows[:, 0] = drawn(500)
    found = Vocabulary(rows).logits_of(torch.tensor([[0.0, 1.0]], dtype=torch.float64), 1)
    assert float(found.mean) == pytest.approx(1, rel=1e-6)
    assert float(found.variance) < 1e-12
    assert bool(found.skew.isnan())
    assert bool(found.kurtosis.isnan())
    assert not bool(found.cosine_kurtosis.isnan())


def test_zeros_say_nothing() -> None:
    rows, output = drawn(40, 5, dtype=torch.float32), drawn(3, 5, seed=1)
    output[1] = 0
    found = Vocabulary(rows).logits_of(output, 2)
    for name, value in vars(found).items():
        if name.endswith("tokens"):
            assert value[1].tolist() == [-1, -1]
        else:
            assert bool(value[1].isnan().all()), name
            assert not bool(value[[0, 2]].isnan().any()), name
    rows[7] = 0  # a token that was never trained
    exact = output @ rows.double().T
    cosines = exact / output.norm(dim=1, keepdim=True) / rows.double().norm(dim=1)
    cosines[:, 7] = 0
    padded = Vocabulary(rows).logits_of(output, 2)
    np.testing.assert_allclose(padded.cosine_mean[0], cosines[0].mean(), atol=1e-7)
    flat = Vocabulary(rows[:1].repeat(40, 1)).logits_of(output, 2)
    assert bool(flat.skew.isnan().all())
    assert bool(flat.kurtosis.isnan().all())
    assert float(flat.variance[0]) == pytest.approx(0, abs=1e-12)
    nothing = Vocabulary(torch.zeros(40, 5, dtype=torch.float32)).logits_of(output, 2)
    assert float(nothing.mean[0]) == 0
    assert bool(nothing.kurtosis.isnan().all())


def test_no_tensor_has_all_rows_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made at a time does not grow with the vocabulary."""
    largest = []
    real = logits._add_powers

    def watched(sums: Tensor, values: Tensor) -> None:
        largest.append(values.numel())
        real(sums, values)

    monkeypatch.setattr(logits, "_add_powers", watched)
    monkeypatch.setattr(logits, "_PIECE", 4096)
    vocabulary = Vocabulary(drawn(5000, 8, dtype=torch.float32))
    vocabulary.logits_of(drawn(100, 8, seed=1), 2)
    assert max(largest) <= 4096
    assert sum(largest) == 2 * 5000 * 100
