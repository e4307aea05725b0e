"""Neurons that are planted, explained as what they are, with r2 as plain NumPy has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from support.explained import (
    IDS,
    LETTERS,
    LIMIT,
    PLACE,
    PLANTED,
    VOWELS,
    WINDOW,
    Case,
    before,
    is_letter,
    neurons,
    noise,
    text,
)
from univfast import reference
from univfast.features.explanations import Explanation

# ---- planted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["rises", "falls"])
@pytest.mark.parametrize("kind", PLANTED)
def test_planted(kind: str, sign: float) -> None:
    column, family, feature = PLANTED[kind]
    std = float(column.float().std())
    (found,) = Case(neurons(sign * column.float() + 0.3 * std * noise(1)), IDS).explained()
    assert (found.family, found.feature) == (family, feature)
    assert found.r2 == pytest.approx(1 / 1.09, abs=0.05)
    assert found.features[0].feature == feature


def test_all_at_once_are_as_each_alone() -> None:
    columns = [column + 0.1 * noise(1) for column, _, _ in PLANTED.values()]
    together = Case(neurons(*columns), IDS).sums().explanations()
    for column, found in zip(columns, together, strict=True):
        (alone,) = Case(neurons(column), IDS).sums().explanations()
        assert alone is not None
        assert found is not None
        names = [each.feature for each in found.features]
        assert [each.feature for each in alone.features] == names
        assert found.r2_together == pytest.approx(alone.r2_together, abs=LIMIT)


def test_noise_follows_nothing() -> None:
    for found in Case(neurons(noise(1), noise(2)), IDS).explained():
        assert found.family is None
        assert found.r2 < 0.02
        assert all(each.r2 >= 0.01 for each in found.features[1:])


def test_a_mixture() -> None:
    """Of what explains less than half each."""
    x = is_letter(IDS, "s") / 0.24 + (PLACE == 3) / 0.17 + is_letter(before(IDS, 1), "T") / 0.24
    (found,) = Case(neurons(x + 0.1 * noise(1)), IDS).explained()
    assert found.family == "mixture"
    assert found.r2 < 0.5
    assert found.r2_together > 0.9
    assert {each.feature for each in found.features[:3]} == {
        "token 's'",
        "position 3",
        "token 1 before is 'T'",
    }


def test_a_mixture_with_a_class() -> None:
    x = VOWELS / 0.5 + (PLACE == 3) / 0.17 + 0.5 * noise(1)
    (found,) = Case(neurons(x), IDS).explained()
    assert found.family == "mixture"
    assert {"any token id", "position 3"} <= {each.feature for each in found.features[:3]}
    assert found.r2_together > 0.85


def test_features_that_say_the_same_are_not_counted_twice() -> None:
    """The number of the position, and the user's; tokens and their texts."""
    x = PLACE / 9 + is_letter(IDS, "7") + 0.5 * noise(1)
    extra = {"also the place": lambda ids, _: torch.arange(len(ids)) * 3 + 1}
    (found,) = Case(neurons(x), IDS, extra=extra).explained()
    assert found.feature == "the number of the position"
    assert found.features[1].r2 == pytest.approx(found.r2, abs=LIMIT)
    assert found.r2 < found.r2_together < 1


def test_constant_neurons_are_not_explained() -> None:
    x = neurons(torch.full((len(IDS),), 0.1), is_letter(IDS, "s"), torch.zeros(len(IDS)))
    first, second, third = Case(x, IDS, off=0.3).sums().explanations()
    assert first is third is None
    assert second is not None
    assert second.r2 == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale: float) -> None:
    (found,) = Case(neurons(is_letter(IDS, "s") * scale), IDS).explained()
    assert (found.family, found.r2) == ("token", pytest.approx(1))


def test_a_single_feature_is_preferred_unless_only_all_of_its_family_explain_half() -> None:
    x = [is_letter(IDS, "s") + weight * is_letter(IDS, "h") + 0.2 * noise(1) for weight in (0, 0.2)]
    alone, with_another = Case(neurons(*x), IDS).explained()
    assert alone.feature == "token 's'"
    assert with_another.feature == "token 's'"
    assert with_another.r2 < 0.98 * next(
        each.r2 for each in with_another.features if each.feature == "any token id"
    )
    noisier = is_letter(IDS, "s") + 0.2 * is_letter(IDS, "h") + 0.215 * noise(1)
    (found,) = Case(neurons(noisier), IDS).explained()
    assert (found.family, found.feature) == ("token", "any token id")
    assert {each.feature: each.r2 < 0.5 for each in found.features}["token 's'"]


def test_a_users_numbers_far_from_zero() -> None:
    extra = {"far": lambda ids, _: ids.double() ** 2 + 1e9}
    (found,) = Case(neurons(IDS**2 + 9 * noise(1)), IDS, extra=extra).explained(100, 1820)
    assert found.feature == "far"


def test_far_from_zero() -> None:
    (found,) = Case(neurons(is_letter(IDS, "s") + 0.1 * noise(1) + 4096), IDS).explained()
    assert found.family == "token"


# ---- what is known of the tokens ----------------------------------------------------------------


