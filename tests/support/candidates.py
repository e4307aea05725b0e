"""Pairs of neurons of made-up models, and their exact r."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from support.parity import Array
from univfast.inputs.layout import Layout
from univfast.sums import candidate_moments, candidate_pairs, candidates, checked
from univfast.sums.batches import PairOrigin
from univfast.sums.candidates import Candidates, CandidateSums
from univfast.sums.checked import CheckedRows


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 tokens, blocks of 24, and panels of 20 neurons: many of each."""
    monkeypatch.setattr(candidates, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(checked, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(candidate_moments, "BLOCK_TOKENS", 24)
    monkeypatch.setattr(candidate_pairs, "PANEL_NEURONS", 20)


def layout(name: str, widths: Sequence[int]) -> Layout:
    return Layout(tuple(f"{name}{i}" for i in range(len(widths))), tuple(widths))


def some_pairs(a: int, b: int, each: int = 4, seed: int = 0) -> Candidates:
    """Of most neurons some, and (i, i) where there is one."""
    g = torch.Generator().manual_seed(seed)
    forward = torch.randint(-1, b, (a, each), generator=g)
    own = torch.arange(a)
    forward[:, 0] = torch.where(own < b, own, forward[:, 0])
    return Candidates.of(forward, torch.randint(-1, a, (b, each), generator=g))


def pair_correlations(a: Tensor, b: Tensor, pairs: Candidates) -> Array:
    """r of each pair in float64, of the values as stored, by NumPy alone."""
    starts, places = pairs.starts.numpy(), pairs.places.numpy()
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    x, y = (_standardised(v.double().numpy()) for v in (a, b))
    return np.array([x[:, i] @ y[:, j] for i, j in zip(rows, places, strict=True)])


def all_correlations(a: Tensor, b: Tensor) -> Array:
    """r of all pairs, as `pair_correlations`."""
    x, y = (_standardised(v.double().numpy()) for v in (a, b))
    return np.asarray(x.T @ y)


def _standardised(x: Array) -> Array:
    centred = x - x[:1]  # exactly 0 where a neuron is constant
    centred = centred - centred.mean(axis=0)
    scaled = centred / np.where(centred.any(axis=0), np.abs(centred).max(axis=0), np.nan)
    return np.asarray(scaled / np.sqrt((scaled * scaled).sum(axis=0)))


def feed(
    sums: CandidateSums | CheckedRows,
    a: Tensor,
    b: Tensor,
    widths: tuple[Sequence[int], Sequence[int]],
    sizes: Sequence[int] | None = None,
    mask: Tensor | None = None,
) -> None:
    """Gives tokens ``[tokens, neurons]`` to sums, cut into layers and batches."""
    first = 0
    for size in sizes or [len(a)]:
        part = slice(first, first + size)
        sums.update_rows(
            a[part].split(list(widths[0]), dim=1),
            b[part].split(list(widths[1]), dim=1),
            None if mask is None else mask[part],
            PairOrigin("left", "right", first),
        )
        first += size
    assert first == len(a)
