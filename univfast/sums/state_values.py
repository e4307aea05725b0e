"""What sums of real tokens can be: values that no tokens give are refused when a state is loaded.

A digest tells a state that was damaged; these checks are for those without one, and for what a
digest was made of. They bound sums from above and below; that a state is the right one they cannot
tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from univfast.checks import shown
from univfast.inputs.arrays import DTYPES
from univfast.inputs.layout import Layout
from univfast.nulls.shifts import partners
from univfast.sums import moments as m
from univfast.sums.power_sums import ACTIVE_A, XX, XXXX, XXYY, XY, YY, YYYY
from univfast.sums.products import MULTIPLIED
from univfast.sums.states import check_range, check_tensor, refused
from univfast.sums.token_facts import TokenFacts

__all__ = [
    "check_candidates",
    "check_co_moments",
    "check_details",
    "check_moments",
    "check_multiplied",
    "check_pending",
]

# By how much |co-moment| may exceed sqrt(m2 m2), as a share: more than any product rounds by, TF32
# among them. Of rotated neurons, as a share of all neurons, which may nearly cancel in one.
_ROUNDING = 1e-2
# Squares below this have lost digits, as they are near the smallest number.
_TINY = 1e-290
# The squares of so large values of a chunk can be added up.
_LARGEST = 1e152
# Values of co-moments that are looked at together: bounds memory.
_TILE = 1 << 22


def check_moments(
    name: str, moments: Tensor, tokens: int, draws: int, shifts: Tensor | None = None
) -> None:
    """Refuses moments ``[5 + 2 * draws + shifts, neurons]`` that no such tokens have.

    Raises:
        InputError: naming what is wrong.
    """
    _check_finite(name, moments)
    _check_some(name, moments, tokens)
    m2_a, m2_b = moments[m.M2_A], moments[m.M2_B]
    behind = m.ROTATED + 2 * draws
    turned = moments[m.ROTATED : behind]
    _check_squares(name, moments[m.M2_A : m.CO_AB])
    _check_squares(name, turned[::2])
    root_a, root_b = _root(m2_a), _root(m2_b)
    _check_bound(name, moments[m.CO_AB], root_a * root_b)
    _check_bound(name, turned[1::2], root_a * (_root(turned[::2]) + _ROUNDING * root_b.norm()))
    if shifts is not None and len(shifts):
        _check_bound(name, moments[behind:], root_a * root_b[partners(shifts, len(root_b))])


def check_co_moments(
    tensors: Mapping[str, Tensor], tokens: int, layouts: Mapping[str, Layout], draws: int
) -> None:
    """Refuses tensors of `CoMoments`, by name, that no such tokens have.

    ``layouts`` are those of the sides ``a`` and ``b``.

    Raises:
        InputError: naming the tensor.
    """
    for name in ("mean_a", "mean_b", "m2_a", "m2_b"):
        _check_finite(name, tensors[name])
        if name.startswith("m2"):
            _check_squares(name, tensors[name])
    roots = {side: _root(tensors[f"m2_{side}"]) for side in layouts}
    for name, x in tensors.items():
        _check_some(name, x, tokens)
        kind, number = name.split("_")[0], name.partition(".")[2]
        if kind == "streamed":
            check_moments(name, x, tokens, draws)
        elif kind == "within":
            side = name[len("within_")]
            root = roots[side][layouts[side].slices[int(number)]]
            _check_products(name, x, root, root)
    _check_products("cross", tensors["cross"], roots["a"], roots["b"])


def check_candidates(tensors: Mapping[str, Tensor], tokens: int, a: Tensor, b: Tensor) -> None:
    """Refuses tensors of `CandidateMoments`, by name, that no such tokens have.

    ``a`` and ``b``, int64 ``[pairs]``, are the neurons of each pair.

    Raises:
        InputError: naming the tensor.
    """
    for name, x in tensors.items():
        _check_finite(name, x)
        _check_some(name, x, tokens)
        if name.startswith("m2"):
            _check_squares(name, x)
    root_a, root_b = _root(tensors["m2_a"]), _root(tensors["m2_b"])
    for first in range(0, len(a), _TILE):
        part = slice(first, first + _TILE)
        _check_bound("cross", tensors["cross"][part], root_a[a[part]] * root_b[b[part]])


def check_pending(pending: object, widths: Sequence[int], tokens: int) -> list[Tensor]:
    """Activations of tokens that are in no sum yet, ``[tokens, width]`` of each layer; or none.

    Raises:
        InputError: they are not such, or of more than ``tokens``.
    """
    if not isinstance(pending, (list, tuple)) or len(pending) not in (0, len(widths)):
        raise refused(f"pending is missing or not of {len(widths)} layers")
    first = pending[0] if pending else None
    waiting = len(first) if isinstance(first, Tensor) and first.dim() > 0 else 0
    for x, width in zip(pending, widths, strict=bool(pending)):
        known = isinstance(x, Tensor) and x.dtype in DTYPES
        check_tensor("pending", x, (waiting, width), x.dtype if known else torch.float32)
        check_range("pending", x.double(), -_LARGEST, _LARGEST)
    if waiting > tokens:
        raise refused(f"pending has {waiting} of {tokens} tokens")
    return list(pending)


def _check_products(name: str, c: Tensor, rows: Tensor, columns: Tensor) -> None:
    step = max(1, _TILE // max(1, c.shape[1]))
    for first in range(0, len(c), step):
        part = slice(first, first + step)
        _check_bound(name, c[part], rows[part, None] * columns)


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(x.isfinite().all()):
        raise refused(f"{name} holds values that are not finite")


def _check_some(name: str, x: Tensor, tokens: int) -> None:
    if tokens == 0 and bool((x != 0).any()):
        raise refused(f"{name} holds sums, and the state no tokens")


def _check_squares(name: str, x: Tensor) -> None:
    if bool((x < 0).any()):
        raise refused(f"{name} holds sums of squares below 0")


def _check_bound(name: str, x: Tensor, bound: Tensor) -> None:
    # NaN is within no bound.
    if not bool((x.abs() <= bound * (1 + _ROUNDING)).all()):
        raise refused(f"{name} holds a co-moment larger than both variances allow")


def _root(m2: Tensor) -> Tensor:
    return (m2 + _TINY).sqrt()


# ---- matched pairs ------------------------------------------------------------------------------


def check_details(tensors: Mapping[str, Tensor], tokens: int, facts: TokenFacts) -> None:
    """Refuses tensors of `PairDetails`, by name, that no such tokens of the run have.

    Raises:
        InputError: naming the tensor.
    """
    sizes = facts.block_starts.diff()
    counts = tensors["counts"].cpu()
    if bool((counts < 0).any()) or bool((counts > sizes).any()) or int(counts.sum()) != tokens:
        raise refused(f"counts are not those of {tokens} tokens in blocks of the run")
    for name, x in tensors.items():
        if x.is_floating_point() and not name.startswith(("top_", "match_top_")):
            _check_finite(name, x)
    if bool((tensors["scale"] <= 0).any()):
        raise refused("scale holds values that are not above 0")
    for name in ("pairs", "powers"):
        _check_some(name, tensors[name], tokens)
    _check_powers(tensors["pairs"], tensors["powers"], tokens)
    for name in ("top", "match_top"):
        _check_contexts(name, tensors, facts.tokens)
    for kind in ("token", "position"):
        _check_groups(f"groups_{kind}_counts", tensors.get(f"groups_{kind}_counts"), tokens)
    together = tensors.get("groups_together")
    _check_groups("groups_together", together, tokens)
    if together is not None:
        for kind, axis in (("token", 1), ("position", 0)):
            if not torch.equal(together.sum(dim=axis), tensors[f"groups_{kind}_counts"]):
                raise refused(f"groups_together and groups_{kind}_counts differ")


def check_multiplied(found: object) -> set[str]:
    """What products were made of, as a state has it; nothing where it does not say."""
    if not isinstance(found, list) or not all(type(x) is str and x in MULTIPLIED for x in found):
        raise refused(f"multiplied is {shown(found)}")
    return set(found)


def _check_powers(pairs: Tensor, powers: Tensor, tokens: int) -> None:
    total = pairs.sum(dim=0)
    # About a pivot that was moved, what is near 0 may have been rounded below it.
    slack = _ROUNDING * (tokens + total[XX:XY].abs().amax(dim=0))
    if bool((pairs[:, XX:XY] < -slack).any()):
        raise refused("pairs holds sums of squares below 0")
    root_x, root_y = ((total[i].clamp(min=0) + slack).sqrt() for i in (XX, YY))
    _check_bound("pairs", total[XY], root_x * root_y)
    for i in (XXYY, XXXX, YYYY):
        if bool((powers[i] < -_ROUNDING * (tokens + powers[i].abs().amax())).any()):
            raise refused("powers holds sums of squares below 0")
    check_range("powers", powers[ACTIVE_A:], 0, tokens)


def _check_contexts(name: str, tensors: Mapping[str, Tensor], tokens: int) -> None:
    value, token, partner = (tensors[f"{name}_{x}"] for x in ("value", "token", "partner"))
    check_range(f"{name}_token", token, -1, tokens - 1)
    there = token >= 0
    if bool((there != value.isfinite()).any()) or bool((value[~there] != -torch.inf).any()):
        raise refused(f"{name}_value holds values of no token, or none of one")
    if bool((there & ~partner.isfinite()).any()):
        raise refused(f"{name}_partner holds values that are not finite")
    if bool((value[:, 1:] > value[:, :-1]).any()):
        raise refused(f"{name}_value is not in order")


def _check_groups(name: str, counts: Tensor | None, tokens: int) -> None:
    if counts is None:
        return
    if bool((counts < 0).any()) or bool((counts > tokens).any()) or int(counts.sum()) != tokens:
        raise refused(f"{name} are not those of {tokens} tokens")
