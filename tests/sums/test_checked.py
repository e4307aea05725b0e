"""Some neurons with all of another model: the highest r of each, and where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.candidates import all_correlations, cut_small, feed, layout
from support.dtypes import DTYPES, F32, F64, name_of
from support.pairs import limit_of
from support.parity import Array, activations, assert_close, bits
from univfast.sums.checked import CheckedRows

A, B = (30, 5, 17), (25, 9, 20)
WIDTHS = A, B
# In no order, of the first layer and the last; 3 is constant.
NUMBERS = torch.tensor([51, 3, 36, 0, 29, 35])


@pytest.fixture(autouse=True)
def _cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def models(dtype: torch.dtype = F32) -> tuple[Tensor, Tensor]:
    """The last neuron of B is constant, and so is 3 of A."""
    x, y = activations(333, 54)
    x[:, 3] = y[:, -1] = 0.1
    return torch.from_numpy(x[:, :52]).to(dtype), torch.from_numpy(y).to(dtype)


def rows_of(numbers: Tensor = NUMBERS) -> CheckedRows:
    return CheckedRows(layout("a", A), layout("b", B), numbers, threads=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_the_best_of_all(dtype: torch.dtype) -> None:
    a, b = models(dtype)
    rows = rows_of()
    feed(rows, a, b, WIDTHS, (100, 233))
    r, place = rows.best()
    exact = all_correlations(a, b)[NUMBERS.numpy()]
    assert_close(r, highest(exact), limit_of(dtype), "r")
    assert place.tolist() == [-1 if np.isnan(x).all() else int(np.nanargmax(x)) for x in exact]
    assert place.eq(-1).tolist() == [False, True, False, False, False, False]


def highest(exact: Array) -> Array:
    dead = np.isnan(exact).all(axis=1)
    highest = np.where(np.isnan(exact), -np.inf, exact).max(axis=1)
    return np.where(dead, np.nan, highest)


def test_without_the_same_number() -> None:
    a, _ = models(F64)
    same = layout("a", A)
    rows = CheckedRows(same, same, NUMBERS, threads=1)
    feed(rows, a, a, (A, A))
    assert_close(rows.best()[0][NUMBERS != 3], np.ones(5), 1e-12, "r with itself")
    exact = all_correlations(a, a)
    np.fill_diagonal(exact, np.nan)
    r, place = rows.best(exclude_self=True)
    assert_close(r, highest(exact[NUMBERS.numpy()]), 1e-12, "r")
    assert not bool((place == NUMBERS).any())


def test_r_at_places() -> None:
    a, b = models(F64)
    rows = rows_of()
    feed(rows, a, b, WIDTHS)
    places = torch.tensor([7, 1, 53, -1, 0, 40])
    exact = all_correlations(a, b)
    expected = [np.nan if j < 0 else exact[i, j] for i, j in zip(NUMBERS, places, strict=True)]
    assert_close(rows.at(places), np.array(expected), 1e-12, "r")
    assert np.isnan(expected).tolist() == [False, True, True, True, False, False]


def test_bits_do_not_depend_on_batches() -> None:
    a, b = models()
    found = []
    for sizes in ((333,), (1, 332), (63, 1, 200, 69), (0, 64, 269)):
        rows = rows_of()
        feed(rows, a, b, WIDTHS, sizes)
        found.append([bits(x) for x in rows.best()])
    assert all(x == found[0] for x in found)


def test_masked_tokens_are_left_out() -> None:
    a, b = models()
    keep = torch.rand(333, generator=torch.Generator().manual_seed(0)) < 0.6
    masked, taken = rows_of(), rows_of()
    feed(masked, torch.where(keep[:, None], a, torch.nan), b, WIDTHS, (100, 233), keep)
    feed(taken, a[keep], b[keep], WIDTHS)
    assert [bits(x) for x in masked.best()] == [bits(x) for x in taken.best()]


def test_bad_values_are_named_as_the_layer_has_them() -> None:
    a, b = models()
    rows = rows_of()
    feed(rows, a, b, WIDTHS)
    before = rows.best()
    ignored, spoilt = a.clone(), a.clone()
    ignored[100, 4] = torch.nan  # not among those that are checked
    feed(rows, ignored, b, WIDTHS)
    rows.reset()
    feed(rows, a, b, WIDTHS)
    spoilt[100, 51] = torch.nan
    with pytest.raises(uf.InputError, match=r"^left: layer 'a2' has nan at token 100, neuron 16"):
        feed(rows, spoilt, b, WIDTHS)
    assert [bits(x) for x in rows.best()] == [bits(x) for x in before]


def test_a_state_goes_on_where_it_was_saved() -> None:
    a, b = models()
    first, loaded, whole = rows_of(), rows_of(), rows_of()
    feed(first, a[:100], b[:100], WIDTHS)
    loaded.load_saved(first.saved_state())
    feed(loaded, a[100:], b[100:], WIDTHS)
    feed(whole, a, b, WIDTHS)
    assert [bits(x) for x in loaded.best()] == [bits(x) for x in whole.best()]
    with pytest.raises(uf.InputError, match=r"^load_state_dict: numbers "):
        rows_of(NUMBERS.flip(0)).load_saved(first.saved_state())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (torch.tensor([1, 2, 1]), "name a neuron twice"),
        (torch.tensor([0, 52]), "expected 0 to 51"),
        (torch.tensor([-1, 3]), "expected 0 to 51"),
        (torch.tensor([0.0]), r"expected int64 \[checked\], got float32 \[1\]"),
        (torch.zeros(0, dtype=torch.int64), r"expected int64 \[checked\]"),
        (torch.zeros(1, 1, dtype=torch.int64), r"expected int64 \[checked\]"),
    ],
)
def test_numbers_that_are_no_neurons_are_refused(numbers: Tensor, message: str) -> None:
    with pytest.raises(uf.InputError, match=f"^numbers: {message}"):
        rows_of(numbers)
