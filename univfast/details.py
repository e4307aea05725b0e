"""What details add to a result: columns of matched pairs, and where their neurons are highest."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from univfast.nulls.intervals import lower_excess
from univfast.sums.pair_statistics import PairStatistics, TopContexts

__all__ = ["FEW_TOKENS", "Details", "details_of", "details_summary"]

FEW_TOKENS = 30
"""Effective tokens, below which an r rests on few."""

_FOLLOWS = 0.8  # share of variance by token id, of a neuron that follows the token
_BEYOND = 0.5  # partial r, of a pair that is more than token and position


class Contexts(NamedTuple):
    """The tokens where neurons are highest, and those where their matches are."""

    top: TopContexts
    match_top: TopContexts


@dataclass(frozen=True, kw_only=True)
class Details:
    """What a result has of matched pairs, where details were asked for; else None.

    Float64 ``[neurons]``; NaN for neurons without a match, where it takes one.

    Attributes:
        correlation_se: the standard error of r: the jackknife over 32 blocks of whole samples.
        correlation_low, correlation_high: the interval of 95% of r.
        excess_low: the excess less the reach of its error, ``t * sqrt(se^2 + baseline_std^2 /
            draws)``.
        tokens_effective: how many tokens r rests on: ``(sum c)^2 / sum c^2``, where c is the
            product of both standardised values of a token.
        active, mean, std, skew, kurtosis, max: of the neuron: the share of tokens above 0, and
            moments over tokens (kurtosis is 3 for a normal variable).
        token_r2, position_r2: the share of its variance between tokens of one id, and between
            positions in the sample; None where these are not known.
        match_active, match_mean, match_std, match_skew, match_kurtosis, match_max, match_token_r2,
            match_position_r2: the same of its match.
        partial_r: r after token means, then position means are subtracted, twice; None where ids
            are not known.
        contexts: the 16 tokens where each neuron, and its match, is highest, with both values.
    """

    correlation_se: Tensor | None = None
    correlation_low: Tensor | None = None
    correlation_high: Tensor | None = None
    excess_low: Tensor | None = None
    tokens_effective: Tensor | None = None
    active: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    skew: Tensor | None = None
    kurtosis: Tensor | None = None
    max: Tensor | None = None
    token_r2: Tensor | None = None
    position_r2: Tensor | None = None
    match_active: Tensor | None = None
    match_mean: Tensor | None = None
    match_std: Tensor | None = None
    match_skew: Tensor | None = None
    match_kurtosis: Tensor | None = None
    match_max: Tensor | None = None
    match_token_r2: Tensor | None = None
    match_position_r2: Tensor | None = None
    partial_r: Tensor | None = None
    contexts: Contexts | None = None


def details_of(
    found: PairStatistics, excess: Tensor, baseline_std: Tensor, draws: int
) -> dict[str, Any]:
    """The attributes of a result, from statistics of its pairs."""
    std = baseline_std.nan_to_num(nan=0.0)  # unknown with fewer than two draws
    low = lower_excess(excess, found.correlation_se, std, max(draws, 1), found.blocks)
    names = [
        field.name for field in fields(Details) if field.name not in ("contexts", "excess_low")
    ]
    return {
        **{name: getattr(found, name) for name in names},
        "excess_low": low,
        "contexts": Contexts(found.top, found.match_top),
    }


def details_summary(details: Details, universal: Tensor, blocks: int) -> dict[str, Any]:
    """What a summary says of universal neurons; None stands for what is not known."""
    assert details.tokens_effective is not None
    follow = None
    if details.token_r2 is not None and details.match_token_r2 is not None:
        both = torch.minimum(details.token_r2, details.match_token_r2)
        follow = int((universal & (both > _FOLLOWS)).sum())
    beyond = details.partial_r
    return {
        "follow_token": follow,
        "beyond_token_and_position": None
        if beyond is None
        else int((universal & (beyond > _BEYOND)).sum()),
        "few_tokens": int((universal & (details.tokens_effective < FEW_TOKENS)).sum()),
        "few": FEW_TOKENS,
        "blocks": blocks,
    }
