"""Of each neuron the tokens where it is farthest from its mean, streamed; beside it the moments.

State of a few lists a neuron, whatever the number of tokens; it does not depend on how these are
cut into batches, nor on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class _List(NamedTuple):
    """The highest values of each neuron and their tokens, highest first; of equal ones the first.

    ``value`` float32, ``token`` int64, both ``[neurons, EXTREMES]``; -inf and -1 for none.
    """

    value: Tensor
    token: Tensor

    @staticmethod
    def none(neurons: int) -> _List:
        shape = neurons, EXTREMES
        return _List(
            torch.full(shape, -torch.inf, dtype=torch.float32, device="cpu"),
            torch.full(shape, -1, dtype=torch.int64, device="cpu"),
        )

    def merge(self, other: _List) -> None:
        """Takes in other tokens of all neurons."""
        value, token = (torch.cat(pair, dim=1) for pair in zip(self, other, strict=True))
        order = token.argsort(dim=1, stable=True)
        order = order.gather(1, value.gather(1, order).argsort(dim=1, stable=True, descending=True))
        order = order[:, :EXTREMES]
        self.value.copy_(value.gather(1, order))
        self.token.copy_(token.gather(1, order))


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
        self._high, self._low = (_List.none(layout.neurons) for _ in range(2))  # and of negated

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
            if x.dtype == torch.float64:  # ranked as float32, of which none becomes infinite
                most = torch.finfo(torch.float32).max
                x = x.clamp(-most, most).float()
            high, low = ((each.value[part], each.token[part]) for each in (self._high, self._low))
            native.extreme_tokens(x, tokens, high, low, self._threads)
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
        away = torch.cat([self._high.value.T - self.mean, self._low.value.T + self.mean])
        token = torch.cat([self._high.token.T, self._low.token.T])
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
