"""Beside a screen, neurons with those of the same number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from univfast.runs import screen_plan, screening
from univfast.runs.sampling import Sample
from univfast.search import sampled

WIDTHS = (30, 20)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "chunk_tokens", lambda device: 100)


def models(tokens: int) -> list[dict[str, Tensor]]:
    """Two of the same layers; most neurons of B's first do what those of A's do."""
    generator = torch.Generator().manual_seed(0)
    a, b = (
        {f"mlp.{i}": torch.randn(tokens, n, generator=generator) for i, n in enumerate(WIDTHS)}
        for _ in range(2)
    )
    b["mlp.0"][:, :25] += 2 * a["mlp.0"][:, :25]
    return [a, b]


def test_they_are_what_a_run_by_index_gives() -> None:
    a, b = models(600)
    c = {name: x.flip(0) for name, x in b.items()}
    options: dict[str, Any] = {"draws": 2, "shifts": 9, "mask": torch.arange(600) % 5 != 2}
    result = uf.correlate(a, [b, c], screen=200, **options)
    by_index = uf.correlate(a, [b, c], match="index", **options)
    beside = result.by_index
    assert beside is not None
    for name in ("correlation", "baseline", "p_value", "null_excess", "universal"):
        found, expected = getattr(beside, name), getattr(by_index, name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)
    counts = result.summary["by_index"]
    assert counts is not None
    assert counts["universal"] == by_index.summary["universal"]
    assert counts["universal_by_chance"] == by_index.summary["universal_by_chance"]
    assert "By index" in uf.correlate(a, b, screen=200, draws=2).verdict()


def test_there_may_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = models(300)
    c = {**b, "more": b["mlp.0"]}
    given: dict[str, Any] = {"screen": 200, "draws": 2}
    assert uf.correlate(a, c, **given).by_index is None
    assert uf.correlate(a, [b, c], **given).by_index is None
    assert uf.correlate(a, b, exclude_self=True, **given).by_index is None
    assert uf.correlate(a, b, **given, rotation="gaussian").by_index is not None
    # Dense rotations of both layers are held at once.
    monkeypatch.setattr(screen_plan, "_MATRIX_BYTES", 2 * 8 * sum(n**2 for n in WIDTHS) - 1)
    assert uf.correlate(a, b, **given, rotation="gaussian").by_index is None
    assert uf.correlate(a, b, **given).by_index is not None


def test_the_neuron_of_the_same_number_is_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "CANDIDATES", 1)
    a, b = models(600)
    # In the sample each neuron of A is like another one of B.
    seen = torch.zeros(600, dtype=torch.bool)

    def first(*arguments: object) -> Sample:
        sample = choose(*arguments)  # type: ignore[arg-type]
        seen[sample.tokens] = True
        b["mlp.0"][seen] = a["mlp.0"][seen].roll(1, dims=1)
        return sample

    choose = screening.choose
    monkeypatch.setattr(screening, "choose", first)
    result = uf.correlate(a, b, screen=100, draws=1)
    assert result.by_index is not None
    own = result.by_index.correlation
    assert int((own[:25] > 0.4).sum()) > 20
    assert bool((result.correlation >= own - 1e-6).all())
