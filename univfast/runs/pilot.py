"""Controls looked at on the first tokens: do they live, and are they as active as their models?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Activations, Layer
from univfast.machine.torch_state import methods_in_plain_state
from univfast.runs.comparisons import Lineup
from univfast.runs.passes import LEAST_TOKENS, aligned, at_least, opened

__all__ = ["PILOT_TOKENS", "Activity", "Meter", "check_controls"]

PILOT_TOKENS = 16_384
"""That activity is measured on, at most."""

_LEAST_LIVE = 0.5  # of the live neurons of its model, that a control must have
_FEW = 30  # tokens, on which a share rests too loosely to compare
_MOST_APART = 2.0  # of median shares of active tokens, without a warning


@methods_in_plain_state
class Meter:
    """How active a model's neurons are on the first tokens.

    Args:
        name: of the model.
        most: tokens to take in, those that masks leave out too; None for all.
    """

    def __init__(self, name: str, most: int | None = None) -> None:
        self.name = name
        self.tokens, self._most = 0, most
        self._layers: list[list[Tensor]] = []  # active, lowest and highest, of each layer

    def add(self, layers: Sequence[Tensor], keep: Tensor | None = None) -> None:
        """Takes in tokens ``[tokens, neurons]`` of each layer; those beyond enough are passed over.

        ``keep`` is true for those that count.
        """
        left = PILOT_TOKENS - self.tokens
        if self.full:
            return
        if self._most is not None:
            layers, most = [x[: self._most] for x in layers], self._most - len(layers[0])
            keep = None if keep is None else keep[: self._most]
            self._most = max(0, most)
        chosen = slice(left) if keep is None else keep.nonzero()[:left, 0]
        rows = [x[chosen if keep is None else chosen.to(x.device)] for x in layers]  # type: ignore[union-attr]
        if not len(rows[0]):
            return
        found = [[(x > 0).sum(dim=0), x.amin(dim=0), x.amax(dim=0)] for x in rows]
        if self._layers:
            for own, new in zip(self._layers, found, strict=True):
                own[0] += new[0]
                torch.minimum(own[1], new[1], out=own[1])
                torch.maximum(own[2], new[2], out=own[2])
        else:
            self._layers = found
        self.tokens += len(rows[0])

    @property
    def full(self) -> bool:
        """Whether more tokens are passed over."""
        return self.tokens >= PILOT_TOKENS or self._most == 0

    def gave_the_same(self, other: Meter) -> bool:
        """Whether both took in the same values, so far as is known of them."""
        own, theirs = ([x for layer in m._layers for x in layer] for m in (self, other))
        alike = self.tokens == other.tokens and len(own) == len(theirs)
        return alike and all(x.equal(y.to(x.device)) for x, y in zip(own, theirs, strict=True))

    @property
    def live(self) -> int:
        """Neurons that are not constant."""
        return sum(int((low != high).sum()) for _, low, high in self._layers)

    @property
    def median(self) -> float:
        """Over live neurons, of the share of tokens above 0; 0 where there are none."""
        shares = [
            (active[low != high].double() / self.tokens).cpu() for active, low, high in self._layers
        ]
        together = (
            torch.cat(shares) if shares else torch.empty(0, dtype=torch.float32, device="cpu")
        )
        return float(together.median()) if len(together) else 0.0


@methods_in_plain_state
class Activity:
    """How active models are, and their controls.

    Args:
        models: A, and B or several others.
    """

    def __init__(self, models: Sequence[Meter]) -> None:
        self._models = models
        self._medians: list[list[float]] = [[] for _ in models]
        self._warnings: list[str] = []

    def add(self, control: Meter, number: int) -> None:
        """Compares a control with the model that it stands for.

        Raises:
            InputError: it is the model, or has less than half of its live neurons.
        """
        model = self._models[number]
        if control.live and control.gave_the_same(model):
            raise InputError(
                f"{control.name}: has the activations of {model.name}, which is trained; give those"
                " of a network that learned nothing, as uf.control ('univfast control') makes it"
            )
        if control.live < _LEAST_LIVE * model.live:
            raise InputError(
                f"{control.name}: has {control.live} live neurons on the first tokens, {model.name}"
                f" has {model.live}; a control with under half of them is none: make it with"
                " match_rate=True"
            )
        low, high = sorted((control.median, model.median))
        if high > _MOST_APART * low and high * model.tokens >= _FEW:
            self._warnings.append(
                f"{control.name}: its median neuron is active on {control.median:.1%} of tokens,"
                f" that of {model.name} on {model.median:.1%}; make controls with"
                " match_rate=True"
            )
        self._medians[number].append(control.median)

    def summary(self) -> dict[str, Any]:
        """Medians over live neurons of the share of tokens above 0, and warnings."""
        return {
            "active": [model.median for model in self._models],
            "active_in_controls": self._medians,
            "warnings": self._warnings,
        }


def check_controls(lineup: Lineup, keep: Tensor | None) -> Activity:
    """Compares each control with its model on the first tokens.

    Raises:
        InputError: a control is its model, or has less than half of its live neurons.
    """
    tokens = lineup.rounds[-1].tokens

    def measured(number: int) -> Meter:
        return _measured(lineup.models[number], lineup.layers[number], tokens, keep)

    activity = Activity([measured(i) for i in range(len(lineup.rounds[0].real) + 1)])
    for one in lineup.rounds[1:]:
        if one.a:
            activity.add(measured(one.a[0].first), 0)
        for i, comparison in enumerate(one.b, start=1):
            activity.add(measured(comparison.second), i)
    return activity


def _measured(
    model: Activations, layers: Sequence[Layer], tokens: int, keep: Tensor | None
) -> Meter:
    meter = Meter(model.name)
    with opened([model]):
        step = aligned(at_least(LEAST_TOKENS, layers), [model])
        for first in range(0, tokens, step):
            if meter.full:
                break
            part = first, min(first + step, tokens)
            here = None if keep is None else keep[slice(*part)]
            meter.add([layer.read(*part) for layer in layers], here)
            for layer in layers:
                layer.release(*part)
    return meter
