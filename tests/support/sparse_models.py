"""Sparse features that are few enough to be summed by entries, and the same ones dense."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import univfast as uf
from univfast.inputs.activations import open_activations
from univfast.inputs.layout import Layout
from univfast.machine.devices import CPU
from univfast.options import CorrelateOptions, complete
from univfast.runs import sparse_pass, sparse_plan
from univfast.runs.comparisons import Comparison
from univfast.runs.sparse_plan import SparsePlan
from univfast.sums import co_moments, sparse_pairs

__all__ = [
    "FORMS",
    "TOKENS",
    "as_form",
    "cut_small",
    "dense_model",
    "exact_r",
    "in_parts",
    "same",
]

TOKENS = 500
FORMS = ("the k largest", "coo", "csr", "scipy")


def dense_model(
    seed: int, width: int, active: int = 2, dtype: torch.dtype = torch.float64
) -> Tensor:
    """``[TOKENS, width]``, a few features of each token above 0, of which some are shared."""
    generators = [torch.Generator().manual_seed(i) for i in (0, seed)]
    shared, own = (torch.rand(TOKENS, 64, generator=generator) for generator in generators)
    score = (shared + 0.3 * own)[:, :width]
    values, indices = score.topk(active, dim=1)
    dense = torch.zeros(TOKENS, width).scatter_(1, indices, values)
    dense[::11] = 0  # tokens without entries
    dense[:, 3] = 0  # a feature that is never active
    return dense.to(dtype)


def as_form(dense: Tensor, form: str) -> Any:
    """A dense layer ``[tokens, features]`` as sparse features."""
    if form == "the k largest":
        k = int((dense != 0).sum(dim=1).max()) + 1
        indices = dense.abs().topk(k, dim=1).indices
        return {"top_acts": dense.gather(1, indices), "top_indices": indices}
    if form == "scipy":
        return scipy.sparse.csr_array(dense.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that CSR is new
        return dense.to_sparse() if form == "coo" else dense.to_sparse_csr()


def exact_r(a: Tensor, b: Tensor) -> Any:
    """r of all pairs by NumPy in float64, NaN for the dead: ``[features of A, features of B]``."""
    x, y = (dense.double().numpy() for dense in (a, b))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return (x.T @ y) / np.sqrt((x**2).sum(axis=0)[:, None] * (y**2).sum(axis=0))


def in_parts(a: object, b: object, features: int, **options: Any) -> float:
    """A limit of memory that the state of so many features of A with all of B just fits."""
    layers = [list(open_activations(x, "x").layers.values()) for x in (a, b)]
    complete_options = complete(CorrelateOptions, options, "correlate")
    plan = SparsePlan(layers, complete_options, CPU)
    assert plan.entries(Comparison(0, 1)) is not None
    return plan.bytes(Comparison(0, 1), Layout((layers[0][0].name,), (features,)))


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 64 tokens, of a few pieces each, and chunks of some slices."""
    monkeypatch.setattr(sparse_pass, "LEAST_TOKENS", 64)
    monkeypatch.setattr(sparse_pass, "_STEP_ENTRIES", 1)
    monkeypatch.setattr(sparse_pass, "_PIECE_ENTRIES", 60)
    monkeypatch.setattr(sparse_pairs, "CHUNK_ENTRIES", 700)
    monkeypatch.setattr(sparse_plan, "CHUNK_ENTRIES", 700)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)


def same(one: uf.CorrelationResult, other: uf.CorrelationResult) -> bool:
    """Whether two results, and their reverses, are the same to the last bit."""
    if one.reverse is not None and other.reverse is not None:
        assert same(one.reverse, other.reverse)
    assert (one.by_index is None) == (other.by_index is None)
    if one.by_index is not None and other.by_index is not None:
        assert same(one.by_index, other.by_index)
    assert one.summary["tokens"] == other.summary["tokens"]
    return repr(one.columns()) == repr(other.columns())
