"""A search in parts: in any order, and left anywhere, it finds the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from support.found import WIDTHS, check_same_found, options, searches_of, tied
from support.pairs import accumulated, models
from univfast.option import select
from univfast.options import SumsOptions
from univfast.search import partners
from univfast.search.searches import Searches, Work
from univfast.sums import co_moments


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 300)  # 3 rows of 12 neurons


def found_by(do: Callable[[Work], None], itself: bool, **more: Any) -> Searches:
    a, b = tied(itself)
    asked: Any = {**options(itself), **more}
    searches = searches_of(a, b, asked)
    for work in searches.works(accumulated(a, b, **select(SumsOptions, asked)).co_moments()):
        do(work)
        assert work.done.tolist() == [work.parts] * len(work.done)
        work.end()
    return searches


def straight(work: Work) -> None:
    assert sum(work.run()) == work.finished() > 0


def backwards(work: Work) -> None:
    for unit in reversed(range(len(work.done))):
        list(work.run([unit]))


def at_random(work: Work) -> None:
    """Any units, each left on the way and gone on with later."""
    chance = random.Random(0)
    while bool((work.done < work.parts).any()):
        units = sorted(chance.sample(range(len(work.done)), 3))
        for _, _ in zip(range(chance.randrange(1, 6)), work.run(units), strict=False):
            pass


@pytest.mark.parametrize("way", [backwards, at_random])
@pytest.mark.parametrize("itself", [False, True], ids=["two models", "one with itself"])
@pytest.mark.parametrize("rotation", ["hadamard", "gaussian"])
def test_any_order_finds_the_same(rotation: str, itself: bool, way: Callable[[Work], None]) -> None:
    expected = found_by(straight, itself, rotation=rotation)
    check_same_found(found_by(way, itself, rotation=rotation), expected)


def test_rows_are_searched_in_blocks() -> None:
    counts = []

    def count(work: Work) -> None:
        counts.append(len(work.done))
        straight(work)

    found_by(count, itself=False)
    assert min(counts) > 5


@pytest.mark.parametrize("rotation", ["hadamard", "gaussian"])
def test_blocks_of_rows_find_what_all_rows_do(
    rotation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of neurons with those of the same number, which stand in several blocks."""
    a, b = models(200, WIDTHS, WIDTHS)
    a, b = ({f"x{i}": x for i, x in enumerate(layers.values())} for layers in (a, b))
    asked: Any = {**options(itself=False), "rotation": rotation, "shifts": 4}
    found = []
    for tile in (300, 1 << 20):
        monkeypatch.setattr(co_moments, "_TILE_BYTES", tile)
        found.append(searches_of(a, b, asked))
        found[-1].add(accumulated(a, b, **select(SumsOptions, asked)).co_moments())
    for one, other in zip(*(searches.found() for searches in found), strict=True):
        for name, x in one.items():
            torch.testing.assert_close(x, other[name], rtol=0, atol=1e-12, equal_nan=True)
    known = found[0].found()[0]["same_rotated"].isfinite()  # but of the dead
    assert known.sum() > 0.8 * known.numel()


def test_long_matrices_are_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found_by(straight, itself=False, rotation="haar")
    monkeypatch.setattr(partners, "_LONG", 1)
    check_same_found(found_by(straight, itself=False, rotation="haar"), expected)


def test_what_was_compared_counts_every_draw() -> None:
    pairs: list[int] = []
    searches = found_by(lambda work: pairs.extend(work.run()), itself=False)
    assert sum(pairs) == searches.pairs(40) == 2 * 40 * 19 * (1 + 3)
    assert torch.tensor(pairs).max() <= 3 * 19 * 3
