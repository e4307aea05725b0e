"""Shifts by which the neurons of a control are active as often as the trained ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from univfast.controls.shifts import add_shifts, shifts_of
from univfast.controls.sites import RateSite, find_sites, watching
from univfast.errors import InputError
from univfast.feeding import evaluating, has_tokens, run_batch
from univfast.hooks import capture
from univfast.inputs.masks import open_mask

__all__ = ["PILOT_TOKENS", "match_rates"]

PILOT_TOKENS = 16_384
"""Tokens that rates are matched on, at most."""

# How far a dead neuron is kept below 0: GELU and SiLU are exactly 0 there, in all dtypes.
_FAR = 1_000.0
# Neurons whose values are sorted at a time.
_BLOCK = 256

Batch = tuple[Any, object]
"""What a model takes, and the mask of its tokens, None for all."""


def match_rates(
    model: nn.Module,
    control: nn.Module,
    hooks: str | Iterable[str],
    batches: Iterable[Batch],
    mask_name: str = "mask",
) -> dict[str, Tensor]:
    """Shifts the neurons of a control, so that they are above 0 as often as the trained ones.

    Of T tokens of the pilot, the first of the batches, n are above 0 before the trained neuron's
    activation function: 0 is put midway between the n-th and the (n+1)-th largest value of the
    control's neuron of that number; with n = T just below the smallest, with n = 0 just above the
    largest. Where a trained neuron with n = 0 is constant after the function too, as a dead one of
    ReLU, it is put far above. Equal values are on one side of 0 together. Layers are shifted one
    after another, in the order in which they are run, as each changes what later ones are given.

    Memory holds one layer's values on the pilot, and those batches.

    Args:
        model: trained; not modified.
        control: of the same architecture; the shifts are put onto it.
        hooks: glob patterns of layers, as `univfast.hooks.capture` takes them.
        batches: what both take, with masks. Read only until the pilot is full.
        mask_name: what to call a mask in errors.

    Returns:
        The shifts ``[neurons]``, by place, as `add_shifts` takes them.

    Raises:
        InputError: a layer whose rates cannot be matched, a value that is not finite, masks that do
            not fit, no tokens.
    """
    patterns = hooks if isinstance(hooks, str) else list(hooks)
    with torch.no_grad(), evaluating(model=model, control=control):
        counts, pilot = _trained_rates(model, control, patterns, iter(batches), mask_name)
        for place, count in counts.items():
            values = _values(control, place, count, pilot, mask_name)
            shift = _shift(values, count.above, count.dead)
            add_shifts(control, {place: shift})
    return shifts_of(control)


class _Count:
    """How often the neurons of a trained layer are above 0."""

    def __init__(self, site: RateSite) -> None:
        self.site, self.tokens = site, 0
        self.above = self._low = self._high = torch.empty(0)

    def add(self, x: Tensor) -> None:
        """Adds values ``[tokens, neurons]`` from before the activation function."""
        if not len(x):
            return
        after = self.site.function(x.clone())  # a function in place would change the model's
        above, low, high = (x > 0).sum(0), after.amin(0), after.amax(0)
        if self.tokens:
            above = self.above + above
            low, high = self._low.minimum(low), self._high.maximum(high)
        self.above, self._low, self._high = above, low, high
        self.tokens += len(x)

    @property
    def dead(self) -> Tensor:
        """Bool ``[neurons]``: never above 0, and constant after the function."""
        return (self.above == 0) & (self._low == self._high)


def _trained_rates(
    model: nn.Module,
    control: nn.Module,
    hooks: str | list[str],
    batches: Iterable[Batch],
    mask_name: str,
) -> tuple[dict[str, _Count], list[Batch]]:
    """By place, in the order in which the places are run; and the batches of the pilot."""
    counts: dict[str, _Count] = {}
    pilot: list[Batch] = []
    sites: dict[str, RateSite] = {}
    for batch, mask in batches:
        if not has_tokens(batch):
            continue
        sites = sites or _sites(control, hooks, batch)
        pilot.append((batch, mask))
        _count(model, hooks, sites, counts, pilot[-1], mask_name)
        if min(count.tokens for count in counts.values()) >= PILOT_TOKENS:
            break
    if not pilot:
        raise InputError(
            "batches: there are none with tokens; give at least one (an iterator can be used only"
            " once)"
        )
    if not all(count.tokens for count in counts.values()):
        raise InputError(f"{mask_name}: leaves no token; true marks the tokens to use")
    return counts, pilot


def _sites(control: nn.Module, hooks: str | list[str], batch: object) -> dict[str, RateSite]:
    with capture(control, hooks) as captured:
        return find_sites(
            control, captured.layers, lambda: run_batch(captured, control, batch, "control")
        )


def _count(
    model: nn.Module,
    hooks: str | list[str],
    sites: Mapping[str, RateSite],
    counts: dict[str, _Count],
    pair: Batch,
    mask_name: str,
) -> None:
    """Adds to the counts, by place, what the trained model gives on a batch."""
    batch, mask = pair

    def take(place: str, x: Tensor) -> None:
        count = counts.setdefault(place, _Count(sites[place]))
        count.add(_kept(x, mask, mask_name)[: PILOT_TOKENS - count.tokens])

    with ExitStack() as stack:
        for place in sites:
            stack.enter_context(watching(model, place, partial(take, place)))
        run_batch(stack.enter_context(capture(model, hooks)), model, batch, "model")


def _values(
    control: nn.Module, place: str, count: _Count, pilot: list[Batch], mask_name: str
) -> Tensor:
    """What the control gives at a place on the pilot, ``[tokens, neurons]``."""
    parts: list[Tensor] = []
    masks = iter([mask for _, mask in pilot])
    left = count.tokens

    def take(x: Tensor) -> None:
        nonlocal left
        part = _kept(x, next(masks), mask_name)[:left].clone()
        left -= len(part)
        parts.append(part)

    # In this order: a capture ends a pass once it has what it waits for.
    with watching(control, place, take), capture(control, count.site.layer) as captured:
        for batch, _ in pilot:
            run_batch(captured, control, batch, "control")
    values = torch.cat(parts)
    if not bool(values.isfinite().all()):
        raise InputError(
            f"control: gives values that are not finite at layer {count.site.layer!r}; use another"
            " seed or dtype, or make plain controls (match_rate=False, --no-match-rate)"
        )
    return values


def _kept(x: Tensor, mask: object, name: str) -> Tensor:
    """``[tokens, neurons]``, of the tokens that count."""
    rows = x.reshape(-1, x.shape[-1])
    if mask is None:
        return rows
    return rows[open_mask(mask, tuple(x.shape[:-1]), name).to(x.device)]


def _shift(values: Tensor, above: Tensor, dead: Tensor) -> Tensor:
    """The shifts ``[neurons]`` of values ``[tokens, neurons]``."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    blocks = range(0, values.shape[1], _BLOCK)
    return torch.cat(
        [
            -_threshold(
                values[:, i : i + _BLOCK].T.to(dtype).sort(dim=1, descending=True).values,
                above[i : i + _BLOCK],
                dead[i : i + _BLOCK],
            )
            for i in blocks
        ]
    )


