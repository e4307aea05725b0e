"""Neurons that are planted, explained as what they are, with r2 as plain NumPy has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast import reference
from univfast.errors import InputError
from univfast.meaning.explanations import Explanation, FeatureSums, explanation_bytes
from univfast.meaning.features import FeatureFunction, TokenFeatures, TokenText

Array = NDArray[np.float64]

LETTERS = "etaoinshrdlT \n(7"
SAMPLES, WINDOW = 60, 32
LIMIT = 1e-9


def text(token_id: int) -> str:
    return LETTERS[token_id]


def letters(seed: int = 0, tokens: int = SAMPLES * WINDOW) -> Tensor:
    return torch.randint(len(LETTERS), (tokens,), generator=torch.Generator().manual_seed(seed))


def noise(seed: int, tokens: int = SAMPLES * WINDOW) -> Tensor:
    return torch.randn(tokens, generator=torch.Generator().manual_seed(seed))


def is_letter(ids: Tensor, letter: str) -> Tensor:
    return ids == LETTERS.index(letter)


def before(ids: Tensor, distance: int, window: int = WINDOW) -> Tensor:
    """Ids so far before in the sample, -1 for none."""
    found = ids.roll(distance)
    found[torch.arange(len(ids)) % window < distance] = -1
    return found


@dataclass
class Case:
    """Neurons ``[tokens, neurons]`` and the tokens they are of; ``mask`` of those that count."""

    x: Tensor
    ids: Tensor
    window: int = WINDOW
    text: Callable[[int], str] | None = text
    extra: Mapping[str, FeatureFunction] = field(default_factory=dict)
    mask: Tensor | None = None

    def sums(self, *sizes: int, threads: int = 1) -> FeatureSums:
        """What was given the tokens in batches of these sizes; by default in one."""
        features = TokenFeatures(TokenText(self.ids, self.window, self.text), self.extra)
        used = torch.ones(len(self.x), dtype=torch.bool) if self.mask is None else self.mask
        pivot = self.x[used].double().mean(dim=0)
        found = FeatureSums(features, self.x.shape[1], pivot, threads)
        first = 0
        for size in sizes or (len(self.x),):
            rows = used[first : first + size].nonzero()[:, 0]
            found.add(self.x[first : first + size].contiguous(), rows, first)
            first += size
        return found

    def explained(self, *sizes: int, **options: Any) -> list[Explanation]:
        """Checked against the reference."""
        found = [each for each in self.sums(*sizes, **options).explanations() if each]
        alive = self.x[slice(None) if self.mask is None else self.mask]
        alive = alive[:, (alive != alive[0]).any(dim=0)]
        for explanation, neuron in zip(found, alive.T.double().numpy(), strict=True):
            self.assert_as_reference(explanation, neuron)
        return found

    def assert_as_reference(self, found: Explanation, neuron: Array) -> None:
        columns, degrees = self.columns(neuron)
        expected = {
            name: reference.regression_r2(neuron, [column], degrees.get(name, 0))
            for name, column in columns.items()
        }
        for share in found.features:
            assert share.r2 == pytest.approx(max(expected[share.feature], 0), abs=LIMIT)
            if share.feature not in degrees:
                r2 = reference.feature_r2(neuron[:, None], columns[share.feature])[0]
                assert share.r2 == pytest.approx(r2, abs=LIMIT)
        # What explains half goes first, and then a single feature before 0.9 of a whole family.
        order = {
            name: (r2 >= 0.5, (0.9 if name in degrees else 1.0) * r2)
            for name, r2 in expected.items()
        }
        assert order[found.feature] == pytest.approx(max(order.values()), abs=LIMIT)
        heads = [*{share.family: share.feature for share in reversed(found.features)}.values()]
        together = max(
            reference.regression_r2(
                neuron,
                [columns[name] for name in names],
                sum(degrees.get(name, 0) for name in names),
            )
            for size in (1, 2, 3)
            for names in combinations(heads, size)
        )
        assert found.r2_together == pytest.approx(max(together, 0), abs=LIMIT)

    def columns(self, neuron: Array) -> tuple[dict[str, Array], dict[str, int]]:
        """All features of the tokens used by name, and groups beyond the first of whole ones."""
        used = slice(None) if self.mask is None else self.mask.numpy()
        found = dict(reference.feature_columns(self.ids, self.window, self.text))
        for name, function in self.extra.items():
            rows = self.ids.split(self.window if self.window > 1 else len(self.ids))
            own = [function(r, [text(i) for i in r.tolist()]).double() for r in rows]
            found[name] = torch.cat(own).numpy()
        found = {name: column[used] for name, column in found.items()}
        found = {name: column for name, column in found.items() if _varies(column)}
        degrees = {}
        shown = TokenText(self.ids, self.window, self.text).shown
        any_before: dict[int, Array] = {}
        for whole, every in reference.feature_groups(self.ids, self.window).items():
            for group in np.unique(every[every >= 0]).tolist():
                column = (every == group)[used].astype(float)
                name = f"position {group}" if "position" in whole else _single(whole, shown(group))
                if _varies(column):
                    found[name] = column
                if "before" in whole:
                    seen = any_before.get(group, np.zeros(len(column)))
                    any_before[group] = np.maximum(seen, column)
            groups = every[used]
            size = len(np.unique(groups[groups >= 0]))
            if size > 1 and (groups >= 0).sum() >= 5 * size:
                found[whole] = reference.group_means(neuron[:, None], groups)[:, 0]
                degrees[whole] = size - 1
        for group, column in any_before.items():
            if _varies(column):
                found[f"one of the 5 tokens before is {shown(group)}"] = column
        return found, degrees


def _varies(column: Array) -> bool:
    """Whether it says something: of true and false at least 5."""
    values, counts = np.unique(column, return_counts=True)
    return len(values) > 1 and (not {*values} <= {0.0, 1.0} or counts.min() >= 5)


def _single(whole: str, shown: str) -> str:
    return f"token {shown}" if whole == "any token id" else f"{whole[4:]} is {shown}"


def neurons(*columns: Tensor) -> Tensor:
    return torch.stack([column.float() for column in columns], dim=1).contiguous()


# ---- planted ------------------------------------------------------------------------------------

IDS = letters()
PLACE = torch.arange(len(IDS)) % WINDOW
VOWELS = torch.isin(IDS, torch.tensor([LETTERS.index(c) for c in "eaoi"]))
ANY_BEFORE = torch.stack([is_letter(before(IDS, d), "T") for d in range(1, 6)]).any(dim=0)

PLANTED: dict[str, tuple[Tensor, str, str]] = {
    "token": (is_letter(IDS, "s"), "token", "token 's'"),
    "token that is a newline": (is_letter(IDS, "\n"), "token", r"token '\n'"),
    "class of tokens": (VOWELS, "token", "any token id"),
    "previous token": (is_letter(before(IDS, 1), "T"), "previous token", "token 1 before is 'T'"),
    "fourth before": (is_letter(before(IDS, 4), "("), "previous token", "token 4 before is '('"),
    "one of five": (ANY_BEFORE, "previous token", "one of the 5 tokens before is 'T'"),
    "class before": (
        torch.isin(before(IDS, 2), torch.tensor([0, 2, 3, 4])),
        "previous token",
        "any token 2 before",
    ),
    "position": (PLACE == 0, "position", "position 0"),
    "late position": (PLACE == WINDOW - 1, "position", f"position {WINDOW - 1}"),
    "slope": (PLACE / 8, "position", "the number of the position"),
    "some positions": (PLACE % 2, "position", "any position"),
}


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
    for found in Case(neurons(noise(1), noise(2), noise(3)), IDS).explained():
        assert found.family is None
        assert found.r2 < 0.02
        assert len(found.features) <= 5


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
    first, second, third = Case(x, IDS).sums().explanations()
    assert first is third is None
    assert second is not None
    assert second.r2 == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale: float) -> None:
    (found,) = Case(neurons(is_letter(IDS, "s") * scale), IDS).explained()
    assert (found.family, found.r2) == ("token", pytest.approx(1))


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


def test_few_tokens() -> None:
    """As many groups as tokens explain all of them, by chance."""
    ids = torch.arange(40) % 20
    (found,) = Case(neurons(noise(1, 40)), ids, window=8, text=None).explained()
    assert not {"any token id", "any token 1 before"} & {each.feature for each in found.features}


@pytest.mark.slow
def test_more_ids_than_have_a_group() -> None:
    ids = torch.randint(6000, (30_000,), generator=torch.Generator().manual_seed(0)) ** 2 // 6000
    x = neurons(ids % 2 + 0.1 * noise(1, 30_000), ids > 5800)
    parity, rare = Case(x, ids, window=50, text=None).sums(7777, 22_223).explanations()
    for found, neuron in zip((parity, rare), x.T.double().numpy(), strict=True):
        assert found is not None
        every = reference.feature_groups(ids, 1)["any token id"]
        column = reference.group_means(neuron[:, None], every)[:, 0]
        degrees = len(np.unique(every)) - 1
        whole = [each for each in found.features if each.feature == "any token id"]
        assert whole[0].r2 == pytest.approx(
            reference.regression_r2(neuron, [column], degrees), abs=LIMIT
        )
    assert parity is not None
    assert parity.r2 > 0.7


# ---- streams ------------------------------------------------------------------------------------

SPLITS = [(1920,), (960, 960), (32,) * 60, (1, 31, 0, 500, 1388), (1919, 1)]


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
