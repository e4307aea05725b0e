"""Matched pairs, their exact statistics, and the check against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from support.pairs import Layers, models
from univfast import reference
from univfast.sums.details import PairDetails
from univfast.sums.pair_statistics import PairStatistics, TopContexts
from univfast.sums.token_facts import TokenFacts

COLUMNS = (
    "correlation",
    "correlation_se",
    "correlation_low",
    "correlation_high",
    "tokens_effective",
    "partial_r",
)
OF_A_NEURON = ("active", "mean", "std", "skew", "kurtosis", "max", "token_r2", "position_r2")


@dataclass(frozen=True)
class Matched:
    """Activations of two models, the partners of A's neurons, and what is known of the tokens."""

    a: Layers
    b: Layers
    match: Tensor
    facts: TokenFacts
    mask: Tensor | None = None
    top_k: int = 16

    @property
    def tokens(self) -> int:
        return self.facts.tokens

    def accumulator(self, **options: Any) -> PairDetails:
        widths = ({name: x.shape[1] for name, x in side.items()} for side in (self.a, self.b))
        return PairDetails(*widths, self.match, self.facts, **{"top_k": self.top_k, **options})

    def feed(self, accumulator: PairDetails, parts: Iterator[slice] | list[slice]) -> PairDetails:
        for part in parts:
            accumulator.update_rows(
                [x[part] for x in self.a.values()],
                [x[part] for x in self.b.values()],
                None if self.mask is None else self.mask[part],
                part.start,
            )
        return accumulator

    def accumulated(self, *sizes: int, **options: Any) -> PairDetails:
        """What was given the tokens in batches of these sizes; by default in one."""
        return self.feed(self.accumulator(**options), slices(*(sizes or (self.tokens,))))

    def to(self, dtype: torch.dtype) -> Matched:
        a, b = ({name: x.to(dtype) for name, x in side.items()} for side in (self.a, self.b))
        return replace(self, a=a, b=b)


def slices(*sizes: int) -> list[slice]:
    ends = np.cumsum([0, *sizes])
    return [slice(int(i), int(j)) for i, j in pairwise(ends)]


def matched(
    tokens: int = 700,
    dtype: torch.dtype = torch.float64,
    *,
    ids: bool = True,
    window: int = 20,
    masked: bool = False,
    seed: int = 0,
) -> Matched:
    """Several layers; some neurons follow the token or the position, some are silent or dead."""
    g = np.random.default_rng([seed, tokens])
    a, b = models(tokens, (40, 7), (33, 20, 5), torch.float64, seed)
    groups = torch.from_numpy(g.zipf(1.5, tokens).clip(max=50)).long() - 1
    position = torch.arange(tokens) % window
    for name, layers in (("a0", a), ("b1", b)):
        x = layers[name]
        x[:, 0] += 20 * torch.sin(groups.double() * 7)  # follows the token
        x[:, 1] += 20 * torch.cos(position.double())
        x[:, 2] = torch.sin(groups.double() * 7) + 3 * torch.cos(position.double())  # alone
        x[:, 3:12] = (x[:, 3:12] - x[:, 3:12].mean(dim=0)).clamp(min=0)
        x[:, 4] = torch.where(torch.arange(tokens) == 13, 5.0, 0.0)  # in one block alone
    match = torch.from_numpy(g.integers(-1, 58, 47))
    match[:13] = torch.arange(33, 46)  # those above with each other
    match[20] = match[21]  # a partner of two
    match[30] = -1
    match[46] = 32  # both dead
    mask = torch.from_numpy(g.random(tokens) < 0.7) if masked else None
    facts = TokenFacts(tokens, window, groups if ids else None)
    return Matched(a, b, match, facts, mask).to(dtype)


def exact(case: Matched) -> reference.Details:
    """By the reference; of a neuron without a partner with neuron 0."""
    used = torch.arange(case.tokens) if case.mask is None else case.mask.nonzero()[:, 0]
    facts = case.facts
    samples = -(-facts.tokens // facts.window)
    block = min(32, samples) * (used // facts.window) // samples
    table = reference.TokenTable(
        used.numpy(),
        block.numpy(),
        None if facts.groups is None else facts.groups[used].numpy(),
        (used % facts.window).numpy() if facts.window > 1 and samples > 1 else None,
    )
    a, b = (torch.cat(list(side.values()), dim=1)[used].double() for side in (case.a, case.b))
    partners = b[:, case.match.clamp(min=0)]
    return reference.details(a.numpy(), partners.numpy(), table, case.top_k)


def assert_statistics(found: PairStatistics, case: Matched, limit: float) -> None:
    """|found - exact| <= limit, relative to values above 1, and NaN at the same places."""
    expected = exact(case)
    there = case.match.numpy() >= 0

    def check(name: str, got: Tensor | None, value: Any, known: Any) -> None:
        if value is None:
            assert got is None, name
            return
        assert got is not None
        wanted = np.where(known, value, np.nan)
        np.testing.assert_array_equal(np.isnan(got.numpy()), np.isnan(wanted), err_msg=name)
        off = np.abs(got.numpy() - wanted) / np.maximum(1, np.abs(wanted))
        worst = np.nan_to_num(off).max()
        assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:g}"

    for name in COLUMNS:
        check(name, getattr(found, name), getattr(expected, name), there)
    for name in OF_A_NEURON:
        check(name, getattr(found, name), getattr(expected.a, name), True)
        check(f"match_{name}", getattr(found, f"match_{name}"), getattr(expected.b, name), there)
    assert_contexts(found.top, expected.top_token, case, there)
    match_top = np.where(there[:, None], expected.match_top_token, -1)
    assert_contexts(found.match_top, match_top, case, there)


def assert_contexts(found: TopContexts, expected: Any, case: Matched, there: Any) -> None:
    """The tokens, and both values at each of them."""
    np.testing.assert_array_equal(found.token.numpy(), expected)
    a, b = (torch.cat(list(side.values()), dim=1).double() for side in (case.a, case.b))
    known = found.token >= 0
    neuron = torch.arange(len(case.match))[:, None].expand_as(known)
    partner = case.match.clamp(min=0)[:, None].expand_as(known)
    rows = found.token.clamp(min=0)
    value = torch.where(known, a[rows, neuron], torch.nan)
    match_value = torch.where(known & torch.from_numpy(there)[:, None], b[rows, partner], torch.nan)
    for got, wanted in ((found.value, value), (found.match_value, match_value)):
        assert torch.equal(got.nan_to_num(nan=-9e9), wanted.nan_to_num(nan=-9e9))
