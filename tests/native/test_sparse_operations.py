"""Operations of the core on sparse features: what they give, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from fuzz.native_calls import Draw, call_sparse_features
from univfast.native.sparse import (
    EntryList,
    Grouped,
    add_entry_moments,
    add_entry_products,
    group_entries,
    repeated_entry,
)

F64, I32, I64 = torch.float64, torch.int32, torch.int64


@pytest.mark.parametrize("seed", range(30))
def test_they_are_those_of_dense_matrices(seed: int) -> None:
    call_sparse_features(Draw(Random(seed), wide=seed % 5 == 4))


def test_entries_of_a_group_stay_in_order() -> None:
    keys = torch.tensor([2, 0, 2, 2, 0], dtype=I32)
    found = group_entries(keys, torch.arange(5, dtype=I32), torch.arange(5.0), 4, 2)
    assert found.starts.tolist() == [0, 2, 2, 5, 5]
    assert found.number.tolist() == found.value.tolist() == [1, 4, 0, 2, 3]


def test_no_entries() -> None:
    none, c = torch.empty(0, dtype=I32), torch.ones(3, 2, dtype=F64)
    rows, columns = (group_entries(none, none, torch.empty(0), n, 2) for n in (3, 5))
    add_entry_products(c, rows, columns, 2)
    assert torch.equal(c, torch.ones(3, 2, dtype=F64))
    assert repeated_entry(EntryList(none, none, torch.empty(0)), 3) is None


def test_of_one_dtype_and_of_float32_or_64() -> None:
    number = torch.zeros(1, dtype=I32)
    found = [
        group_entries(number, number, torch.ones(1, dtype=dtype), 1, 1)
        for dtype in (torch.float32, F64)
    ]
    with pytest.raises(ValueError, match=r"native: got torch\.float32 and torch\.float64"):
        add_entry_products(torch.zeros(1, 1, dtype=F64), found[0], found[1], 1)
    with pytest.raises(ValueError, match="values: not float32 or 64"):
        group_entries(number, number, torch.ones(1, dtype=torch.float16), 1, 1)


def made() -> dict[str, Tensor]:
    """Arguments that fit: two rows and three columns, of four tokens."""
    return {
        "c": torch.zeros(2, 3, dtype=F64),
        "row_starts": torch.tensor([0, 1, 3]),
        "tokens": torch.tensor([0, 1, 3], dtype=I32),
        "a": torch.ones(3),
        "column_starts": torch.tensor([0, 1, 1, 1, 2]),
        "columns": torch.tensor([0, 2], dtype=I32),
        "b": torch.ones(2),
    }


def products(**x: Tensor) -> None:
    rows = Grouped(x["row_starts"], x["tokens"], x["a"])
    columns = Grouped(x["column_starts"], x["columns"], x["b"])
    add_entry_products(x["c"], rows, columns, 1)


def test_products() -> None:
    given = made()
    products(**given)
    assert given["c"].tolist() == [[1, 0, 0], [0, 0, 1]]


CHANGES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "rows that are not those of c": lambda x: x.update(c=torch.zeros(3, 3, dtype=F64)),
    "a column beyond c": lambda x: x["columns"].fill_(3),
    "a column below 0": lambda x: x["columns"].fill_(-1),
    "a token beyond all": lambda x: x["tokens"].fill_(4),
    "a token below 0": lambda x: x["tokens"].fill_(-1),
    "groups that overlap": lambda x: x["row_starts"].copy_(torch.tensor([0, 5, 3])),
    "groups that begin elsewhere": lambda x: x["row_starts"].copy_(torch.tensor([1, 1, 3])),
    "groups of more entries": lambda x: x["column_starts"].add_(1),
    "groups of fewer": lambda x: x["column_starts"].clamp_(max=1),
    "fewer numbers": lambda x: x.update(tokens=x["tokens"][:2]),
    "numbers of 64 bits": lambda x: x.update(tokens=x["tokens"].long()),
    "values of other bits": lambda x: x.update(a=x["a"].double()),
    "c of other bits": lambda x: x.update(c=x["c"].float()),
    "numbers apart": lambda x: x.update(columns=torch.zeros(4, dtype=I32)[::2]),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_does_not_fit_is_refused(change: str) -> None:
    given = made()
    CHANGES[change](given)
    with pytest.raises(ValueError):  # noqa: PT011
        products(**given)
    if change != "rows that are not those of c":
        assert not given["c"].any()


@pytest.mark.parametrize("feature", [-1, 3])
def test_features_beyond_the_width(feature: int) -> None:
    numbers = torch.tensor([feature], dtype=I32)
    entries = EntryList(torch.zeros(1, dtype=I32), numbers, torch.ones(1))
    with pytest.raises(ValueError, match="beyond the width"):
        add_entry_moments(entries, torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match="beyond the width"):
        repeated_entry(entries, 3)
    with pytest.raises(ValueError, match="one that is no group"):
        group_entries(numbers, entries.token, entries.value, 3, 1)
