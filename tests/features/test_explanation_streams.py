"""Sums of features over streams: however the tokens come, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from support.explained import (
    IDS,
    PLACE,
    PLANTED,
    WINDOW,
    Case,
    is_letter,
    neurons,
    noise,
)
from univfast.errors import InputError
from univfast.features.explanations import Explanation, FeatureSums, explanation_bytes
from univfast.features.token_features import TokenFeatures, TokenText

SPLITS = [(1920,), (960, 960), (96,) * 20, (1, 31, 0, 500, 1388), (1919, 1)]


def several() -> Case:
    columns = [column + 0.3 * noise(1) for column, _, _ in PLANTED.values()]
    mixture = is_letter(IDS, "s") * 3 + (PLACE == 3) + noise(3)
    extra = {"half": lambda ids, _: ids * 0.5, "begins": lambda ids, _: torch.arange(len(ids)) == 0}
    return Case(neurons(*columns, mixture, noise(2)), IDS, extra=extra, mask=noise(5) > -1)


def assert_alike(one: list[Explanation | None], other: list[Explanation | None]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a is not None
        assert b is not None
        assert [each.feature for each in a.features] == [each.feature for each in b.features]
        np.testing.assert_allclose(
            [each.r2 for each in a.features], [each.r2 for each in b.features], atol=1e-12
        )
        assert a.r2_together == pytest.approx(b.r2_together, abs=1e-12)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_splits(split: tuple[int, ...]) -> None:
    case = several()
    assert_alike(case.sums(*split).explanations(), case.sums().explanations())


def test_threads_and_batches_in_another_order() -> None:
    case = several()
    whole = case.sums().explanations()
    assert_alike(case.sums(threads=3).explanations(), whole)
    assert case.mask is not None
    sums = case.sums(0)
    for first in (960, 0):
        rows = case.mask[first : first + 960].nonzero()[:, 0]
        sums.add(case.x[first : first + 960].contiguous(), rows, first)
        sums.explanations()  # of some of them, to which more are added
    assert_alike(sums.explanations(), whole)


@pytest.mark.slow
def test_the_reference_agrees_with_all() -> None:
    several().explained(500, 1420)


def test_bytes() -> None:
    """What is said of the memory is what the sums take."""
    sums = several().sums()
    tensors = [
        *(x for each in sums._groups for x in vars(each).values()),
        *vars(sums._columns).values(),
        *(x for name, x in vars(sums).items() if isinstance(x, Tensor) and name != "_used"),
    ]
    held = sum(x.nbytes for x in tensors)
    said = explanation_bytes(sums._features, len(PLANTED) + 2)
    assert held == pytest.approx(said, rel=0.01)


def test_a_pivot_that_is_only_near_the_mean() -> None:
    columns = [column + 0.3 * noise(1) for column, _, _ in PLANTED.values()]
    case = Case(neurons(*columns), IDS)
    near = Case(case.x, IDS, off=0.3)
    assert_alike(near.sums(960, 960).explanations(), case.sums().explanations())


# ---- refused ------------------------------------------------------------------------------------


def add(sums: FeatureSums, first: int = 0, tokens: int = 4, width: int = 1) -> None:
    sums.add(torch.zeros(tokens, width), torch.arange(tokens), first)


def empty(tokens: int = 8) -> FeatureSums:
    features = TokenFeatures(TokenText(torch.zeros(tokens, dtype=torch.int64), 4))
    return FeatureSums(features, 1, torch.zeros(1, dtype=torch.float64), 1)


def test_wrong_batches() -> None:
    sums = empty()
    with pytest.raises(InputError, match="explanations: no tokens were added; call add first"):
        sums.explanations()
    add(sums)
    with pytest.raises(InputError, match="add: some tokens came before; give each once"):
        add(sums, first=3)
    with pytest.raises(InputError, match="add: tokens 6 to 10 are not within the 8 of the run"):
        add(sums, first=6)
    with pytest.raises(InputError, match=r"x: got shape \[4, 2\], expected \[tokens, 1\]"):
        add(sums, first=4, width=2)


def test_a_feature_that_fails_leaves_no_trace() -> None:
    calls = []

    def own(ids: Tensor, texts: list[str] | None) -> Tensor:
        calls.append(len(ids))
        return torch.full((len(ids),), torch.nan if len(calls) == 2 else 1.0)

    features = TokenFeatures(TokenText(torch.arange(8), 4), {"own": own})
    sums = FeatureSums(features, 1, torch.zeros(1, dtype=torch.float64), 1)
    add(sums)
    with pytest.raises(InputError, match="feature 'own': gave nan for token 4"):
        add(sums, first=4)
    add(sums, first=4)
    assert sums.explanations() == [None]


def test_features_without_end() -> None:
    extra = {"own": lambda ids, _: ids.double() * 1e200}
    case = Case(neurons(noise(1)), IDS, extra=extra)
    with pytest.raises(InputError, match="feature 'own': its values are so large"):
        case.sums().explanations()


def test_activations_without_end() -> None:
    x = neurons(noise(1))
    x[7] = torch.nan
    with pytest.raises(InputError, match="explanations: activations have no finite sum of squares"):
        Case(x, IDS).sums().explanations()


def test_a_pivot_that_does_not_fit() -> None:
    features = TokenFeatures(TokenText(IDS, WINDOW))
    with pytest.raises(InputError, match=r"pivot: got torch.float32 of shape \[2\], expected"):
        FeatureSums(features, 2, torch.zeros(2), 1)
