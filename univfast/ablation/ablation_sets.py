"""The sets of neurons that are taken out: flagged ones, random ones beside them, single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.ablation.activity import Activity
from univfast.ablation.alike import draw_alike
from univfast.ablation.choosing import Chosen
from univfast.ablation.replacing import Replaced
from univfast.errors import InputError
from univfast.machine.torch_state import in_plain_state

__all__ = ["Likeness", "Planned", "likeness", "plan", "sets_of"]


@dataclass(frozen=True)
class Likeness:
    """How alike the activity of flagged and of random neurons is: means over neurons.

    Attributes:
        active: share of active tokens of the flagged ones.
        std: their standard deviation.
        random_active, random_std: those of all random sets; None where there are none.
        distinct: how many neurons the random sets have between them.
    """

    active: float
    std: float
    random_active: float | None
    random_std: float | None
    distinct: int


@dataclass(frozen=True)
class Planned:
    """Neurons that are taken out together, by layer, and the random sets beside them."""

    flagged: dict[str, Tensor]
    random: list[dict[str, Tensor]]
    candidates: dict[str, int]


@in_plain_state
def plan(
    chosen: Chosen, activities: Mapping[str, Activity], repeats: int, seed: int
) -> list[Planned]:
    """Each layer by itself, and behind them all together, if they are several.

    Args:
        chosen: the neurons.
        activities: of each of their layers.
        repeats: random sets of each; all together have those of each layer.
        seed: of the random sets.

    Raises:
        InputError: a layer is of another width than the model's, or has no such neuron.
    """
    groups = []
    for layer, flagged in chosen.flagged.items():
        activity = activities[layer]
        width = chosen.widths.get(layer)
        if width is not None and width != activity.neurons:
            raise InputError(
                f"neurons: layer {layer!r} has {width} neurons in the result, and"
                f" {activity.neurons} in the model; give the model that the result is of"
            )
        if int(flagged.max()) >= activity.neurons:
            raise InputError(
                f"neurons: layer {layer!r} has {activity.neurons} neurons, numbered from 0, and"
                f" none of number {int(flagged.max())}; check the numbers"
            )
        free = activity.live.clone()
        free[chosen.apart[layer]] = False
        candidates = free.nonzero().flatten()
        random = draw_alike(
            flagged,
            candidates,
            activity.active,
            activity.std,
            repeats,
            seed,
            layer,
        )
        groups.append(
            Planned({layer: flagged}, [{layer: x} for x in random], {layer: len(candidates)})
        )
    if len(groups) > 1:
        sets = zip(*(group.random for group in groups), strict=False)
        groups.append(
            Planned(
                chosen.flagged,
                [{k: v for each in parts for k, v in each.items()} for parts in sets],
                {k: v for group in groups for k, v in group.candidates.items()},
            )
        )
    return groups


@in_plain_state
def sets_of(
    groups: Sequence[Planned],
    singles: Sequence[tuple[str, int, float | None]],
    activities: Mapping[str, Activity],
) -> list[Replaced]:
    """All sets with what they are set to: of each group its own and random ones; then singles."""
    sets = [one for group in groups for one in (group.flagged, *group.random)]
    sets += [
        {layer: torch.tensor([number], dtype=torch.int64, device="cpu")}
        for layer, number, _ in singles
    ]
    return [
        {layer: (numbers, activities[layer].mean[numbers]) for layer, numbers in one.items()}
        for one in sets
    ]


@in_plain_state
def likeness(planned: Planned, activities: Mapping[str, Activity]) -> Likeness:
    """How alike the activity of flagged and random neurons is."""

    def mean(number: str, sets: Sequence[Mapping[str, Tensor]]) -> float | None:
        values = [
            getattr(activities[layer], number)[neurons]
            for one in sets
            for layer, neurons in one.items()
        ]
        return float(torch.cat(values).mean()) if values else None

    distinct = {
        (layer, number)
        for one in planned.random
        for layer, neurons in one.items()
        for number in neurons.tolist()
    }
    return Likeness(
        active=mean("active", [planned.flagged]) or 0.0,
        std=mean("std", [planned.flagged]) or 0.0,
        random_active=mean("active", planned.random),
        random_std=mean("std", planned.random),
        distinct=len(distinct),
    )
