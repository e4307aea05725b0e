"""The tokens that a screen looks at: half drawn evenly, half where rare neurons are active.

What the second half holds is chosen by the neurons themselves: each that the first half hardly sees
names the few tokens where it is farthest from its mean, and those tokens are taken that serve most
of them. So a pair of neurons that fires at one token in ten thousand is in the sample together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from univfast.inputs.layers import Activations, Layer
from univfast.inputs.layout import Layout
from univfast.machine.devices import thread_count
from univfast.machine.processes import Processes
from univfast.native.place import numbers
from univfast.nulls.matrices import layer_seed
from univfast.runs.passes import LEAST_TOKENS, READ_BYTES, Range, aligned, opened, prepare
from univfast.search.saved import check_number
from univfast.sums.extremes import EXTREMES, Extremes

__all__ = ["FEW", "Sample", "SamplePass", "choose", "first_tokens", "gather"]

FEW = 8.0
"""Tokens that a neuron should rest on in a sample; below, its match may be missed."""

# Tokens that a neuron should rest on in the even half, so as to ask for none of the other; but not
# more than this share of it, which those that fire all the time rest on.
_ENOUGH = 64.0
_SHARE = 1 / 16
# A token this much nearer to the mean than the farthest one is none that a neuron fires at.
_NEAR = 0.25
# What a token is worth to a neuron for each that serves it already.
_SERVED = 0.5
# Tokens are taken in so many rounds: each looks anew at what those before have not served.
_ROUNDS = 32
_STEPS = 256  # of a neuron's need: coarse, lest its last bits decide
_KEPT = 1 << 24  # tokens of a mask that are looked at together


class Sample(NamedTuple):
    """Tokens of a run; those that were drawn evenly first, each part in increasing order.

    ``tokens`` int64; ``even`` is how many were drawn evenly, a fair sample of all. ``variances``
    are those of each model's neurons over all tokens, float64 ``[neurons]``; of none where the
    sample is all that is looked at.
    """

    tokens: Tensor
    even: int
    variances: list[Tensor]

    def plain(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        return self._asdict()


def first_tokens(number: int, keep: Tensor | None) -> Sample:
    """The first so many tokens, those of them that are used: all of them count as drawn evenly."""
    tokens = numbers(number)
    tokens = tokens if keep is None else tokens[keep[:number].cpu()]
    return Sample(tokens, len(tokens), [])


def choose(
    models: Sequence[Extremes], tokens: int, keep: Tensor | None, number: int, seed: int
) -> Sample:
    """Chooses so many tokens; all where there are no more.

    Args:
        models: what their neurons ask for.
        tokens: of the run.
        keep: true for those that are used; None for all.
        number: to choose.
        seed: of what is drawn.
    """
    kept = tokens if keep is None else int(keep.sum())
    variances = [model.m2 / max(model.tokens, 1) for model in models]
    if kept <= number:
        return first_tokens(tokens, keep)._replace(variances=variances)
    generator = np.random.Generator(np.random.Philox(key=layer_seed(seed, "screen")))
    drawn = generator.choice(kept, min(kept, 2 * number), replace=False)
    order = _used(torch.from_numpy(drawn), keep)
    half = number - number // 2
    more = _asked_for(models, order[:half], number - half)
    # What no neuron asks for is drawn evenly too, and so with those that are drawn and asked for.
    fills = ~torch.isin(order[half:], more)
    left = number - half - len(more)
    even = order[: half + (int(fills.nonzero()[left - 1]) + 1 if left else 0)]
    more = more[~torch.isin(more, even)]
    return Sample(torch.cat([even.sort().values, more.sort().values]), len(even), variances)


def _used(places: Tensor, keep: Tensor | None) -> Tensor:
    """The tokens at some places among those that are used."""
    if keep is None:
        return places
    found, before = torch.empty_like(places), 0
    for first in range(0, len(keep), _KEPT):
        here = keep[first : first + _KEPT].cpu().nonzero()[:, 0]
        inside = (places >= before) & (places < before + len(here))
        found[inside] = first + here[places[inside] - before]
        before += len(here)
    return found


def _asked_for(models: Sequence[Extremes], even: Tensor, number: int) -> Tensor:
    """Up to so many tokens that neurons ask for which are hardly seen in the even half."""
    listed = [_listed(model, len(even)) for model in models]
    # One number a neuron of any model.
    starts = [0, *accumulate(len(model.mean) for model in models)]
    token = torch.cat([x[0] for x in listed])
    need = torch.cat([x[1] for x in listed])
    neuron = torch.cat([x[2] + start for x, start in zip(listed, starts, strict=False)])
    known, place = torch.unique(token, return_inverse=True)
    there = torch.isin(known, even)
    chosen = torch.zeros_like(there)
    for turn in range(_ROUNDS):
        served = torch.bincount(neuron[(there | chosen)[place]], minlength=starts[-1])
        worth = torch.bincount(place, need * _SERVED ** served[neuron], minlength=len(known))
        worth[there | chosen] = 0.0
        left = number - int(chosen.sum())
        best = worth.argsort(stable=True, descending=True)[: -(-left // (_ROUNDS - turn))]
        chosen[best[worth[best] > 0]] = True
    asked: Tensor = known[chosen]
    return asked


def _listed(model: Extremes, even: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that neurons of a model ask for, how badly, and the neurons: one entry each."""
    token, away = model.farthest()
    # A neuron that fires at a share p of the tokens is 1 / sqrt(p) deviations away there: its
    # kurtosis, as far as the listed tokens make it, or the square of the last of them.
    kurtosis = away.pow(4).sum(dim=0) / max(model.tokens, 1)
    rests_on = even / torch.maximum(kurtosis, away[-1].square()).clamp(min=1.0)
    enough = min(_ENOUGH, _SHARE * even)
    need = (1 + rests_on).rsqrt() - (1 + enough) ** -0.5
    need = (need * _STEPS).round().clamp(min=0) / _STEPS
    asked = (need > 0) & (token >= 0) & (away > 0) & (away >= _NEAR * away[0])
    rank, neuron = asked.nonzero(as_tuple=True)
    # A neuron's farthest tokens come first where two serve as many.
    return token[asked], need[neuron] * (1 - rank.double() / (4 * EXTREMES)), neuron


