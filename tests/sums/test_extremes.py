"""Tokens where neurons are farthest from their mean, streamed."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

import univfast as uf
from univfast.inputs.layout import Layout
from univfast.sums.extremes import EXTREMES, Extremes

LAYOUT = Layout(("x", "y"), (30, 11))


def layers(dtype: torch.dtype, tokens: int = 700) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 41, generator=generator, dtype=torch.float64)
    x[:, :10] = x[:, :10].relu()
    x[:, 10] = 3.0
    x[:, 11] = 0.0
    x[[5, 90, 400], 11] = torch.tensor([2.0, 1.0, -4.0], dtype=torch.float64)
    x[:, 12:20] = (2 * x[:, 12:20]).round()  # ties
    x[:, 20] += 1e4
    return [part.contiguous().to(dtype) for part in x.split(LAYOUT.widths, dim=1)]


def streamed(found: list[torch.Tensor], cuts: list[int]) -> Extremes:
    extremes = Extremes(LAYOUT, 2)
    for start, stop in pairwise(cuts):
        tokens = torch.arange(start, stop)
        extremes.update([x[start:stop] for x in found], tokens, "a")
    return extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_they_are_those_of_the_whole(dtype: torch.dtype) -> None:
    found = layers(dtype)
    extremes = streamed(found, [0, 1, 300, 700])
    x = torch.cat(found, dim=1).double().numpy()
    mean, std = x.mean(axis=0), x.std(axis=0)
    np.testing.assert_allclose(extremes.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(extremes.m2, 700 * std**2, rtol=1e-9, atol=1e-12)
    token, away = extremes.farthest()
    for i in range(41):
        if std[i] == 0:
            assert not away[:, i].any()
            continue
        expected = np.sort(np.abs(x[:, i] - mean[i]))[::-1] / std[i]
        # Of either side as many are listed: those of one may fill the list.
        np.testing.assert_allclose(away[:, i], expected[:EXTREMES], rtol=1e-3 if i == 20 else 1e-5)
        own = np.abs(x[token[:, i], i] - mean[i]) / std[i]
        np.testing.assert_allclose(own, away[:, i], rtol=1e-3 if i == 20 else 1e-5)
    assert {5, 90, 400} <= set(token[:3, 11].tolist())


def test_cuts_orders_and_merges_do_not_show() -> None:
    found = layers(torch.bfloat16)
    whole = streamed(found, [0, 700])
    generator = random.Random(0)
    for _ in range(10):
        cuts = [0, *sorted(generator.sample(range(1, 700), 6)), 700]
        spans = list(pairwise(cuts))
        generator.shuffle(spans)
        sides = Extremes(LAYOUT, 1), Extremes(LAYOUT, 1)
        for start, stop in spans:
            tokens = torch.arange(start, stop)
            sides[generator.random() < 0.5].update([x[start:stop] for x in found], tokens, "a")
        sides[0].merge(sides[1])
        for name, tensor in whole.tensors().items():
            if "_" in name:
                assert torch.equal(sides[0].tensors()[name], tensor), name
        np.testing.assert_allclose(sides[0].m2, whole.m2, rtol=1e-10, atol=1e-12)
        again = Extremes(LAYOUT, 1)
        again.load_saved(sides[0].saved_state())
        assert torch.equal(again.farthest()[0], whole.farthest()[0])


def test_bad_values_are_named() -> None:
    found = layers(torch.float32)
    found[1][7, 3] = torch.nan
    extremes = Extremes(LAYOUT, 1)
    with pytest.raises(uf.InputError, match="a: layer 'y' has nan at token 107, neuron 3"):
        extremes.update(found, torch.arange(100, 800), "a")
