"""Shifts by which the neurons of a control are active as often as the trained ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from univfast.controls.shifts import add_shifts, shifted, shifts_of
from univfast.controls.sites import RateSite, replacing, watching
from univfast.errors import InputError
from univfast.feeding import evaluating, has_tokens, run_batch
from univfast.hooks import Captured, capture
from univfast.inputs.masks import open_mask
from univfast.inputs.plain import plain_tensor
from univfast.machine.torch_state import PlainState, in_plain_state

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
    sites: Sequence[RateSite],
    batches: Iterable[Batch],
    mask_name: str = "mask",
) -> dict[str, Tensor]:
    """Shifts the neurons of a control, so that they are above 0 as often as the trained ones.

    Of T tokens of the pilot, the first of the batches, n are above 0 before the trained neuron's
    activation function: 0 is put midway between the n-th and the (n+1)-th largest value of the
    control's neuron of that number; with n = T just below the smallest, with n = 0 just above the
    largest. Where a trained neuron with n = 0 is constant after the function too, as a dead one of
    ReLU, it is put far above. Equal values are on one side of 0 together. Layers are shifted one
    after another, as each changes what later ones are given; a pilot of one batch needs one pass
    for that, one of several a pass a layer.

    Memory holds one layer's values on the pilot, and its batches.

    Args:
        model: trained; not modified.
        control: of the same architecture; the shifts are put onto it.
        sites: of either, as `find_sites` finds them.
        batches: what both take, with masks. Read only until the pilot is full.
        mask_name: what to call a mask in errors.

    Returns:
        The shifts ``[neurons]``, by place, as `add_shifts` takes them.

    Raises:
        InputError: a value that is not finite, masks that do not fit, no tokens.
    """
    with torch.no_grad(), evaluating(model=model, control=control):
        pilot = _Pilot(mask_name)
        counts = pilot.count(model, sites, batches)
        if len(pilot.batches) == 1:
            pilot.shift_in_one_pass(control, counts)
        else:
            for count in counts:
                values = pilot.values(control, count)
                add_shifts(control, {count.site.place: _shift(values, count)})
    return shifts_of(control)


class _Count:
    """How often the neurons of a trained layer are above 0."""

    def __init__(self, site: RateSite) -> None:
        self.site, self.tokens = site, 0
        self.above = self._low = self._high = torch.empty(0, dtype=torch.float32, device="cpu")

    def add(self, x: Tensor) -> None:
        """Adds values ``[tokens, neurons]`` from before the activation function."""
        if not len(x):
            return
        after = self.site.function(x.clone())  # a function in place would change the model's
        with PlainState():
            after = plain_tensor(after, f"hooks: what layer {self.site.layer!r} goes into")
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


class _Pilot:
    """The batches that rates are matched on."""

    def __init__(self, mask_name: str) -> None:
        self.batches: list[Batch] = []
        self._mask_name = mask_name

    def count(
        self, model: nn.Module, sites: Sequence[RateSite], batches: Iterable[Batch]
    ) -> list[_Count]:
        """How often the trained neurons are above 0, on the batches that are then the pilot."""
        counts = [_Count(site) for site in sites]

        def take(count: _Count, x: Tensor) -> None:
            count.add(self._kept(x, self.batches[-1])[: PILOT_TOKENS - count.tokens])

        with ExitStack() as stack:
            for count in counts:
                stack.enter_context(watching(model, count.site.place, partial(take, count)))
            captured = stack.enter_context(_up_to(model, sites[-1]))
            for batch, mask in batches:
                if has_tokens(batch):
                    self.batches.append((batch, mask))
                    run_batch(captured, model, batch, "model")
                    if min(count.tokens for count in counts) >= PILOT_TOKENS:
                        break
        if not all(count.tokens for count in counts):
            raise InputError(f"{self._mask_name}: leaves no token; true marks the tokens to use")
        return counts

    def values(self, control: nn.Module, count: _Count) -> Tensor:
        """What a control gives at a place, ``[tokens, neurons]``."""
        parts: list[Tensor] = []
        left = count.tokens

        def take(x: Tensor) -> None:
            nonlocal left
            parts.append(self._kept(x, self.batches[len(parts)])[:left].clone())
            left -= len(parts[-1])

        with watching(control, count.site.place, take), _up_to(control, count.site) as captured:
            for batch, _ in self.batches:
                run_batch(captured, control, batch, "control")
        with PlainState():
            return torch.cat(parts)

    def shift_in_one_pass(self, control: nn.Module, counts: Sequence[_Count]) -> None:
        """Shifts each layer as soon as its values on all of the pilot are there."""
        (pair,) = self.batches

        def shift(count: _Count, x: Tensor) -> Tensor:
            shift = _shift(self._kept(x, pair)[: count.tokens], count)
            add_shifts(control, {count.site.place: shift})  # which is not called in this pass
            return shifted(x, shift)

        with ExitStack() as stack:
            for count in counts:
                stack.enter_context(replacing(control, count.site.place, partial(shift, count)))
            captured = stack.enter_context(_up_to(control, counts[-1].site))
            run_batch(captured, control, pair[0], "control")

    @in_plain_state
    def _kept(self, x: Tensor, pair: Batch) -> Tensor:
        """``[tokens, neurons]``, of the tokens that count."""
        x = plain_tensor(x, "hooks: a layer whose rates are matched")
        rows = x.reshape(-1, x.shape[-1])
        if pair[1] is None:
            return rows
        return rows[open_mask(pair[1], tuple(x.shape[:-1]), self._mask_name).to(x.device)]


@contextmanager
def _up_to(model: nn.Module, site: RateSite) -> Iterator[Captured]:
    """Runs end at this site, which the search for sites has seen to be called once."""
    with capture(model, site.layer, axis=-1) as captured:  # where shifts are
        captured.end_early()
        yield captured


@in_plain_state
def _shift(values: Tensor, count: _Count) -> Tensor:
    """The shifts ``[neurons]`` of values ``[tokens, neurons]`` of a control."""
    if not bool(values.isfinite().all()):
        raise InputError(
            f"control: gives values that are not finite at layer {count.site.layer!r}; use another"
            " seed or dtype, or make plain controls (match_rate=False)"
        )
    dtype = torch.promote_types(values.dtype, torch.float32)
    blocks = range(0, values.shape[1], _BLOCK)
    return torch.cat(
        [
            -_threshold(
                values[:, i : i + _BLOCK].T.to(dtype).sort(dim=1, descending=True).values,
                count.above[i : i + _BLOCK],
                count.dead[i : i + _BLOCK],
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
