"""What a search among candidates missed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy.special import betaincinv
from torch import Tensor

import univfast as uf
from univfast.search.missed import missed, upper_limit


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("draws", [1, 2, 3, 10, 256, 1000])
def test_the_limit_is_that_of_clopper_and_pearson(draws: int) -> None:
    for hits in {0, 1, draws // 50, draws // 3, draws // 2, draws - 1} - {draws}:
        exact = betaincinv(hits + 1, draws - hits, 0.95)
        assert upper_limit(hits, draws) == pytest.approx(exact, rel=1e-9)
    assert upper_limit(draws, draws) == 1.0
    assert upper_limit(0, draws) == pytest.approx(1 - 0.05 ** (1 / draws), rel=1e-9)


def test_none_were_checked() -> None:
    assert math.isnan(upper_limit(0, 0))
    none = doubles(math.nan), torch.tensor([-1])
    found = missed(none, none, doubles(1.0))
    assert (found.checked, found.found, found.shortfall, found.thirds) == (0, 0, 0.0, ())
    assert found.summary()["limit"] is None


def test_which_were_found() -> None:
    nan = math.nan
    cases = {  # candidate: r and place; best of all: r and place; found; shortfall
        "the same": (0.5, 3, 0.5, 3, True, 0.0),
        "the same, rounded otherwise": (0.5, 3, 0.50001, 3, True, 0.0),
        "a copy of it": (0.7 - 1e-7, 4, 0.7, 9, True, 0.0),
        "another": (0.4, 4, 0.9, 9, False, 0.5),
        "none": (nan, -1, 0.3, 9, False, 0.3),
        "none, below 0": (nan, -1, -0.2, 9, False, 0.0),
        "constant": (nan, -1, nan, -1, None, None),
    }
    columns = list(zip(*cases.values(), strict=True))
    r, best = doubles(*columns[0]), doubles(*columns[2])
    place, best_place = torch.tensor(columns[1]), torch.tensor(columns[3])
    for i, (name, (*_, found, short)) in enumerate(cases.items()):
        one = slice(i, i + 1)
        got = missed((r[one], place[one]), (best[one], best_place[one]), doubles(1.0))
        assert got.checked == (found is not None), name
        assert got.found == bool(found), name
        assert got.shortfall == pytest.approx(short or 0.0), name
    got = missed((r, place), (best, best_place), torch.arange(7.0))
    assert (got.checked, got.found) == (6, 3)
    assert got.shortfall == pytest.approx(0.5)
    assert got.limit == upper_limit(3, 6)


def test_thirds_are_those_of_activity() -> None:
    """The least active are missed, in whatever order they come."""
    activity = doubles(*range(100))[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    short = torch.where(activity < 20, 0.1 + activity / 100, 0.0)
    best, place = torch.full_like(activity, 0.9), torch.arange(100)
    other = torch.where(short > 0, place + 1, place)
    got = missed((best - short, other), (best, place), activity)
    assert [(x.lowest, x.highest, x.checked, x.found) for x in got.thirds] == [
        (0, 33, 34, 14),
        (34, 66, 33, 33),
        (67, 99, 33, 33),
    ]
    assert got.thirds[0].shortfall == got.shortfall == pytest.approx(0.29)
    assert [x.limit for x in got.thirds] == [upper_limit(20, 34), *[upper_limit(0, 33)] * 2]
    plain = got.summary()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["thirds"][0]["found"] == 14
    assert plain["found"] == 80


def test_what_does_not_fit_is_refused() -> None:
    one, place = doubles(1.0), torch.tensor([0])
    with pytest.raises(uf.InputError, match=r"^candidate, whole and activity: got shapes"):
        missed((one, place), (one, place), doubles(1.0, 2.0))
    with pytest.raises(uf.InputError, match=r"^activity: holds values that are not finite"):
        missed((one, place), (one, place), doubles(math.nan))
