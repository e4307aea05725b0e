"""Features of tokens: each against what a plain reader of the tokens says, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support import ROOT
from univfast import reference
from univfast.errors import InputError
from univfast.features.properties import FEATURES, Feature, Samples
from univfast.features.token_features import FAMILIES, TokenFeatures, TokenText
from univfast.sums.token_facts import FREQUENT

# What texts are made of: a few of each kind, some of which are several.
TEXTS = (
    *("the", " the", " The", "T", "USA", " U", "é", "Éa", "7", " 42", "4th", "²", "...", ", ", "+"),
    *('"', ' "', '""', "\u201c", "\u201d", "(", ")", "[(", "}])", "()", "\n", ".\n\n", "\t", " "),
    *("", "\ufffd", "🦉", "x" * 50, "don't", "\x1b[1m", "\u202e"),
)


def text(token_id: int) -> str:
    return TEXTS[token_id % len(TEXTS)]


def random_ids(tokens: int, seed: int = 0, kinds: int = len(TEXTS)) -> Tensor:
    return torch.randint(kinds, (tokens,), generator=torch.Generator().manual_seed(seed))


# ---- against the reference ----------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["text", "no text"])
@pytest.mark.parametrize("window", [1, 2, 30, 50, 300])
def test_columns(window: int, known: bool) -> None:
    """Also of a last sample that is shorter, of 30 and 50."""
    ids = random_ids(330 if window == 50 else 300)
    features = TokenFeatures(TokenText(ids, window, text if known else None))
    expected = reference.feature_columns(ids, window, text if known else None)
    assert sorted(features.names) == sorted(expected)
    found = features.columns(0, len(ids))
    assert found.dtype == torch.float64
    for name, column in zip(features.names, found.T.numpy(), strict=True):
        np.testing.assert_array_equal(column, expected[name], err_msg=name)


@pytest.mark.parametrize(("first", "stop"), [(0, 1), (5, 95), (29, 31), (60, 60), (299, 300)])
def test_columns_of_a_part(first: int, stop: int) -> None:
    """Whatever part is asked for, its samples are looked at whole."""
    features = TokenFeatures(TokenText(random_ids(300), 30, text), {"own": lambda ids, _: ids % 3})
    assert torch.equal(features.columns(first, stop), features.columns(0, 300)[first:stop])


@pytest.mark.parametrize("window", [1, 2, 4, 30, 300])
def test_groupings(window: int) -> None:
    ids = random_ids(300)
    features = TokenFeatures(TokenText(ids, window, text))
    expected = reference.feature_groups(ids, window)
    known = {name: own for name, own in expected.items() if (own >= 0).any()}
    every = torch.arange(300)
    found = {each.whole: each for each in features.groupings if each.whole}
    assert found.keys() == known.keys()
    for name, grouping in found.items():
        own = grouping.of(every)[:, 0].numpy()
        assert ((own >= 0) == (known[name] >= 0)).all()
        # The same tokens together.
        pairs = {*zip(own.tolist(), known[name].tolist(), strict=True)}
        assert len({g for g, _ in pairs}) == len({g for _, g in pairs}) == len(pairs), name


def test_groups_are_named() -> None:
    ids = torch.tensor([3, 3, 3, 0, 0, 5] * 4)
    token, position, before, *_, any_before = TokenFeatures(TokenText(ids, 6, text)).groupings
    names = [token.name(group) for group in range(token.groups)]
    assert names == ["token 'T'", "token 'the'", "token ' U'"]
    assert before.name(2) == "token 1 before is ' U'"
    assert any_before.name(0) == "one of the 5 tokens before is 'T'"
    assert (position.name(5), position.groups) == ("position 5", 6)
    assert (token.whole, before.whole) == ("any token id", "any token 1 before")
    assert any_before.whole is None
    nameless = TokenFeatures(TokenText(ids, 6)).groupings[0]
    assert nameless.name(2) == "token #5"


def test_one_of_the_tokens_before() -> None:
    """Each id once, and none of another sample."""
    ids = torch.tensor([1, 1, 2, 2, 2, 1, 3, 3] * 2)
    group = {1: 0, 2: 1, 3: 2}  # 1 and 2 come equally often, and the lower goes first
    found = TokenFeatures(TokenText(ids, 8)).groupings[-1].of(torch.arange(16))
    for t in range(16):
        before = {group[int(ids[s])] for s in range(max(t - 5, t - t % 8), t)}
        own = [g for g in found[t].tolist() if g >= 0]
        assert len(own) == len({*own})
        assert {*own} == before


def test_rare_ids_share_a_group_that_is_no_feature() -> None:
    ids = torch.arange(FREQUENT + 100).repeat(2)
    ids[-1] = 0
    token, *_, any_before = TokenFeatures(TokenText(ids, 2098)).groupings
    assert (token.groups, token.named) == (FREQUENT + 1, FREQUENT)
    rare = ids >= FREQUENT
    assert (token.of(torch.arange(len(ids)))[:, 0] == FREQUENT).equal(rare)
    assert int(any_before.of(torch.arange(len(ids))).max()) < FREQUENT


def test_what_a_mask_leaves_out_counts() -> None:
    """How often, and before: a run's tokens are all looked at."""
    features = TokenFeatures(TokenText(torch.tensor([4, 4, 4, 9]), 4))
    frequency = features.columns(0, 4)[:, features.names.index(FREQUENCY)]
    np.testing.assert_allclose(frequency.numpy(), np.log([3, 3, 3, 1]))


