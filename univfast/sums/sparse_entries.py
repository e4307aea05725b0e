"""Entries of sparse features on their way into sums: looked at, masked, and put about pivots."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast import native
from univfast.errors import InputError
from univfast.native.place import numbers
from univfast.native.sparse import EntryList
from univfast.sums.batches import bad_value

__all__ = [
    "PILOT_TOKENS",
    "about_pivots",
    "checked_entries",
    "of_features",
    "of_tokens",
    "pivots_of",
]

PILOT_TOKENS = 16_384
"""The first so many that are used say which features need a pivot."""

# Squares of float64 values beyond these, or below, are no float64 numbers, or have lost digits.
_LARGEST, _SMALLEST = 1e150, 1e-150


def checked_entries(
    entries: EntryList, keep: Tensor | None, model: str, layer: str, first_token: int
) -> EntryList:
    """The entries of the tokens that ``keep`` has true, all finite; these are counted anew.

    Values are float32, or float64 where they were.

    Raises:
        InputError: a value that no sum can include, by token and feature.
    """
    if keep is not None:
        entries = entries.where(keep[entries.token])
    token, feature, value = entries
    if value.dtype != torch.float64:
        value = value.float()
    good = value.isfinite()
    if value.dtype == torch.float64:
        good &= value.abs() < _LARGEST
    if not bool(good.all()):
        bad = (~good).nonzero()[:, 0]
        at = min(bad.tolist(), key=lambda i: (int(token[i]), int(feature[i])))
        found = native.BadValue(False, int(token[at]), int(feature[at]), float(value[at]))
        raise bad_value(found, model, layer, first_token + found.token)
    if value.dtype == torch.float64 and bool((value.abs() < _SMALLEST).any()):
        at = int((value.abs() < _SMALLEST).nonzero()[0])
        raise InputError(
            f"{model}: layer {layer!r} has {float(value[at])!r} at token"
            f" {first_token + int(token[at])}, neuron {int(feature[at])}, too small to square;"
            " rescale the activations"
        )
    if keep is not None:
        token = (keep.cumsum(0, dtype=torch.int32) - 1)[token]
    return EntryList(token, feature, value)


def of_features(entries: EntryList, first: int, last: int) -> EntryList:
    """Those of features ``first`` to ``last``, counted from the first."""
    found = entries.where((entries.feature >= first) & (entries.feature < last))
    return found._replace(feature=found.feature - first)


def of_tokens(entries: EntryList, tokens: int) -> EntryList:
    """Those of the first so many tokens."""
    return entries.where(entries.token < tokens)


def pivots_of(entries: EntryList, tokens: int, width: int) -> Tensor:
    """What to subtract of each feature, float64 ``[width]``, before it is summed; 0 for most.

    A feature that is active on a share p of all tokens has ``mean^2 <= p * mean of squares`` (by
    Cauchy and Schwarz), so that of sums about 0 a share of at least 1 - p is left when the mean is
    taken off: no pivot is needed but for those that are active on most tokens, as these say.
    """
    feature, value = entries.feature.long(), entries.value.double()

    def zeros() -> Tensor:
        return torch.zeros(width, dtype=torch.float64, device="cpu")

    active = zeros().index_add_(0, feature, torch.ones_like(value))
    mean = zeros().index_add_(0, feature, value) / active
    low = zeros().scatter_reduce_(0, feature, value, "amin", include_self=False)
    high = zeros().scatter_reduce_(0, feature, value, "amax", include_self=False)
    # A constant's deviations are exactly 0, which a mean that was rounded would hide.
    pivot = torch.where(low == high, low, mean)
    return torch.where(2 * active > tokens, pivot, 0.0)


def about_pivots(entries: EntryList, pivots: Tensor, tokens: int) -> EntryList:
    """Entries, with those of features that have a pivot about it, and one for each token.

    Args:
        entries: of so many tokens; float64 where there is a pivot.
        pivots: float64 ``[features]``, 0 for those without.
        tokens: how many there are.
    """
    chosen = pivots.nonzero()[:, 0]
    if not len(chosen):
        return entries
    column = torch.full((len(pivots),), -1, dtype=torch.int64, device="cpu")
    column[chosen] = numbers(len(chosen))
    own = column[entries.feature]
    there = own >= 0
    deviations = (-pivots[chosen]).repeat(tokens, 1)
    token, value = entries.token[there].long(), entries.value[there].double()
    deviations[token, own[there]] = value - pivots[entries.feature[there].long()]
    every = numbers(tokens).int()[:, None].expand(tokens, len(chosen))
    return EntryList.joined(
        [
            entries.where(~there),
            EntryList(every.flatten(), chosen.int().repeat(tokens), deviations.flatten()),
        ]
    )
