"""Of each neuron the tokens where it is farthest from its mean, streamed; beside it the moments.

State of a few lists a neuron, whatever the number of tokens; it does not depend on how these are
cut into batches, nor on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine.devices import CPU
from univfast.sums.batches import bad_value, readable
from univfast.sums.states import check_count, check_fields, check_tensor

__all__ = ["EXTREMES", "Extremes", "extremes_bytes"]

EXTREMES = 8
"""Tokens that are listed of each neuron, above its mean and below."""

# Values that are ranked at a time: bounds what the ranking takes beside the lists.
_RANKED = 1 << 22
_PLACES = (1 << 31) - 1  # of a value's place in its batch, in the lower half of its key


class _Highest:
    """The highest values of each neuron and their tokens; of equal ones the first tokens."""

    def __init__(self, neurons: int) -> None:
        shape = EXTREMES, neurons
        self.value = torch.full(shape, -torch.inf, dtype=torch.float32, device="cpu")
        self.token = torch.full(shape, -1, dtype=torch.int64, device="cpu")

    def take(self, x: Tensor, tokens: Tensor, first: int) -> None:
        """Takes in ``x`` ``[tokens, width]`` of the neurons from ``first`` on."""
        last = slice(first, first + x.shape[1])
        peak, least = _rounded(x.amax(dim=0)), self.value[-1, last]
        earlier = (peak == least) & (self.token[-1, last] > tokens[0])
        wanted = ((peak > least) | earlier).nonzero()[:, 0]
        for some in torch.split(wanted, max(1, _RANKED // len(x))):
            values = _rounded(x if len(some) == x.shape[1] else x[:, some])
            rows = _first_highest(values)
            self._merge(first + some, values.gather(0, rows), tokens[rows])

    def merge(self, other: _Highest) -> None:
        """Takes in other tokens of all neurons."""
        self._merge(slice(None), other.value, other.token)

    def _merge(self, neurons: Tensor | slice, value: Tensor, token: Tensor) -> None:
        value = torch.cat([self.value[:, neurons], value])
        token = torch.cat([self.token[:, neurons], token])
        order = token.argsort(dim=0, stable=True)
        order = order.gather(0, value.gather(0, order).argsort(dim=0, stable=True, descending=True))
        order = order[:EXTREMES]
        self.value[:, neurons] = value.gather(0, order)
        self.token[:, neurons] = token.gather(0, order)


def _rounded(x: Tensor) -> Tensor:
    """As float32, which is enough to rank by; nothing becomes infinite, and -0 is 0."""
    most = torch.finfo(torch.float32).max
    return (x.clamp(-most, most) if x.dtype == torch.float64 else x).float() + 0.0


def _first_highest(values: Tensor) -> Tensor:
    """Rows of the highest of each column ``[tokens, columns]``, of equal ones the first."""
    bits = values.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    places = torch.arange(len(values), dtype=torch.int64, device="cpu")[:, None]
    keys = (ordered << 31) + (_PLACES - places)
    highest = keys.topk(min(EXTREMES, len(values)), dim=0, sorted=False).values
    return _PLACES - (highest & _PLACES)


class Extremes:
    """Mean, variance and the farthest tokens of one model's neurons.

    Args:
        layout: its layers.
        threads: at most this many.

    Attributes:
        tokens: that came.
        mean, m2: float64 ``[neurons]``, the second moment about the mean.
    """

    def __init__(self, layout: Layout, threads: int) -> None:
        self._layout, self._threads = layout, threads
        self.tokens = 0
        self.mean, self.m2 = torch.zeros(2, layout.neurons, dtype=torch.float64, device="cpu")
        self._high, self._low = _Highest(layout.neurons), _Highest(layout.neurons)

    def update(self, layers: Sequence[Tensor], tokens: Tensor, model: str) -> None:
        """Takes in the tokens ``[tokens, width]`` of each layer, by their numbers, increasing.

        Raises:
            InputError: a NaN or infinity, named by ``model``, layer, token and neuron.
        """
        if len(tokens) == 0:
            return
        for part, name, layer in zip(self._layout.slices, self._layout.names, layers, strict=True):
            x = readable(layer, CPU)
            moments = native.neuron_moments(x, self._threads)
            if isinstance(moments, native.BadValue):
                raise bad_value(moments, model, name, int(tokens[moments.token]))
            self._add(part, moments[0], moments[1], len(tokens))
            self._high.take(x, tokens, part.start)
            self._low.take(-x, tokens, part.start)
        self.tokens += len(tokens)

    def _add(self, part: slice, mean: Tensor, m2: Tensor, tokens: int) -> None:
        """The pairwise update of Chan, Golub and LeVeque (1983)."""
        total = self.tokens + tokens
        delta = mean - self.mean[part]
        self.m2[part] += m2 + self.tokens * (tokens / total) * delta * delta
        self.mean[part] += delta * (tokens / total)

    def merge(self, other: Extremes) -> None:
        """Takes in other tokens of the same model."""
        if other.tokens == 0:
            return
        self._add(slice(None), other.mean, other.m2, other.tokens)
        self.tokens += other.tokens
        self._high.merge(other._high)
        self._low.merge(other._low)

    def farthest(self) -> tuple[Tensor, Tensor]:
        """Of each neuron the tokens farthest from its mean, farthest first.

        Returns:
            Their numbers, int64 ``[EXTREMES, neurons]``, -1 for none; and how far they are, in
            standard deviations, float64, 0 for none and for a constant.
        """
        away = torch.cat([self._high.value.double() - self.mean, self._low.value + self.mean])
        token = torch.cat([self._high.token, self._low.token])
        deviation = (self.m2 / max(self.tokens, 1)).sqrt()
        away = torch.where((token >= 0) & (deviation > 0), away / deviation, 0.0).clamp(min=0)
        order = away.argsort(dim=0, stable=True, descending=True)[:EXTREMES]
        return token.gather(0, order), away.gather(0, order)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, not copied."""
        return {
            "mean": self.mean,
            "m2": self.m2,
            **{
                f"{name}_{what}": tensor
                for name, side in (("high", self._high), ("low", self._low))
                for what, tensor in (("value", side.value), ("token", side.token))
            },
        }

    def saved_state(self) -> dict[str, Any]:
        """Plain values and tensors, not copied; for `load_saved`."""
        return {"tokens": self.tokens, **self.tensors()}

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """Replaces the state by one that `saved_state` gave.

        Raises:
            InputError: it is none of such layers.
        """
        own = self.tensors()
        found = check_fields("extremes", state, ("tokens", *own))
        tokens = check_count("tokens", found["tokens"])
        new = {name: check_tensor(name, found[name], x.shape, x.dtype) for name, x in own.items()}
        for name, tensor in own.items():
            tensor.copy_(new[name])
        self.tokens = tokens

    def reset(self) -> None:
        """Forgets every token."""
        self.load_saved(Extremes(self._layout, self._threads).saved_state())


def extremes_bytes(layout: Layout) -> int:
    """That the state of a model takes, and its merging."""
    return layout.neurons * (16 + 2 * EXTREMES * 12) * 2