def test_a_users_feature() -> None:
    def third(ids: Tensor, texts: list[str] | None) -> Tensor:
        assert texts is not None
        return torch.tensor([texts[t // 3 * 3] == "T" for t in range(len(texts))])

    rows = [third(each, [text(i) for i in each.tolist()]) for each in IDS.split(WINDOW)]
    x = neurons(torch.cat(rows) + 0.1 * noise(1))
    (found,) = Case(x, IDS, extra={"a T at the third": third}).explained()
    assert (found.family, found.feature) == ("yours", "a T at the third")
    (without,) = Case(x, IDS).explained()
    assert without.family is None


def test_masked_tokens() -> None:
    """Their activations do not count; that they stand before others does."""
    mask = noise(7) > 0
    x = neurons(is_letter(before(IDS, 1), "T") + 0.1 * noise(1))
    x[~mask] = 1e4 * noise(2)[~mask, None]
    (found,) = Case(x, IDS, mask=mask).explained()
    assert (found.family, found.feature) == ("previous token", "token 1 before is 'T'")
    assert found.r2 > 0.8


def test_nothing_is_seen_across_samples() -> None:
    """A neuron that does look across is explained by what is left of it."""
    x = neurons((IDS.roll(1) == LETTERS.index("T")).float())
    short = Case(x, IDS, window=4)
    (found,) = short.explained()
    assert found.feature == "token 1 before is 'T'"
    inside = float(((PLACE % 4 > 0) & (x[:, 0] > 0)).sum() / (x[:, 0] > 0).sum())
    assert found.r2 == pytest.approx(inside, abs=0.1)
    assert found.r2 < 0.9


def test_without_samples() -> None:
    x = neurons(is_letter(IDS, "s") + 0.1 * noise(1), is_letter(before(IDS, 1), "T"))
    token, previous = Case(x, IDS, window=1).explained()
    assert token.feature == "token 's'"
    assert previous.family is None
    assert not {"position", "previous token", "context"} & {
        each.family for found in (token, previous) for each in found.features
    }


def test_without_text() -> None:
    (found,) = Case(neurons(is_letter(IDS, "7") + 0.1 * noise(1)), IDS, text=None).explained()
    assert found.feature == f"token #{LETTERS.index('7')}"
    assert "text" not in {each.family for each in found.features}


def test_one_sample() -> None:
    """No position comes twice in it, but it has an order."""
    ids = IDS[:400]
    x = neurons(torch.arange(400) / 90 + noise(1, 400), is_letter(before(ids, 1, 400), "T"))
    slope, previous = Case(x, ids, window=400).explained()
    assert slope.feature == "the number of the position"
    assert previous.feature == "token 1 before is 'T'"


def test_equal_ids() -> None:
    x = neurons(noise(1), PLACE == 2)
    one, position = Case(x, torch.full_like(IDS, 3)).explained()
    assert one.family is None
    assert position.feature == "position 2"


def test_nothing_that_varies_is_known() -> None:
    (found,) = Case(neurons(noise(1)), torch.full_like(IDS, 3), window=1).sums().explanations()
    assert found == Explanation(None, "none", 0.0, 0.0, ())


def test_what_few_tokens_have_is_no_explanation() -> None:
    """One token with a huge activation has an id of its own."""
    ids = IDS.clone()
    ids[ids == LETTERS.index("7")] = 0
    ids[[5, 600, 1200, 1800]] = LETTERS.index("7")
    x = neurons(100 * is_letter(ids, "7") + noise(1))
    (found,) = Case(x, ids, window=1).explained()
    assert "'7'" not in found.feature


@pytest.mark.slow
def test_what_few_tokens_have_is_no_explanation_together_either() -> None:
    """Where ids come once, each would explain its token."""
    ids = torch.arange(len(IDS)) // 2
    ids[:900] = IDS[:900] + 2000
    x = neurons(noise(1) ** 9, is_letter(ids - 2000, "s") + 0.1 * noise(2))
    tail, token = Case(x, ids, window=10, text=None).explained()
    assert tail.family is None
    assert token.feature == f"token #{2000 + LETTERS.index('s')}"
    few = torch.arange(60) % 20
    (found,) = Case(neurons(noise(1, 20)[few]), few, window=10, text=None).explained()
    assert "any token id" not in {each.feature for each in found.features}


@pytest.mark.slow
def test_more_ids_than_have_a_group() -> None:
    ids = torch.randint(6000, (30_000,), generator=torch.Generator().manual_seed(0)) ** 2 // 6000
    x = neurons(ids % 2 + 0.1 * noise(1, 30_000), ids > 5800)
    parity, rare = Case(x, ids, window=50, text=None).sums(7777, 22_223).explanations()
    for found, neuron in zip((parity, rare), x.T.double().numpy(), strict=True):
        assert found is not None
        every = reference.pooled(reference.feature_groups(ids, 1)["any token id"])
        column = reference.group_means(neuron[:, None], every)[:, 0]
        degrees = len(np.unique(every)) - 1
        whole = [each for each in found.features if each.feature == "any token id"]
        assert whole[0].r2 == pytest.approx(
            reference.regression_r2(neuron, [column], degrees), abs=LIMIT
        )
    assert parity is not None
    assert parity.r2 > 0.7


# ---- the record ---------------------------------------------------------------------------------


def test_as_a_record_has_it() -> None:
    (found,) = Case(neurons(is_letter(IDS, "s") + 0.1 * noise(1)), IDS).explained()
    plain = found.plain()
    assert plain["family"] == "token"
    assert plain["feature"] == "token 's'"
    assert plain["r2"] == round(found.r2, 6)
    assert plain["r2_together"] == round(found.r2_together, 6)
    assert plain["features"][0] == {"family": "token", "feature": "token 's'", "r2": plain["r2"]}
    assert [each["r2"] for each in plain["features"]] == [round(e.r2, 6) for e in found.features]