class SamplePass:
    """Looks for the tokens that neurons of all models are farthest at.

    Args:
        models: that are read.
        layers: of each.
        tokens: of the run.
        threads: at most this many; None for torch's number.
        processes: those that share the work; None for this one alone.
    """

    def __init__(
        self,
        models: Sequence[Activations],
        layers: Sequence[Sequence[Layer]],
        threads: int | None,
        processes: Processes | None,
    ) -> None:
        self.models, self._layers, self._processes = models, layers, processes
        self._threads = thread_count(threads)
        self.extremes = self._none()
        row = sum(layer.neurons * layer.dtype.itemsize for layer in self._all())
        self.step = aligned(max(_least(row), READ_BYTES // row), models)

    def _none(self) -> list[Extremes]:
        return [Extremes(Layout.of(layers), self._threads) for layers in self._layers]

    def _all(self) -> list[Layer]:
        return [layer for layers in self._layers for layer in layers]

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        if following is not None:
            prepare(self._all(), following)
        tokens = numbers(*part)
        here = None if keep is None else keep[slice(*part)].cpu().nonzero()[:, 0]
        tokens = tokens if here is None else tokens[here]
        for model, layers, extremes in zip(self.models, self._layers, self.extremes, strict=True):
            read = [layer.read(*part) for layer in layers]
            if here is not None:
                read = [x[here.to(x.device)] for x in read]
            extremes.update(read, tokens, model.name)
        for layer in self._all():
            layer.release(*part)

    def states(self) -> list[dict[str, Any]]:
        return [one.saved_state() for one in self.extremes]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        check_number("models", states, len(self.extremes))
        for one, state in zip(self.extremes, states, strict=True):
            one.load_saved(state)

    def reduce(self) -> None:
        assert self._processes is not None
        found = self._processes.gather(self.states())
        self.extremes = self._none()
        if self._processes.rank:
            return
        for states in found:
            for one, layers, state in zip(self.extremes, self._layers, states, strict=True):
                other = Extremes(Layout.of(layers), self._threads)
                other.load_saved(state)
                one.merge(other)


def _least(row: int) -> int:
    """Tokens of a slice, at least: a call costs as much as some hundred of them of one neuron."""
    return max(1, min(LEAST_TOKENS, 4 * READ_BYTES // row))


def gather(model: Activations, layers: Sequence[Layer], tokens: Tensor) -> list[Tensor]:
    """The tokens of some layers, ``[tokens, width]`` each in its own dtype, in their order."""
    row = sum(layer.neurons * layer.dtype.itemsize for layer in layers)
    step = aligned(max(LEAST_TOKENS, READ_BYTES // row), [model])
    ordered, place = tokens.sort()
    found: list[Tensor] = []
    with opened([model]):
        for first in range(0, layers[0].tokens, step):
            part = first, min(first + step, layers[0].tokens)
            here = (ordered >= part[0]) & (ordered < part[1])
            if not bool(here.any()):
                continue  # what is mapped is read where it is wanted alone
            rows, into = ordered[here] - first, place[here]
            for i, layer in enumerate(layers):
                x = layer.read(*part)
                chosen = x[rows.to(x.device)].cpu()
                if len(found) == i:
                    shape = len(tokens), layer.neurons
                    found.append(torch.empty(shape, dtype=x.dtype, device="cpu"))
                found[i][into] = chosen
                layer.release(*part)
    return found
