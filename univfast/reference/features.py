"""Features of tokens as columns, token by token, and how much of neurons they explain."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "feature_columns",
    "feature_groups",
    "feature_r2",
    "group_means",
    "pooled",
    "regression_r2",
]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_FREQUENT = 4096
_BEFORE = 5


def feature_r2(x: ArrayLike, column: ArrayLike) -> Array:
    """Squared correlation of each neuron of ``x`` ``[tokens, neurons]`` with a column."""
    values = np.asarray(x, dtype=np.float64)
    own = np.asarray(column, dtype=np.float64)
    return np.array([np.corrcoef(neuron, own)[0, 1] ** 2 for neuron in values.T])


def pooled(groups: ArrayLike, least: int = 5) -> Integers:
    """Groups ``[tokens]``, where all of fewer than ``least`` tokens are one; -1 stays -1."""
    own = np.asarray(groups, dtype=np.int64)
    counts = Counter(own.tolist())
    rare = max(counts) + 1
    return np.array([g if g < 0 or counts[g] >= least else rare for g in own.tolist()])


def group_means(x: ArrayLike, groups: ArrayLike) -> Array:
    """The mean of each neuron over the token's group, ``[tokens, neurons]``.

    ``groups`` are int64 ``[tokens]``, -1 for a token of none, which gets the mean of all others.
    """
    values, own = np.asarray(x, dtype=np.float64), np.asarray(groups)
    found = np.empty_like(values)
    found[own < 0] = values[own >= 0].mean(axis=0)
    for group in np.unique(own[own >= 0]):
        found[own == group] = values[own == group].mean(axis=0)
    return found


def regression_r2(neuron: ArrayLike, columns: Sequence[ArrayLike], degrees: int = 0) -> float:
    """R2 of a least-squares fit of one neuron by columns and a constant.

    ``degrees``: groups beyond the first of the columns that are `group_means`, for which it is
    adjusted: 1 - (1 - R2) (n - 1) / (n - 1 - degrees).
    """
    y = np.asarray(neuron, dtype=np.float64)
    y = y - y.mean()
    design = np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
    design = design - design.mean(axis=0)
    design = design / np.maximum(np.sqrt((design**2).sum(axis=0)), 1e-300)
    fit, *_ = np.linalg.lstsq(design, y, rcond=1e-6)
    left = ((y - design @ fit) ** 2).sum() / (y**2).sum()
    return float(1 - left * (len(y) - 1) / (len(y) - 1 - degrees))


def feature_groups(ids: ArrayLike, window: int) -> dict[str, Integers]:
    """Groups of tokens by the names of all together, int64 ``[tokens]``; -1: of none.

    A group by id is the id; all behind the 4,096th most frequent have one above all of them.
    """
    tokens = np.asarray(ids, dtype=np.int64)
    counts = Counter(tokens.tolist())
    frequent = sorted(counts, key=lambda each: (-counts[each], each))[:_FREQUENT]
    rest = int(tokens.max()) + 1
    named = {each: each for each in frequent}
    of_id = np.array([named.get(each, rest) for each in tokens.tolist()], dtype=np.int64)
    position = np.arange(len(tokens)) % window
    found = {"any token id": of_id}
    if 1 < window < len(tokens):
        found["any position"] = position
    for distance in range(1, _BEFORE + 1):
        before = [
            of_id[t - distance] if position[t] >= distance else -1 for t in range(len(tokens))
        ]
        found[f"any token {distance} before"] = np.array(before, dtype=np.int64)
    return found


def feature_columns(
    ids: ArrayLike, window: int, text: Callable[[int], str] | None = None
) -> dict[str, Array]:
    """Columns ``[tokens]`` by the names of features, but for those that a token is in a group."""
    tokens = np.asarray(ids, dtype=np.int64).tolist()
    counts = Counter(tokens)
    rows: list[dict[str, float]] = []
    for t in range(len(tokens)):
        sample = tokens[t - t % window : t]
        row: dict[str, float] = {
            "log of how often the token is in the run": np.log(counts[tokens[t]])
        }
        if window > 1:
            row["the number of the position"] = len(sample)
            row["was in the sample before"] = tokens[t] in sample
        if text is not None:
            row.update(_of_text(text(tokens[t])))
            if window > 1:
                row.update(_along([text(each) for each in sample]))
        rows.append(row)
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def _of_text(text: str) -> dict[str, float]:
    letters = [c for c in text if c.isalpha()]
    plain = text.strip()
    return {
        "begins with a space": text[:1] == " ",
        "its first letter is a capital": letters != [] and letters[0].isupper(),
        "all capitals": len(letters) > 1 and text == text.upper() and text != text.lower(),
        "letters": plain != "" and all(c.isalpha() for c in plain),
        "digits": plain != "" and all(c.isdigit() for c in plain),
        "punctuation": plain != "" and all(unicodedata.category(c)[0] in "PS" for c in plain),
        "white space": text != "" and plain == "",
        "has a newline": "\n" in text,
        "not ASCII": any(ord(c) > 127 for c in text),
        "length in characters": len(text),
    }


def _along(before: list[str]) -> dict[str, float]:
    """Of a token behind these in its sample."""
    newlines = [place for place, text in enumerate(before) if "\n" in text]
    brackets = [sum(c in "([{" for c in x) - sum(c in ")]}" for c in x) for x in before]
    curly = [x.count("\N{LEFT DOUBLE QUOTATION MARK}") for x in before]
    curly = [
        n - x.count("\N{RIGHT DOUBLE QUOTATION MARK}") for n, x in zip(curly, before, strict=True)
    ]
    straight = sum(x.count('"') for x in before)
    return {
        "inside quotes": straight % 2 == 1 or _depth(curly) > 0,
        "inside brackets": _depth(brackets) > 0,
        "tokens since a newline": len(before) - 1 - newlines[-1] if newlines else len(before),
    }


def _depth(steps: list[int]) -> int:
    """How many are open; what closes where nothing is open does not count."""
    depth = 0
    for step in steps:
        depth = max(depth + step, 0)
    return depth
