"""Slices of sparse features that are made dense take bounded memory, however wide they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import univfast as uf
from support.sparse_models import TOKENS, as_form, dense_model
from univfast.inputs.sparse import SparseLayer
from univfast.runs import passes

BYTES = 40 * 50 * 4  # of 40 tokens of one layer


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each slice that is made dense."""
    seen: list[int] = []
    read = SparseLayer.read

    def noted(self: SparseLayer, start: int, stop: int) -> torch.Tensor:
        seen.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(SparseLayer, "read", noted)
    monkeypatch.setattr(passes, "_DENSE_BYTES", BYTES)
    for module in ("details", "by_index"):
        monkeypatch.setattr(f"univfast.runs.{module}.READ_BYTES", 1)
    return seen


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"match": "index"}, 20),
        ({"match": "best", "rotation": "none", "details": True}, 20),
        ({"match": "best", "rotation": "none", "details": False}, 1),  # fingerprints alone
    ],
)
def test_dense_slices_are_small(options: dict[str, Any], most: int, slices: list[int]) -> None:
    a, b = (as_form(dense_model(i, 50, dtype=torch.float32), "coo") for i in (1, 2))
    found = uf.correlate(a, b, **options)
    assert found.summary["tokens"] == TOKENS
    assert max(slices, default=1) == most
    expected = uf.correlate(a.to_dense(), b.to_dense(), **options)
    assert torch.allclose(found.correlation, expected.correlation, atol=1e-6, equal_nan=True)


def test_controls_are_looked_at_in_small_slices(slices: list[int]) -> None:
    models = [as_form(dense_model(i, 50, dtype=torch.float32), "coo") for i in (1, 2, 3)]
    uf.correlate(*models[:2], controls_b=models[2:], rotation="none", details=False)
    assert max(slices) == 40
