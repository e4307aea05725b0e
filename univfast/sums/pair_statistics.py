"""What follows from the state of matched pairs, as `univfast.reference.details` defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from univfast.native import Contexts
from univfast.native.place import numbers
from univfast.nulls.intervals import fisher_interval, jackknife_error
from univfast.sums.group_sums import Grouping, GroupSums
from univfast.sums.power_sums import (
    ACTIVE_A,
    ACTIVE_B,
    XX,
    XXX,
    XXXX,
    XXYY,
    XY,
    YY,
    YYY,
    YYYY,
    Frame,
    PowerSums,
    X,
    Y,
)

__all__ = ["PairStatistics", "TopContexts", "statistics_of_pairs"]

# Where less of a neuron's variance is left, without a block or beyond token and position, what is
# left is rounding.
LEAST_LEFT = 1e-6
# Pairs whose groups are looked at together: bounds memory.
_SLAB = 256
# Of ids and positions that come together: below this share SciPy's sparse products are faster, on
# one core, than dense ones on two.
_SPARSE = 0.25


class TopContexts(NamedTuple):
    """The tokens where a neuron is highest, ``[neurons, top_k]``.

    Highest first, of equally high ones the lower number first. -1 and NaN where there are fewer,
    where the neuron is constant, and where there is no pair.
    """

    token: Tensor  # int64: its number in the run
    value: Tensor  # float64: of A's neuron
    match_value: Tensor  # float64: of its match


@dataclass(frozen=True)
class PairStatistics:
    """Of each neuron of A and its match; float64 ``[neurons]``, NaN where there is none.

    Attributes:
        tokens: that all is of.
        blocks: that hold some of them.
        correlation: Pearson's r; NaN where either is constant.
        correlation_se: its standard error, by leaving out one block at a time; NaN with fewer than
            two, and where without one less than 1e-6 of the variance of either is left.
        correlation_low, correlation_high: the interval of 95% (`fisher_interval`).
        tokens_effective: how many tokens r rests on: ``(sum c)^2 / sum c^2``, where c is the
            product of both values of a token, standardised.
        active: share of tokens where A's neuron is above 0. This and the following also where it
            has no match.
        mean, std: of A's neuron, over all tokens (population).
        skew, kurtosis: its third and fourth standardised moment (Pearson's kurtosis: 3 for a normal
            variable); NaN for a constant.
        max: its highest value.
        token_r2, position_r2: share of its variance between tokens of one id, and of one position
            in the sample; NaN for a constant; None where ids, or positions, are not known.
        match_active, match_mean, match_std, match_skew, match_kurtosis, match_max,
            match_token_r2, match_position_r2: the same of its match.
        partial_r: r after token means, then position means are subtracted, twice; NaN where less
            than 1e-6 of the variance of either is left; None where ids are not known. Where
            positions are not, token means alone are subtracted.
        top: where A's neuron is highest; without a match too, whose values are NaN then.
        match_top: where its match is highest.
    """

    tokens: int
    blocks: int
    correlation: Tensor
    correlation_se: Tensor
    correlation_low: Tensor
    correlation_high: Tensor
    tokens_effective: Tensor
    active: Tensor
    mean: Tensor
    std: Tensor
    skew: Tensor
    kurtosis: Tensor
    max: Tensor
    token_r2: Tensor | None
    position_r2: Tensor | None
    match_active: Tensor
    match_mean: Tensor
    match_std: Tensor
    match_skew: Tensor
    match_kurtosis: Tensor
    match_max: Tensor
    match_token_r2: Tensor | None
    match_position_r2: Tensor | None
    partial_r: Tensor | None
    top: TopContexts
    match_top: TopContexts


def statistics_of_pairs(
    sums: PowerSums,
    frame: Frame,
    top: tuple[Contexts, Contexts],
    grouping: Grouping,
    match: Tensor,
) -> PairStatistics:
    """The statistics, on the CPU. ``match`` is -1 for neurons without one."""
    there = (match >= 0).to(sums.pairs.device)
    tokens = sums.tokens
    total = sums.pairs.sum(dim=0)
    centre = total[:XX] / tokens
    mean = frame.pivot + centre / frame.scale
    central = sums.shifted(*centre)
    m2 = central.pairs.sum(dim=0)[XX:XY].clamp(min=0)
    pairs = _correlations(central, there)
    groups = _groups(grouping, _Pairs(central, m2, frame.scale, mean, match.to(there.device)))
    columns: dict[str, Tensor | None] = {**pairs, "partial_r": groups.partial}
    sides = (0, "", ACTIVE_A, XXX, XXXX), (1, "match_", ACTIVE_B, YYY, YYYY)
    for side, prefix, active, third, fourth in sides:
        found = {
            "active": sums.powers[active] / tokens,
            "mean": mean[side],
            "std": (m2[side] / tokens).sqrt() / frame.scale[side],
            "skew": _standardised(central.powers[third], m2[side], tokens, 3),
            "kurtosis": _standardised(central.powers[fourth], m2[side], tokens, 4),
            "max": top[side].value[:, 0],
            "token_r2": groups.token[side],
            "position_r2": groups.position[side],
        }
        columns |= {f"{prefix}{name}": x for name, x in found.items()}
    alone = {name for name in found if name in columns}
    known: dict[str, Any] = {
        name: None
        if x is None
        else (x if name in alone else torch.where(there, x, torch.nan)).cpu()
        for name, x in columns.items()
    }
    alive = m2 > 0
    return PairStatistics(
        tokens=tokens,
        blocks=int((sums.counts > 0).sum()),
        **known,
        top=_contexts(top[0], alive[0], there, partner_first=False),
        match_top=_contexts(top[1], alive[1] & there, there, partner_first=True),
    )


def _correlations(central: PowerSums, there: Tensor) -> dict[str, Tensor]:
    """r and how sure it is, from sums about the mean."""
    total = central.pairs.sum(dim=0)
    r, _ = _pearson(total, central.counts.sum().double())
    held = central.counts > 0
    rest = total - central.pairs[held]
    left_out, m2 = _pearson(rest.transpose(0, 1), central.counts.sum() - central.counts[held, None])
    left = (m2 >= LEAST_LEFT * total[XX:XY, None]).all(dim=0)
    error = jackknife_error(torch.where(left, left_out, torch.nan))
    low, high = fisher_interval(r, error, int(held.sum()))
    effective = total[XY].square() / central.powers[XXYY]
    dead = r.isnan() | ~there
    return {
        name: torch.where(dead, torch.nan, x)
        for name, x in {
            "correlation": r,
            "correlation_se": error,
            "correlation_low": low,
            "correlation_high": high,
            "tokens_effective": effective,
        }.items()
    }


def _pearson(pairs: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """r, and the second moments ``[2, ...]``, from sums ``[5, ...]``; NaN for a constant."""
    x, y = pairs[X], pairs[Y]
    m2 = torch.stack([pairs[XX] - x * (x / tokens), pairs[YY] - y * (y / tokens)])
    root = m2.clamp(min=0).sqrt()
    r = (pairs[XY] - x * (y / tokens)) / root[0] / root[1]
    return torch.where((root > 0).all(dim=0), r.clamp(-1.0, 1.0), torch.nan), m2


def _standardised(power: Tensor, m2: Tensor, tokens: int, order: int) -> Tensor:
    moment = power / tokens / (m2 / tokens).pow(order / 2)
    return torch.where(m2 > 0, moment, torch.nan)


def _contexts(top: Contexts, alive: Tensor, there: Tensor, *, partner_first: bool) -> TopContexts:
    known = alive[:, None] & (top.token >= 0)
    token = torch.where(known, top.token, -1)
    value = torch.where(known, top.value, torch.nan)
    partner = torch.where(known & there[:, None], top.partner, torch.nan)
    values = (partner, value) if partner_first else (value, partner)
    return TopContexts(token.cpu(), *(x.cpu() for x in values))


# ---- groups of tokens ---------------------------------------------------------------------------


class _Pairs(NamedTuple):
    """Sums about the mean, second moments, scales and means ``[2, neurons]``, and the match."""

    central: PowerSums
    m2: Tensor
    scale: Tensor
    mean: Tensor
    match: Tensor


class _Groups(NamedTuple):
    token: list[Tensor | None]
    position: list[Tensor | None]
    partial: Tensor | None


def _groups(grouping: Grouping, pairs: _Pairs) -> _Groups:
    """Shares of the variance, and the partial r, some pairs at a time."""
    neurons = len(pairs.match)
    together = None if grouping.together is None else _Together(grouping.together)
    parts = []
    for first in range(0, neurons, _SLAB):
        part = slice(first, min(first + _SLAB, neurons))
        parts.append(_some_groups(grouping, together, pairs, part))

    def joined(found: list[Tensor | None]) -> Tensor | None:
        tensors = [x for x in found if x is not None]
        return torch.cat(tensors) if tensors else None

    return _Groups(
        [joined([part.token[side] for part in parts]) for side in range(2)],
        [joined([part.position[side] for part in parts]) for side in range(2)],
        joined([part.partial for part in parts]),
    )


def _some_groups(
    grouping: Grouping, together: _Together | None, pairs: _Pairs, part: slice
) -> _Groups:
    columns = [numbers(part.start, part.stop, device=pairs.match.device)]
    columns.append(pairs.match[part].clamp(min=0))
    m2 = pairs.m2[:, part]

    def centred(sums: GroupSums | None) -> list[Tensor]:
        """Sums of each group about the mean, standardised as the pairs' are."""
        if sums is None:
            return []
        counts = sums.counts.double()[:, None]
        found = []
        for side, own in enumerate(columns):
            shift = pairs.mean[side, part] - grouping.pivots[side][own]
            found.append((sums.sums[side][:, own] - counts * shift) * pairs.scale[side, part])
        return found

    def shares(sums: GroupSums | None, found: list[Tensor]) -> list[Tensor | None]:
        if sums is None:
            return [None, None]
        weights = _inverse(sums.counts)
        between = torch.stack([(x.square() * weights).sum(dim=0) for x in found])
        return list(torch.where(m2 > 0, (between / m2).clamp(0.0, 1.0), torch.nan))

    tokens, positions = centred(grouping.by_token), centred(grouping.by_position)
    partial = None
    if grouping.by_token is not None:
        xy = pairs.central.pairs.sum(dim=0)[XY, part]
        partial = _partial(grouping, together, (tokens, positions), (m2, xy))
    return _Groups(
        shares(grouping.by_token, tokens), shares(grouping.by_position, positions), partial
    )


