"""The tokens that a screen looks at."""

from __future__ import annotations

import pytest
import torch

from support.planted import planted
from univfast.inputs.layout import Layout
from univfast.runs.sampling import choose
from univfast.sums.extremes import Extremes

TOKENS, NUMBER = 4000, 200


def extremes(*models: torch.Tensor, keep: torch.Tensor | None = None) -> list[Extremes]:
    found = []
    for x in models:
        one = Extremes(Layout(("x",), (x.shape[1],)), 1)
        tokens = torch.arange(len(x))
        tokens = tokens if keep is None else tokens[keep]
        one.update([x[tokens]], tokens, "a")
        found.append(one)
    return found


def test_half_is_drawn_evenly_and_half_where_rare_neurons_fire() -> None:
    a, b, _ = planted(TOKENS, [3, 2000], 10, 0)
    sample = choose(extremes(a, b), TOKENS, None, NUMBER, 0)
    assert len(sample.tokens) == len(sample.tokens.unique()) == NUMBER
    assert NUMBER // 2 <= sample.even < NUMBER
    even, rest = sample.tokens[: sample.even], sample.tokens[sample.even :]
    assert torch.equal(even, even.sort().values)
    # 40 times 3 tokens, of which 27 in both models; all those that the even half lacks are taken.
    for x in (a, b):
        fires = (x > 0.5) & ((x > 0.5).sum(dim=0) < 10)
        assert int(fires[sample.tokens].sum()) == int(fires.sum())
        assert bool(fires.any(dim=1)[rest].any())
    # No neuron of the other kind asks for any.
    assert bool(((a[rest] > 0.5) | (b[rest] > 0.5)).any(dim=1).all())


@pytest.mark.parametrize("number", [NUMBER, TOKENS // 2, TOKENS - 100])
def test_the_even_part_is_even(number: int) -> None:
    a, _, _ = planted(TOKENS, [3], 20, 0)
    chosen = torch.zeros(TOKENS)
    asked = extremes(a)
    for seed in range(60):
        sample = choose(asked, TOKENS, None, number, seed)
        chosen[sample.tokens[: sample.even]] += 1
    quarters = chosen.view(4, -1).sum(dim=1)
    expected = quarters.sum() / 4
    assert bool(((quarters - expected).abs() < 5 * expected.sqrt()).all())
    fires = (a > 0.5).any(dim=1)
    assert abs(chosen[fires].mean() / chosen.mean() - 1) < 0.1  # not where neurons fire


def test_the_seed_says_which() -> None:
    a, b, _ = planted(TOKENS, [3, 40], 10, 0)
    one, same, other = (choose(extremes(a, b), TOKENS, None, NUMBER, seed) for seed in (0, 0, 1))
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_where_no_neuron_asks_all_is_drawn_evenly() -> None:
    x = torch.rand(TOKENS, 20, generator=torch.Generator().manual_seed(0))
    sample = choose(extremes(x), TOKENS, None, NUMBER, 0)
    assert sample.even == len(sample.tokens) == NUMBER


def test_masks_and_few_tokens() -> None:
    a, b, _ = planted(TOKENS, [3, 40], 10, 0)
    keep = torch.arange(TOKENS) % 3 == 1
    sample = choose(extremes(a, b, keep=keep), TOKENS, keep, NUMBER, 0)
    assert bool(keep[sample.tokens].all())
    assert len(sample.tokens) == NUMBER
    whole = choose(extremes(a, b, keep=keep), TOKENS, keep, 5000, 0)
    assert torch.equal(whole.tokens, keep.nonzero()[:, 0])
    assert whole.even == len(whole.tokens)
