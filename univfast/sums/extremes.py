"""Of each neuron the tokens where it is farthest from its mean, streamed; beside it the moments.

State of a few lists a neuron, whatever the number of tokens; it does not depend on how these are
cut into batches, nor on their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine.devices import CPU
from univfast.native.place import numbers
from univfast.sums.batches import bad_value, readable
from univfast.sums.states import check_count, check_fields, check_tensor

__all__ = ["EXTREMES", "Extremes", "extremes_bytes"]

EXTREMES = 8
"""Tokens that are listed of each neuron, above its mean and below."""

# Tokens that are looked at first. Then as many as before at a time: of each neuron few of them are
# beyond what is listed, and those alone are ranked.
_FIRST = 16


class _Farthest:
    """The highest values of each neuron, or the lowest, and their tokens; of equal ones the first.

    Args:
        neurons: how many.
        sign: 1 for the highest, -1 for the lowest, whose values are listed negated.
    """

    def __init__(self, neurons: int, sign: int) -> None:
        shape = EXTREMES, neurons
        self._sign = sign
        self.value = torch.full(shape, -torch.inf, dtype=torch.float32, device="cpu")
        self.token = torch.full(shape, -1, dtype=torch.int64, device="cpu")

    def take(self, x: Tensor, tokens: Tensor, first: int) -> None:
        """Takes in ``x`` ``[tokens, width]`` of the neurons from ``first`` on."""
        own = slice(first, first + x.shape[1])
        least = (self._sign * self.value[-1, own]).to(x.dtype)
        beyond = x > least if self._sign > 0 else x < least
        later = self.token[-1, own] > tokens[0]
        if bool(later.any()):
            beyond |= (x == least) & later
        row, column = beyond.nonzero(as_tuple=True)
        if len(row):
            self._rank(first + column, self._sign * x[row, column].float() + 0.0, tokens[row])

    def merge(self, other: _Farthest) -> None:
        """Takes in other tokens of all neurons."""
        rank, neuron = (other.token >= 0).nonzero(as_tuple=True)
        self._rank(neuron, other.value[rank, neuron], other.token[rank, neuron])

    def _rank(self, neuron: Tensor, value: Tensor, token: Tensor) -> None:
        """Takes in values of some neurons."""
        touched = torch.zeros(self.token.shape[1], dtype=torch.bool, device="cpu")
        touched[neuron] = True
        changed = touched.nonzero()[:, 0]
        value = torch.cat([self.value[:, changed].flatten(), value])
        token = torch.cat([self.token[:, changed].flatten(), token])
        neuron = torch.cat([changed.repeat(EXTREMES), neuron])
        order = token.argsort(stable=True)
        value, token, neuron = value[order], token[order], neuron[order]
        bits = value.view(torch.int32)
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
        order = ((neuron << 33) - ordered).argsort(stable=True)
        value, token, neuron = value[order], token[order], neuron[order]
        rank = numbers(len(order)) - torch.searchsorted(neuron, neuron)
        kept = rank < EXTREMES
        self.value[rank[kept], neuron[kept]] = value[kept]
        self.token[rank[kept], neuron[kept]] = token[kept]


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
        self._high, self._low = _Farthest(layout.neurons, 1), _Farthest(layout.neurons, -1)

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
            for start, stop in _doubling(self.tokens, len(x)):
                for side in (self._high, self._low):
                    side.take(x[start:stop], tokens[start:stop], part.start)
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


def _doubling(before: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Runs of tokens, each no longer than all before it."""
    start = 0
    while start < tokens:
        stop = min(tokens, start + max(_FIRST, before + start))
        yield start, stop
        start = stop


def extremes_bytes(layout: Layout) -> int:
    """That the state of a model takes, and its merging."""
    return layout.neurons * (16 + 2 * EXTREMES * 12) * 2