def _inverse(counts: Tensor) -> Tensor:
    """1 / count ``[groups, 1]``; 0 for none."""
    return torch.where(counts > 0, 1 / counts.double(), 0.0)[:, None]


class _Together:
    """Products with the tokens of each id and position, N ``[ids, positions]``."""

    def __init__(self, counts: Tensor) -> None:
        self._dense, self._sparse = counts, None
        if not counts.is_cuda and int((counts > 0).sum()) < _SPARSE * counts.numel():
            from scipy.sparse import csr_matrix  # takes a while to import

            plain = csr_matrix(counts.numpy().astype("f8"))
            self._sparse = plain, plain.T.tocsr()
        else:
            self._dense = counts.double()

    def across(self, v: Tensor) -> Tensor:
        """``N v``: of each id."""
        return self._dense @ v if self._sparse is None else _times(self._sparse[0], v)

    def down(self, u: Tensor) -> Tensor:
        """``N^T u``: of each position."""
        return self._dense.T @ u if self._sparse is None else _times(self._sparse[1], u)


def _times(sparse: Any, dense: Tensor) -> Tensor:
    return torch.from_numpy(sparse @ dense.numpy())


def _partial(
    grouping: Grouping,
    together: _Together | None,
    sums: tuple[list[Tensor], list[Tensor]],
    whole: tuple[Tensor, Tensor],
) -> Tensor:
    """r of what token means u and position means v, subtracted in turn, twice, leave of x and y.

    What is left is ``x - u[token] - v[position]``; with sums of x over tokens s and over positions
    t, and N the tokens of each id and position, the products that r needs follow from ``s u``,
    ``t v``, ``n u u``, ``n v v`` and ``v N^T u``. ``whole`` are the second moments and the
    co-moment, all of x and y about their means.
    """
    assert grouping.by_token is not None
    m2, xy = whole
    n_u = grouping.by_token.counts.double()[:, None]
    u_weights = _inverse(grouping.by_token.counts)
    if together is None or grouping.by_position is None:
        s, s_y = sums[0]
        left = [m2[0] - (s * s * u_weights).sum(dim=0), m2[1] - (s_y * s_y * u_weights).sum(dim=0)]
        return _left_r(left, m2, xy - (s * s_y * u_weights).sum(dim=0))
    n_v = grouping.by_position.counts.double()[:, None]
    v_weights = _inverse(grouping.by_position.counts)
    sides = []
    for s, t in zip(*sums, strict=True):
        first = s * u_weights
        v = (t - together.down(first)) * v_weights
        u = first - together.across(v) * u_weights
        across = together.down(u)
        sides.append((s, t, u, (t - across) * v_weights, across))

    def product(one: tuple[Tensor, ...], other: tuple[Tensor, ...], before: Tensor) -> Tensor:
        s, t, u, v, across = one
        s_2, t_2, u_2, v_2, across_2 = other
        by_token = u * (n_u * u_2 - s_2) - s * u_2
        by_position = v * (n_v * v_2 - t_2 + across_2) + v_2 * (across - t)
        return before + by_token.sum(dim=0) + by_position.sum(dim=0)

    left = [product(sides[i], sides[i], m2[i]) for i in range(2)]
    return _left_r(left, m2, product(sides[0], sides[1], xy))


def _left_r(left: list[Tensor], m2: Tensor, xy: Tensor) -> Tensor:
    """r of what is left, if enough is."""
    enough = (left[0] > LEAST_LEFT * m2[0]) & (left[1] > LEAST_LEFT * m2[1])
    r = xy / left[0].clamp(min=0).sqrt() / left[1].clamp(min=0).sqrt()
    return torch.where(enough, r.clamp(-1.0, 1.0), torch.nan)
