"""What a model loses without some neurons: numbers, files and sentences."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from univfast.ablation.ablation_sets import Likeness
from univfast.ablation.effects import Effect, Interval
from univfast.machine.files import make_directory, write_together

__all__ = ["AblationResult", "Group", "Single"]

_FORMAT, _VERSION = "univfast-ablation", 1
_FEW_DOCUMENTS = 8

Finding = Literal["more", "less", "no difference", "no rise", "not compared", "unknown"]


@dataclass(frozen=True)
class Group:
    """Neurons of a layer, or of all, that are taken out together.

    Attributes:
        layers: their names.
        sites: of each, where in the model its neurons are.
        neurons: their numbers, by layer.
        candidates: how many neurons random sets are drawn from, by layer.
        effect: without these neurons.
        drawn: the numbers of each random set, by layer; empty where there are none.
        random: without those of each random set; empty where there are none.
        random_mean: the mean of these; None without.
        difference: the effect without these neurons less that mean; None without.
        likeness: how alike the activity of both is.
    """

    layers: list[str]
    sites: list[str]
    neurons: dict[str, list[int]]
    candidates: dict[str, int]
    effect: Effect
    drawn: list[dict[str, list[int]]]
    random: list[Effect]
    random_mean: Effect | None
    difference: Effect | None
    likeness: Likeness

    @property
    def count(self) -> int:
        """How many neurons they are."""
        return sum(map(len, self.neurons.values()))

    @property
    def lacking(self) -> list[str]:
        """Layers with fewer candidates than neurons, so that no random set can be drawn."""
        return [x for x in self.layers if self.candidates[x] < len(self.neurons[x])]

    @property
    def above(self) -> int:
        """Random sets without which the loss rises as much, or more."""
        return sum(one.loss.mean >= self.effect.loss.mean for one in self.random)

    @property
    def finding(self) -> Finding:
        """Whether these neurons matter more than random ones.

        More: without them the loss rises, more than without any of the random sets, and than
        without these on average. Less: without random ones it rises, without each set more than
        without these neurons, and on average. A mean rises, or is more than another, where the
        interval of the rise, or of the difference, is above 0.
        """
        if self.difference is None or self.random_mean is None:
            return "not compared"
        difference, rise = self.difference.loss, self.effect.loss
        if math.isnan(difference.low):
            return "unknown"
        below = sum(one.loss.mean <= rise.mean for one in self.random)
        if difference.high < 0 and not below and self.random_mean.loss.low > 0:
            return "less"
        if rise.low <= 0:
            return "no rise"
        return "more" if difference.low > 0 and not self.above else "no difference"


@dataclass(frozen=True)
class Single:
    """A neuron that is taken out alone.

    Attributes:
        layer: its name.
        neuron: its number there.
        excess: of the result; None where there is none.
        effect: without it.
    """

    layer: str
    neuron: int
    excess: float | None
    effect: Effect


@dataclass(frozen=True)
class AblationResult:
    """What a language model loses without some neurons.

    Attributes:
        model: its name.
        word: what the neurons are: ``"universal"``, ``"learned"`` or ``"chosen"``.
        documents: samples with tokens that are predicted.
        tokens: that are predicted.
        mean_tokens: those that means, and activity, are of.
        loss: the mean cross-entropy of the whole model, in nats a token.
        groups: a layer each; behind them all layers together, where there are several.
        singles: neurons one at a time.
        settings: what was asked for.
    """

    model: str
    word: str
    documents: int
    tokens: int
    mean_tokens: int
    loss: Interval
    groups: list[Group]
    singles: list[Single]
    settings: dict[str, Any] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Whether the neurons matter: a sentence a layer, and one of all layers together."""
        found = [self._sentence(group) for group in self.groups]
        if self.documents < 2:
            found.append("Of a single document there are no intervals.")
        elif self.documents < _FEW_DOCUMENTS:
            found.append(f"Intervals are of {self.documents} documents only, and as uncertain.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """What ``ablation.json`` holds, as plain values; None for what is not known."""
        import univfast

        groups = [self._group(group) for group in self.groups]
        several = len(groups) > 1
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "univfast": univfast.__version__,
            "model": self.model,
            "neurons": self.word,
            "documents": self.documents,
            "tokens": self.tokens,
            "mean_tokens": self.mean_tokens,
            "settings": self.settings,
            "loss": _plain(self.loss),
            "layers": groups[:-1] if several else groups,
            "all_layers": groups[-1] if several else None,
            "single_neurons": [
                {
                    "layer": one.layer,
                    "neuron": one.neuron,
                    "excess": _number(one.excess),
                    **_effect(one.effect),
                }
                for one in self.singles
            ],
            "sentences": self.sentences(),
        }

    def to_json(self) -> str:
        """``ablation.json``, indented."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def columns(self) -> dict[str, list[Any]]:
        """The table ``ablation.csv``, as a list a column; a row is one set of neurons.

        ``set`` is ``whole`` (the loss itself), ``flagged``, ``random 1``, ..., ``random mean``,
        ``difference``, or ``single``; the layer of all together is empty.
        """
        rows: list[list[Any]] = [["whole", "", -1, 0, math.nan, *_ends(self.loss), *[math.nan] * 3]]
        for group in self.groups:
            layer = group.layers[0] if len(group.layers) == 1 else ""
            named: list[tuple[str, Effect | None]] = [("flagged", group.effect)]
            named += [(f"random {i}", one) for i, one in enumerate(group.random, start=1)]
            named += [("random mean", group.random_mean), ("difference", group.difference)]
            rows += [
                [name, layer, -1, group.count, math.nan, *_ends(one.loss), *_ends(one.kl)]
                for name, one in named
                if one is not None
            ]
        for single in self.singles:
            excess = math.nan if single.excess is None else single.excess
            ends = (*_ends(single.effect.loss), *_ends(single.effect.kl))
            rows.append(["single", single.layer, single.neuron, 1, excess, *ends])
        head = ["set", "layer", "neuron", "neurons", "excess", "loss", "loss_low", "loss_high"]
        head += ["kl", "kl_low", "kl_high"]
        return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``ablation.json`` and ``ablation.csv``, both or none.

        Raises:
            InputError: the directory cannot be made or written to.
        """
        from univfast.report.tables import csv_bytes  # above: it is needed here alone

        folder = make_directory(directory)
        columns = self.columns()
        write_together(
            {
                Path(folder) / "ablation.json": self.to_json().encode(),
                Path(folder) / "ablation.csv": csv_bytes([*columns], [[*columns.values()]]),
            }
        )

    def _sentence(self, group: Group) -> str:
        count, several = group.count, len(group.layers) > 1
        which = "neuron" if count == 1 else "neurons"
        where = f"the {len(group.layers)} layers together" if several else group.layers[0]
        without = f"Without the {count} {self.word} {which} of {where}"
        head = f"{without} the loss {_moved(group.effect.loss)}"
        if group.difference is None or group.random_mean is None:
            return f"{head} nats a token. {self._not_compared(group)}"
        others = "another" if count == 1 else "as many others"
        sets = "one random set" if len(group.random) == 1 else f"{len(group.random)} random sets"
        beside = f"without {others} of like activity it {_moved(group.random_mean.loss)}"
        return f"{head} nats a token; {beside}, the mean of {sets}. {_found(group)}"

    def _not_compared(self, group: Group) -> str:
        if not group.lacking:
            them = "it" if group.count == 1 else "them"
            return f"No random neurons were taken out beside {them}."
        layer = group.lacking[0]
        apart = "among them" if self.word == "chosen" else "universal"
        return (
            f"Not compared with random neurons: {layer} has {group.candidates[layer]} that are live"
            f" and not {apart}, too few to draw {len(group.neurons[layer])} from."
        )

    def _group(self, group: Group) -> dict[str, Any]:
        several = len(group.layers) > 1
        likeness = group.likeness
        return {
            "layer": None if several else group.layers[0],
            "site": None if several else group.sites[0],
            "neurons": None if several else group.neurons[group.layers[0]],
            "count": group.count,
            "candidates": sum(group.candidates.values()),
            "flagged": _effect(group.effect),
            "random": [
                {"neurons": drawn, **_effect(one)}
                for drawn, one in zip(group.drawn, group.random, strict=True)
            ],
            "random_mean": None if group.random_mean is None else _effect(group.random_mean),
            "difference": None if group.difference is None else _effect(group.difference),
            "random_at_or_above": group.above if group.random else None,
            "finding": group.finding,
            "activity": {
                "active": _number(likeness.active),
                "std": _number(likeness.std),
                "random_active": _number(likeness.random_active),
                "random_std": _number(likeness.random_std),
                "random_distinct": likeness.distinct,
            },
        }


def _found(group: Group) -> str:
    """What follows, in a few words."""
    number = len(group.random)
    it, whether = (
        ("It matters", "it matters") if group.count == 1 else ("They matter", "they matter")
    )
    if group.finding == "more":
        return f"{it} more than others."
    if group.finding == "less":
        return f"{it} less than others."
    if group.finding == "no rise":
        them = "it" if group.count == 1 else "them"
        return f"The loss does not clearly rise without {them}."
    if group.finding == "unknown":
        return f"Whether {whether} more cannot be said."
    tied = f": it is as much or more without {group.above} of {number} sets" if group.above else ""
    return f"That is no clear difference{tied}."


def _moved(change: Interval) -> str:
    """How a loss changes, as in ``rises by 0.31``."""
    sign = -1 if change.mean < 0 else 1
    low, high = sorted((sign * change.low, sign * change.high))
    ends = "" if math.isnan(low) else f" [{_rounded(low)}, {_rounded(high)}]"
    return f"{'falls' if sign < 0 else 'rises'} by {_rounded(abs(change.mean))}{ends}"


def _rounded(value: float) -> str:
    return f"{value + 0.0:.3g}"  # and never -0


def _effect(effect: Effect) -> dict[str, Any]:
    return {"loss": _plain(effect.loss), "kl": _plain(effect.kl)}


def _plain(interval: Interval) -> dict[str, float | None]:
    names: Sequence[str] = ("mean", "low", "high")
    return {name: _number(x) for name, x in zip(names, _ends(interval), strict=True)}


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
