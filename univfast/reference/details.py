"""What is known of a matched pair beyond r, from all tokens at once, neuron by neuron."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from univfast.reference.correlation import pearson

__all__ = ["Details", "NeuronDetails", "TokenTable", "details"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_LEAST_LEFT = 1e-6


@dataclass(frozen=True)
class TokenTable:
    """Of each token used, int64 ``[tokens]``: its number, block, and groups by id and position.

    None where ids, or positions, are not known.
    """

    number: Integers
    block: Integers
    group: Integers | None = None
    position: Integers | None = None


@dataclass(frozen=True)
class NeuronDetails:
    """Of one neuron of each pair, float64 ``[neurons]``; kurtosis is 3 for a normal variable."""

    active: Array
    mean: Array
    std: Array
    skew: Array
    kurtosis: Array
    max: Array
    token_r2: Array | None
    position_r2: Array | None


@dataclass(frozen=True)
class Details:
    """Of each pair, float64 ``[neurons]``; contexts ``[neurons, top_k]``."""

    correlation: Array
    correlation_se: Array
    correlation_low: Array
    correlation_high: Array
    tokens_effective: Array
    a: NeuronDetails
    b: NeuronDetails
    partial_r: Array | None
    top_token: Integers
    match_top_token: Integers


def details(a: ArrayLike, b: ArrayLike, tokens: TokenTable, top_k: int = 16) -> Details:
    """Of column i of ``a`` with column i of ``b``, ``[tokens, neurons]`` each."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    r = pearson(x, y)
    dead = np.isnan(r)
    with np.errstate(invalid="ignore", divide="ignore"):
        error, low, high = _interval(x, y, r, tokens.block)
        c = _standardised(x) * _standardised(y)
        effective = c.sum(axis=0) ** 2 / (c * c).sum(axis=0)
        partial = None
        if tokens.group is not None:
            partial = _partial(x, y, tokens.group, tokens.position)
    return Details(
        r,
        np.where(dead, np.nan, error),
        np.where(dead, np.nan, low),
        np.where(dead, np.nan, high),
        effective,
        _neuron(x, tokens),
        _neuron(y, tokens),
        partial,
        _top(x, tokens.number, top_k),
        _top(y, tokens.number, top_k),
    )


def _interval(x: Array, y: Array, r: Array, block: Integers) -> tuple[Array, Array, Array]:
    """Standard error of r, and both ends of its interval."""
    from scipy.stats import t as student

    blocks = np.unique(block)
    if len(blocks) < 2:
        none = np.full(len(r), np.nan)
        return none, none, none
    left_out = []
    for g in blocks:
        rest = block != g
        own = pearson(x[rest], y[rest])
        for v in (x, y):
            left = v[rest].var(axis=0) * rest.sum() / (v.var(axis=0) * len(v))
            own = np.where(left < _LEAST_LEFT, np.nan, own)
        left_out.append(own)
    count, each = len(blocks), np.array(left_out)
    error = np.sqrt((count - 1) / count * ((each - each.mean(axis=0)) ** 2).sum(axis=0))
    reach = student.ppf(0.975, count - 1) * error / (1 - r * r)
    certain = (np.abs(r) >= 1) & ~np.isnan(error)
    low, high = np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)
    return error, np.where(certain, r, low), np.where(certain, r, high)


def _centred(x: Array) -> Array:
    """Columns about their mean; a constant one is exactly zero."""
    x = x - x[:1]
    return np.asarray(x - x.mean(axis=0))


def _standardised(x: Array) -> Array:
    centred = _centred(x)
    return np.asarray(centred / np.sqrt((centred * centred).mean(axis=0)))


def _neuron(x: Array, tokens: TokenTable) -> NeuronDetails:
    with np.errstate(invalid="ignore", divide="ignore"):
        z = _standardised(x)
        shares = [
            None if groups is None else _between(x, groups)
            for groups in (tokens.group, tokens.position)
        ]
    return NeuronDetails(
        (x > 0).mean(axis=0),
        x[0] + (x - x[:1]).mean(axis=0),
        np.sqrt((_centred(x) ** 2).mean(axis=0)),
        (z**3).mean(axis=0),
        (z**4).mean(axis=0),
        x.max(axis=0),
        *shares,
    )


def _group_means(x: Array, groups: Integers) -> Array:
    """The mean of each token's group, ``[tokens, neurons]``."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, inverse, x)
    return np.asarray((sums / counts[:, None])[inverse])


def _between(x: Array, groups: Integers) -> Array:
    """Between-group over total variance."""
    centred = _centred(x)
    between = (_group_means(centred, groups) ** 2).sum(axis=0)
    return np.asarray(between / (centred**2).sum(axis=0))


def _partial(x: Array, y: Array, group: Integers, position: Integers | None) -> Array:
    """r after token means, then position means are subtracted, twice."""
    left = []
    enough = np.ones(x.shape[1], dtype=bool)
    for values in (x, y):
        rest = _centred(values)
        total = (rest**2).sum(axis=0)
        for _ in range(2):
            rest = rest - _group_means(rest, group)
            if position is not None:
                rest = rest - _group_means(rest, position)
        enough &= (rest**2).sum(axis=0) > _LEAST_LEFT * total
        left.append(rest)
    p, q = left
    r = (p * q).sum(axis=0) / np.sqrt((p * p).sum(axis=0) * (q * q).sum(axis=0))
    return np.where(enough, r, np.nan)


def _top(x: Array, number: Integers, top_k: int) -> Integers:
    """The tokens of the highest values, highest first, of equal ones the lower number first."""
    found = np.full((x.shape[1], top_k), -1)
    for i, values in enumerate(x.T):
        if values.min() < values.max():
            order = np.lexsort((number, -values))[:top_k]
            found[i, : len(order)] = number[order]
    return found
