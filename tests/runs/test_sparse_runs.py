"""Sparse features summed by what is active together: they give what dense arrays give."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.parity import assert_close
from support.sparse_models import (
    FORMS,
    TOKENS,
    as_form,
    cut_small,
    dense_model,
    exact_r,
    in_parts,
    same,
)
from univfast.runs import sparse_pass
from univfast.runs.sparse_pass import SparsePass
from univfast.sums.sparse_pairs import SparsePairs

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[SparsePass]:
    """The passes by entries that are made."""
    made: list[SparsePass] = []
    init = SparsePass.__init__

    def noted(self: SparsePass, *args: Any) -> None:
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(SparsePass, "__init__", noted)
    return made


def check_best(result: uf.CorrelationResult, r: Any, limit: float) -> None:
    """That the highest r is that of all pairs ``[A, B]``, and of the neuron that has it."""
    dead = np.isnan(r).all(axis=1)
    np.testing.assert_array_equal(result.dead.numpy(), dead)
    assert dead.any()
    filled = np.where(np.isnan(r), -2, r)
    assert_close(result.correlation[~dead], filled.max(axis=1)[~dead], limit, "r")
    rows, match = np.flatnonzero(~dead), result.match_neuron.numpy()[~dead]
    assert_close(torch.from_numpy(r[rows, match]), filled.max(axis=1)[~dead], limit, "match")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_exact(form: str, dtype: torch.dtype, passes: list[SparsePass]) -> None:
    if form == "scipy" and dtype not in (torch.float64, torch.float32):
        pytest.skip("SciPy has none of 16 bits")
    a, b = dense_model(1, 60, dtype=dtype), dense_model(2, 50, dtype=dtype)
    width = 60 if form == "the k largest" else None
    wide = torch.cat([b, b[:, :10] * 0], dim=1)  # as wide, for one width serves both
    given = [as_form(x, form) for x in (a, b if width is None else wide)]
    keep = torch.arange(TOKENS) % 7 != 3
    for mask in (None, keep):
        found = uf.correlate(*given, rotation="none", mask=mask, width=width)
        r = exact_r(*(x if mask is None else x[mask] for x in (a, b)))
        check_best(found, r, 1e-13)
    assert len(passes) == 2


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("match", ["best", "one-to-one"])
def test_all_that_follows_is_that_of_dense_layers(
    match: str, rotation: str, passes: list[SparsePass]
) -> None:
    dense = [{"x": dense_model(i, 40), "y": dense_model(i + 5, 24)} for i in (1, 2)]
    sparse = [{name: as_form(x, "coo") for name, x in model.items()} for model in dense]
    options: dict[str, Any] = {"match": match, "rotation": rotation, "draws": 3, "reverse": True}
    expected, found = uf.correlate(*dense, **options), uf.correlate(*sparse, **options)
    assert len(passes) == 1
    assert expected.reverse is not None
    assert found.reverse is not None
    for one, other in ((found, expected), (found.reverse, expected.reverse)):
        for name in ("correlation", "baseline", "excess", "p_value", "top_correlation"):
            assert_close(getattr(one, name), getattr(other, name).numpy(), 1e-12, name)
        assert torch.equal(one.dead, other.dead)


@pytest.mark.parametrize("form", FORMS)
def test_large_means_and_constants(form: str, passes: list[SparsePass]) -> None:
    """Features that are always active, with means of 1e4 standard deviations; or never change."""
    a, b = dense_model(1, 200), dense_model(2, 200)
    generator = torch.Generator().manual_seed(3)
    a[:, 0] = 1e4 + torch.randn(TOKENS, generator=generator).double()
    b[:, 1] = a[:, 0] / 3 + torch.randn(TOKENS, generator=generator).double()
    b[::9, 2] = -1e4 + torch.randn(b[::9, 2].shape, generator=generator).double()
    constant = torch.tensor([0.1, 0.7, 1.1, -1 / 3], dtype=torch.float64)
    a[:, 5:9], b[:, 12:16] = constant, constant
    b[1:, 7] = 0.1  # all but
    found = uf.correlate(
        *(as_form(x, form) for x in (a, b)), rotation="none", width=200 if form[0] == "t" else None
    )
    assert passes
    assert found.dead[5:9].all()
    r = exact_r(a, b)
    r[5:9], r[:, 12:16] = np.nan, np.nan  # NumPy's own means of these are rounded
    check_best(found, r, 1e-12)
    assert found.match_neuron[0] == 1


def test_a_feature_that_is_silent_on_the_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_pass, "PILOT_TOKENS", 50)
    a, b = dense_model(1, 90), dense_model(2, 90)
    a[50:, 0] = torch.linspace(900, 901, TOKENS - 50).double()
    b[50:, 1] = torch.linspace(800, 801, TOKENS - 50).double()
    b[100:, 2] = 0  # active on most of the first
    b[:100, 2] = 7 + torch.rand(100, generator=torch.Generator().manual_seed(0)).double()
    found = uf.correlate(as_form(a, "coo"), as_form(b, "csr"), rotation="none")
    check_best(found, exact_r(a, b), 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_that_are_added(dtype: torch.dtype, passes: list[SparsePass]) -> None:
    """Those of one token and feature, in the dtype that they are stored in; one sum is 0."""
    made = dense_model(1, 60, dtype=dtype).to_sparse().coalesce()
    indices, values = torch.cat([made.indices()] * 2, dim=1), made.values()
    order = indices[0].argsort(stable=True)
    both = torch.cat([values, values * 0.37])[order]
    first = order.argsort()[[0, len(values)]]
    both[first[1]] = -both[first[0]]
    twice = torch.sparse_coo_tensor(indices[:, order], both, (TOKENS, 60), check_invariants=False)
    dense, b = twice.to_dense(), dense_model(2, 50, dtype=dtype)
    found = uf.correlate(twice, as_form(b, "coo"), rotation="none")
    assert passes
    check_best(found, exact_r(dense, b), 1e-13)


@pytest.mark.parametrize("features", [pytest.param(1, marks=pytest.mark.slow), 7, 25])
@pytest.mark.parametrize("case", ["plain", "reverse", "rotated", "itself", "masked"])
def test_parts_of_a_layer_are_the_layer(case: str, features: int, passes: list[SparsePass]) -> None:
    a, b = as_form(dense_model(1, 50), "coo"), as_form(dense_model(2, 50), "csr")
    b = a if case == "itself" else b
    options: dict[str, Any] = {
        "rotation": "hadamard" if case == "rotated" else "none",
        "reverse": case == "reverse",
        "exclude_self": case == "itself",
        "mask": torch.arange(TOKENS) % 5 != 2 if case == "masked" else None,
    }
    whole = uf.correlate(a, b, **options)
    limit = in_parts(a, b, features, **options)
    parts = uf.correlate(a, b, memory_limit=limit, **options)
    assert len(passes) == 1 + -(-50 // features)
    assert same(whole, parts)
    assert case == "itself" or whole.by_index is not None


def test_one_state_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[weakref.ref[SparsePairs]] = []
    alive: list[int] = []
    init = SparsePairs.__init__

    def noted(self: SparsePairs, *args: Any) -> None:
        alive.append(sum(state() is not None for state in states))
        states.append(weakref.ref(self))
        init(self, *args)

    monkeypatch.setattr(SparsePairs, "__init__", noted)
    a, b = (as_form(dense_model(i, 50), "coo") for i in (1, 2))
    uf.correlate(a, b, rotation="none", memory_limit=in_parts(a, b, 20, rotation="none"))
    assert alive == [0, 0, 0]


@pytest.mark.slow
def test_layers_that_fit_beside_some_that_do_not(passes: list[SparsePass]) -> None:
    widths = (20, 12, 60, 5)
    a = {f"a{i}": as_form(dense_model(i, width), "coo") for i, width in enumerate(widths)}
    b = {f"b{i}": as_form(dense_model(i + 9, width), "coo") for i, width in enumerate((30, 45))}
    limit = in_parts(a, a, 34, rotation="none")
    seen: list[int] = []
    parts = uf.correlate(
        a,
        [b, a],
        rotation="none",
        memory_limit=limit,
        search_progress=lambda done, total: seen.append(total - done),
    )
    assert len(passes) > 4
    assert same(uf.correlate(a, [b, a], rotation="none"), parts)
    assert seen[-1] == 0


def test_threads_change_no_bit() -> None:
    a, b = (as_form(dense_model(i, 60), "coo") for i in (1, 2))
    results = [uf.correlate(a, b, draws=2, threads=threads) for threads in (1, 3)]
    assert same(*results)


def test_slices_and_chunks_change_the_last_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (as_form(dense_model(i, 60, dtype=torch.float32), "coo") for i in (1, 2))
    small = uf.correlate(a, b, draws=2)
    monkeypatch.undo()
    large = uf.correlate(a, b, draws=2)
    for name in ("correlation", "baseline"):
        assert_close(getattr(small, name), getattr(large, name).numpy(), 1e-13, name)


def test_one_feature_and_none_that_is_active() -> None:
    one, none = torch.zeros(TOKENS, 30), torch.zeros(TOKENS, 30)
    one[::5, 0] = torch.arange(100.0)
    found = uf.correlate(one.to_sparse(), one.to_sparse(), rotation="none")
    assert found.correlation[0] == pytest.approx(1, abs=1e-14)
    assert int(found.dead.sum()) == 29
    found = uf.correlate(one.to_sparse(), none.to_sparse(), rotation="none")
    assert found.summary["unmatched"] == 1


def test_controls_and_details(passes: list[SparsePass]) -> None:
    dense = [dense_model(i, 60) for i in range(4)]
    ids = torch.arange(TOKENS) % 17

    def run(models: list[Any]) -> uf.CorrelationResult:
        a, b, *controls = models
        return uf.correlate(
            a, b, controls_b=controls, token_ids=ids, draws=2, details=True, control_tokens=300
        )

    found, expected = run([as_form(x, "csr") for x in dense]), run(dense)
    assert len(passes) == 1 + 3 - 1  # the real pair, it on fewer tokens with the first control, ...
    for name in (
        "correlation",
        "control_b",
        "excess_control",
        "mean",
        "token_r2",
        "correlation_se",
    ):
        assert_close(getattr(found, name), getattr(expected, name).numpy(), 1e-12, name)
    assert found.summary["controls"] is not None


# ---- what is summed densely ---------------------------------------------------------------------


def test_one_sparse_model_and_one_dense_are_dense(passes: list[SparsePass]) -> None:
    a, b = dense_model(1, 60), dense_model(2, 50)
    found = uf.correlate(a, as_form(b, "coo"), rotation="none")
    assert not passes
    check_best(found, exact_r(a, b), 1e-12)


def test_a_sparse_model_with_others_of_both_kinds(passes: list[SparsePass]) -> None:
    a, b, c = (dense_model(i, n) for i, n in ((1, 60), (2, 50), (3, 40)))
    found = uf.correlate(as_form(a, "coo"), [as_form(b, "coo"), c], rotation="none")
    assert len(passes) == 1
    assert found.summary["method"]["sums"] == "mixed"
    assert found.summary["method"]["products"] == ["entries", "float64"]
    for result, other in zip(found.by_model, (b, c), strict=True):
        check_best(result, exact_r(a, other), 1e-7)


def test_features_that_are_active_everywhere_are_dense(passes: list[SparsePass]) -> None:
    a, b = (dense_model(i, 50, active=8) for i in (1, 2))
    found = uf.correlate(as_form(a, "coo"), as_form(b, "coo"), rotation="none")
    assert not passes
    check_best(found, exact_r(a, b), 1e-12)


# ---- what is refused ----------------------------------------------------------------------------


def with_value(dense: Tensor, token: int, feature: int, value: float) -> Tensor:
    dense = dense.clone()
    dense[token, feature] = value
    return dense


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "has nan at token 300, neuron 4; mend the activations or leave"),
        (-torch.inf, "has -inf at token 300, neuron 4; mend the activations or leave"),
        (1e200, r"has 1e\+200 at token 300, neuron 4, too large to square; rescale"),
        (1e-200, "has 1e-200 at token 300, neuron 4, too small to square; rescale"),
    ],
)
@pytest.mark.parametrize("form", ["the k largest", "csr"])
def test_values_that_no_sum_includes(form: str, value: float, message: str) -> None:
    a, b = dense_model(1, 50), with_value(dense_model(2, 50), 300, 4, value)
    if form == "the k largest":
        b = b.nan_to_num(nan=5.0)  # topk would choose it; put back below
    sources = [as_form(x, form) for x in (a, b)]
    if form == "the k largest":
        at = (sources[1]["top_indices"][300] == 4).nonzero()[0, 0]
        sources[1]["top_acts"][300, at] = value
    options: dict[str, Any] = {"rotation": "none", "width": 50 if form[0] == "t" else None}
    with pytest.raises(uf.InputError, match=f"^b: layer 'activations' {message}"):
        uf.correlate(*sources, **options)
    found = uf.correlate(*sources, **options, mask=torch.arange(TOKENS) != 300)
    assert found.summary["tokens"] == TOKENS - 1


def test_what_fits_no_memory() -> None:
    a, b = (as_form(dense_model(i, 50), "coo") for i in (1, 2))
    limit = in_parts(a, b, 1, rotation="none")
    with pytest.raises(
        uf.InputError, match=r"^memory_limit: a feature of layer .* raise the limit"
    ):
        uf.correlate(a, b, rotation="none", memory_limit=limit - 1)
    wide = torch.eye(2000).to_sparse()  # 32 MB of pairs
    with pytest.raises(uf.InputError, match=r"needs 0\.00.* GB, .* \(all at once need 0\.03"):
        uf.correlate(wide, wide, rotation="none", reverse=True, memory_limit=1e5)
    message = r"^rotation: rotations of dictionaries .*; give rotation='none', for the nulls of sp"
    for reverse in (False, True):
        enough = in_parts(a, b, 2, rotation="none", reverse=reverse)
        with pytest.raises(uf.InputError, match=message):
            uf.correlate(a, b, memory_limit=enough, reverse=reverse)
    with pytest.raises(uf.InputError, match=r"^memory_limit: one-to-one .* use match='best'"):
        uf.correlate(a, b, rotation="none", match="one-to-one", memory_limit=limit + 1e4)


def test_features_that_stand_twice() -> None:
    a = as_form(dense_model(1, 50), "coo")
    indices = torch.arange(TOKENS)[:, None] * 0 + torch.tensor([[1, 4]])
    twice = {"top_indices": indices.clone(), "top_acts": torch.ones(TOKENS, 2), "d_sae": 50}
    twice["top_indices"][333] = 4
    with pytest.raises(uf.InputError, match="has feature 4 twice at token 333; save each once"):
        uf.correlate(a, twice, rotation="none")
    twice["top_indices"][333, 1] = 50
    with pytest.raises(uf.InputError, match="has feature 50 at token 333, and 50 features"):
        uf.correlate(a, twice, rotation="none")