FREQUENCY = "log of how often the token is in the run"


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("T", "'T'"),
        (" the", "' the'"),
        ("\n", r"'\n'"),
        ("don't", '"don\'t"'),
        ("\x1b[1m", r"'\x1b[1m'"),
        ("\u202e", r"'\u202e'"),
        ("", "'' #7"),
        ("\ufffd", "'\ufffd' #7"),
        ("x" * 50, f"'{'x' * 40}...' #7"),
    ],
)
def test_shown(written: str, expected: str) -> None:
    """Told apart, in one line, and without what a terminal would obey."""
    assert TokenText(torch.tensor([7]), 1, lambda _: written).shown(7) == expected


def test_shown_without_text() -> None:
    assert TokenText(torch.tensor([7]), 1).shown(7) == "#7"


def test_every_feature_has_a_family_and_is_documented() -> None:
    page = (ROOT / "docs" / "families.md").read_text()
    for feature in FEATURES.values():
        assert feature.family in FAMILIES
        assert f"`{feature.name}`" in page
    assert all(f"`{family}`" in page for family in FAMILIES)


def test_an_entry_is_all_that_a_feature_needs() -> None:
    def even(samples: Samples) -> Tensor:
        return samples.known.ids[samples.kinds] % 2 == 0

    with FEATURES.having(Feature("an even id", "token", even)):
        features = TokenFeatures(TokenText(torch.tensor([4, 7, 8]), 1))
        assert features.names[-1] == "an even id"
        assert features.columns(0, 3)[:, -1].tolist() == [1, 0, 1]


# ---- a user's own -------------------------------------------------------------------------------


def test_own_features_are_asked_sample_by_sample() -> None:
    seen: list[tuple[list[int], list[str] | None]] = []

    def own(ids: Tensor, texts: list[str] | None) -> Tensor:
        seen.append((ids.tolist(), texts))
        ids.zero_()  # its own copy
        return torch.arange(len(ids)) == 0

    ids = torch.tensor([3, 0, 5, 4, 3])
    features = TokenFeatures(TokenText(ids, 3, text), {"first": own})
    assert (features.names[-1], features.families[-1]) == ("first", "yours")
    assert features.columns(0, 5)[:, -1].tolist() == [1, 0, 0, 1, 0]
    assert seen == [([3, 0, 5], ["T", "the", " U"]), ([4, 3], ["USA", "T"])]
    assert ids.tolist() == [3, 0, 5, 4, 3]


def test_own_features_without_text_and_samples() -> None:
    seen: list[Any] = []

    def own(ids: Tensor, texts: list[str] | None) -> Tensor:
        seen.append((ids.tolist(), texts))
        return ids * 0.5

    features = TokenFeatures(TokenText(torch.tensor([3, 0, 5]), 1), {"half": own})
    assert features.columns(0, 3)[:, -1].tolist() == [1.5, 0, 2.5]
    assert seen == [([3, 0, 5], None)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda ids, _: ids[:-1],
            r"gave torch.int64 of shape \[2\] for 3 tokens, expected bool or",
        ),
        (lambda ids, _: ids[:, None], r"gave torch.int64 of shape \[3, 1\] for 3 tokens"),
        (lambda ids, _: ids * 1j, "gave torch.complex64 of shape"),
        (lambda ids, _: 1 / ids, "gave inf for token 4, expected finite numbers"),
        (lambda ids, _: ids.to_sparse(), "is a sparse_coo tensor; pass a dense one"),
    ],
    ids=["too few", "of two axes", "complex", "infinite", "sparse"],
)
def test_own_features_that_give_something_else(given: Any, message: str) -> None:
    tokens = TokenText(torch.tensor([1, 1, 1, 1, 0, 1]), 3)
    with pytest.raises(InputError, match=f"feature 'own': {message}"):
        TokenFeatures(tokens, {"own": given}).columns(0, 6)


def test_own_features_that_give_no_tensor() -> None:
    own: Any = {"own": lambda ids, _: [True] * len(ids)}
    features = TokenFeatures(TokenText(torch.tensor([1, 2]), 1), own)
    with pytest.raises(TypeError, match="feature 'own': gave a list, expected a tensor"):
        features.columns(0, 2)


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({" ": text}, InputError, "features: got an empty name"),
        ({"digits": text}, InputError, "features: there is a feature 'digits' already"),
        ({3: text}, TypeError, "features: expected a str, got int"),
        ({"own": 3}, TypeError, "features: 'own' is a int, expected a function"),
    ],
)
def test_own_features_that_are_none(extra: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenFeatures(TokenText(torch.tensor([1, 2]), 1), extra)


@pytest.mark.parametrize(
    "ids",
    [torch.tensor([1.0]), torch.tensor([[1]]), torch.zeros(0, dtype=torch.int64)],
    ids=["floats", "of two axes", "none"],
)
def test_ids_that_are_none(ids: Tensor) -> None:
    with pytest.raises(InputError, match="token ids: got torch"):
        TokenText(ids, 1)


def test_text_that_is_none() -> None:
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        TokenFeatures(TokenText(torch.tensor([1]), 1, lambda _: b"no"))  # type: ignore[return-value, arg-type]
