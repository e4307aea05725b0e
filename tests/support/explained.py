"""Neurons that are planted in tokens, and the check of their explanations against the reference."""

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
from univfast.features.explanations import Explanation, FeatureSums
from univfast.features.token_features import FeatureFunction, TokenFeatures, TokenText

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
    off: float = 0.0  # of the pivot, from the mean

    def sums(self, *sizes: int, threads: int = 1) -> FeatureSums:
        """What was given the tokens in batches of these sizes; by default in one."""
        features = TokenFeatures(TokenText(self.ids, self.window, self.text), self.extra)
        used = torch.ones(len(self.x), dtype=torch.bool) if self.mask is None else self.mask
        pivot = self.x[used].double().mean(dim=0) + self.off
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
        singles = [name for name in columns if name not in degrees]
        expected = {
            name: float(reference.feature_r2(neuron[:, None], columns[name])[0]) for name in singles
        }
        for name, size in degrees.items():
            expected[name] = reference.regression_r2(neuron, [columns[name]], size)
        for share in found.features:
            assert share.r2 == pytest.approx(max(expected[share.feature], 0), abs=LIMIT)
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
            groups = reference.pooled(every[used])
            size = len(np.unique(groups[groups >= 0]))
            if size > 1:
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