def _threshold(v: Tensor, above: Tensor, dead: Tensor) -> Tensor:
    """What ``above`` ``[neurons]`` of the values are larger than.

    Args:
        v: ``[neurons, tokens]``, each row from the largest down.
        above: int64.
        dead: bool; those get a threshold far above all.
    """
    tokens = v.shape[1]

    def at(place: Tensor) -> Tensor:
        return v.gather(1, place.clamp(0, tokens - 1)[:, None])[:, 0]

    largest, smallest = v[:, 0], v[:, -1]
    last = at(above - 1)[:, None]  # of those to be above
    more, fewer = (v >= last).sum(1), (v > last).sum(1)
    nearer = torch.where((more - above <= above - fewer) | (fewer == 0), more, fewer)
    count = torch.where((above > 0) & (more > above), nearer, above)
    # At the ends: half of what values are apart on average, yet no less than rounding.
    size = torch.maximum(largest.abs(), smallest.abs())
    margin = torch.maximum((largest - smallest) / (2 * tokens), size * 2**-20 + 2**-20)
    upper = torch.where(count > 0, at(count - 1), largest + 2 * margin)
    lower = torch.where(count < tokens, at(count), smallest - 2 * margin)
    middle = lower + (upper - lower) / 2
    threshold = torch.where(middle < upper, middle, lower)
    return torch.where(dead, largest + _FAR, threshold)
