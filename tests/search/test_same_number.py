"""Beside a search: what matching by index gives, from the same sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.dtypes import F32, F64, name_of
from support.live_models import POST, Plain, token_ids
from support.pairs import MATCHES, Layers

NUMBERS = ("correlation", "baseline", "baseline_std", "excess", "p_value", "q_value")
COUNTS = ("universal", "universal_by_chance", "chance_counts", "fdr")
WIDTHS = {"x": 40, "y": 24, "z": 7}


def lineage(
    noise: float = 0.5, number: int = 2, tokens: int = 1000, dtype: torch.dtype = F64
) -> list[Layers]:
    """Models whose neurons of one number resemble each other; some are dead in one of them."""
    g = torch.Generator().manual_seed(0)
    first = {name: torch.randn(tokens, n, generator=g, dtype=F64) for name, n in WIDTHS.items()}
    found = [
        {name: x + noise * torch.randn(x.shape, generator=g, dtype=F64) for name, x in own.items()}
        for own in [first] * number
    ]
    for i, model in enumerate(found):
        model["x"][:, 3 + i] = 1.5
        model["y"][:, 2] = 0
    found[-1]["z"][:, 1] = -2
    return [{name: x.to(dtype) for name, x in model.items()} for model in found]


def independent(number: int = 2) -> list[Layers]:
    g = torch.Generator().manual_seed(9)
    return [
        {name: torch.randn(1000, n, generator=g) for name, n in WIDTHS.items()}
        for _ in range(number)
    ]


def assert_beside(
    found: uf.CorrelationResult, expected: uf.CorrelationResult, limit: float = 1e-6
) -> None:
    """What stands beside ``found`` is ``expected``, a result by index."""
    beside = found.by_index
    assert beside is not None
    for name in NUMBERS:
        one, other = getattr(beside, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=limit, err_msg=name)
    for name in ("dead", "universal", "match_neuron"):
        assert torch.equal(getattr(beside, name), getattr(expected, name)), name
    assert beside.layer == expected.layer
    assert beside.match_layer == expected.match_layer
    assert (beside.null_excess is None) == (expected.null_excess is None)
    if beside.null_excess is not None:
        np.testing.assert_allclose(beside.null_excess, expected.null_excess, atol=limit)
    for name in (*COUNTS, "shifts", "dead", "tokens"):
        assert beside.summary[name] == expected.summary[name], name
    assert beside.summary["match"] == "index"
    assert found.summary["match"] != "index"
    said = found.summary["by_index"]
    assert {name: said[name] for name in COUNTS} == {
        name: expected.summary[name] for name in COUNTS
    }
    assert abs(said["mean_correlation"] - expected.summary["mean_correlation"]) < limit


# ---- the same numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("match", MATCHES)
def test_the_same_as_by_index(match: str, rotation: str, dtype: torch.dtype) -> None:
    a, b = lineage(dtype=dtype)
    options: dict[str, Any] = {"rotation": rotation, "seed": 3, "mask": torch.arange(1000) % 7 > 0}
    expected = uf.correlate(a, b, match="index", **options)
    assert expected.summary["dead"] == 4
    assert expected.summary["universal"] > 30
    assert_beside(uf.correlate(a, b, match=match, **options), expected)


@pytest.mark.parametrize("shifts", [0, 1, 2, 5, 50])
def test_numbers_of_shifts(shifts: int) -> None:
    a, b = lineage()
    for draws in (1, 3):
        options: dict[str, Any] = {"shifts": shifts, "draws": draws}
        found = uf.correlate(a, b, **options)
        expected = uf.correlate(a, b, match="index", **options)
        if shifts:
            assert_beside(found, expected, 1e-11)
        else:
            assert found.by_index is not None
            assert torch.equal(found.by_index.universal, expected.universal)


@pytest.mark.parametrize("match", MATCHES)
def test_several_models(match: str) -> None:
    a, *others = lineage(number=3)
    expected = uf.correlate(a, others, match="index")
    found = uf.correlate(a, others, match=match)
    assert_beside(found, expected, 1e-11)
    assert found.by_index is not None
    for one, other in zip(found.by_index.by_model, expected.by_model, strict=True):
        np.testing.assert_allclose(one.correlation, other.correlation, atol=1e-11)
        assert one.summary["universal"] == other.summary["universal"]
    assert all(one.by_index is None for one in found.by_model)


@pytest.mark.usefixtures("small_chunks")
def test_several_passes() -> None:
    a, b = lineage(dtype=F32)
    expected = uf.correlate(a, b, match="index")
    totals = []
    for limit in (None, 200e3):
        found = uf.correlate(
            a, b, reverse=True, memory_limit=limit, progress=lambda _, total: totals.append(total)
        )
        assert_beside(found, expected)
        assert found.reverse is not None
        assert found.reverse.by_index is None
        assert found.reverse.summary["by_index"] is None
    assert totals[-1] >= 2 * totals[0]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("match", MATCHES)
def test_the_accumulator(match: str) -> None:
    a, b = lineage()
    sums = uf.AllPairsCorrelation(WIDTHS, WIDTHS, draws=3, seed=1)
    for part in (slice(0, 300), slice(300, 301), slice(301, 1000)):
        sums.update(*({name: x[part] for name, x in model.items()} for model in (a, b)))
    expected = uf.correlate(a, b, match="index", draws=3, seed=1)
    assert_beside(sums.compute(match=match), expected, 1e-11)


@pytest.mark.parametrize("match", MATCHES)
def test_live_models(match: str) -> None:
    models, batches = [Plain(seed=seed).double() for seed in (1, 1)], token_ids()
    with torch.no_grad():
        for block in models[1].blocks:
            block.mlp.up.weight += 0.3 * torch.randn_like(block.mlp.up.weight)
    options: dict[str, Any] = {"hooks": POST, "threshold": 0.2}
    expected = uf.correlate_models(*models, batches, match="index", **options)
    found = uf.correlate_models(*models, batches, match=match, **options)
    assert_beside(found, expected, 1e-11)
    assert expected.summary["universal"] > 0


# ---- where there is none -------------------------------------------------------------------------


def test_where_numbers_do_not_agree() -> None:
    a, b = lineage()
    wider = {**b, "y": torch.cat([b["y"], b["y"]], dim=1)}
    fewer = {name: b[name] for name in ("x", "y")}
    named = {f"{name}'": x for name, x in b.items()}
    for other in (wider, fewer, named, [b, fewer]):
        found = uf.correlate(a, other)
        assert found.by_index is None
        assert found.summary["by_index"] is None
        assert "By index" not in found.verdict()
    itself = uf.correlate(a, a, exclude_self=True)
    assert itself.by_index is None
    by_index = uf.correlate(a, b, match="index")
    assert by_index.by_index is None
    assert by_index.summary["by_index"] is None


# ---- which matching fits -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3])
def test_the_verdict_names_the_matching_that_fits(number: int) -> None:
    a, *others = lineage(number=number)
    one = uf.correlate(a, others)
    assert one.by_index is not None
    count = one.by_index.summary["universal"]
    assert f" By index {count} are universal, shifted partners give 0 in 20 draws" in one.verdict()
    assert one.verdict().endswith("one lineage, for which match index fits as well.")
    # The same neurons in another order; and models that share nothing.
    g = torch.Generator().manual_seed(1)
    mixed = [
        {name: x[:, torch.randperm(x.shape[1], generator=g)] for name, x in other.items()}
        for other in others
    ]
    first, *rest = independent(number)
    for x, y in ((a, mixed), (first, rest)):
        found = uf.correlate(x, y)
        assert found.verdict().endswith("trained independently, for which match best fits.")
    assert uf.correlate(a, mixed).summary["universal"] > 30
