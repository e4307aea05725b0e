"""Controls looked at before the work: do they live, and are they as active as their models?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Activations, Layer
from univfast.runs.comparisons import Lineup
from univfast.runs.passes import aligned, opened

__all__ = ["PILOT_TOKENS", "Activity", "check_controls"]

PILOT_TOKENS = 16_384
"""That activity is measured on, at most."""

_LEAST_LIVE = 0.5  # of the live neurons of its model, that a control must have
_MOST_APART = 2.0  # of median shares of active tokens, without a warning


@dataclass(frozen=True)
class Activity:
    """How active models and their controls are.

    Attributes:
        summary: medians over live neurons of the share of tokens above 0, and warnings.
    """

    summary: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    live: int
    median: float


def check_controls(lineup: Lineup, keep: Tensor | None) -> Activity:
    """Compares each control with its model on the first tokens.

    Raises:
        InputError: a control has less than half of the live neurons of its model.
    """
    tokens = min(PILOT_TOKENS, lineup.rounds[-1].tokens)
    real = len(lineup.rounds[0].real) + 1
    rounds = lineup.rounds[1:]
    pairs = [(one.a[0].first, 0) for one in rounds if one.a]
    pairs += [(x.second, i + 1) for one in rounds for i, x in enumerate(one.b)]
    measured = {
        i: _measure(model, lineup.layers[i], tokens, keep) for i, model in enumerate(lineup.models)
    }
    warnings: list[str] = []
    for control, model in pairs:
        name, theirs = lineup.models[control].name, lineup.models[model].name
        own, like = measured[control], measured[model]
        if own.live < _LEAST_LIVE * like.live:
            raise InputError(
                f"{name}: has {own.live} live neurons, {theirs} has {like.live} of them (on the"
                f" first {tokens} tokens); a control with under half is none, make it with"
                " match_rate (--match-rate)"
            )
        low, high = sorted((own.median, like.median))
        if high > _MOST_APART * low:
            warnings.append(
                f"{name}: its median neuron is active on {own.median:.1%} of tokens, that of"
                f" {theirs} on {like.median:.1%}; neurons that are active otherwise are no"
                " comparison: make controls with match_rate (--match-rate)"
            )
    return Activity(
        {
            "active": [measured[i].median for i in range(real)],
            "active_in_controls": [
                [measured[control].median for control, model in pairs if model == i]
                for i in range(real)
            ],
            "warnings": warnings,
        }
    )


def _measure(
    model: Activations, layers: Sequence[Layer], tokens: int, keep: Tensor | None
) -> _Found:
    """Live neurons, and the median over them of the share of tokens above 0."""
    with opened([model]):
        step = aligned(4096, [model])
        shares, live = [], []
        parts = [(first, min(first + step, tokens)) for first in range(0, tokens, step)]
        sums = [torch.zeros(4, layer.neurons, dtype=torch.float64) for layer in layers]
        count = 0
        for part in parts:
            here = None if keep is None else keep[slice(*part)]
            count += part[1] - part[0] if here is None else int(here.sum())
            for layer, found in zip(layers, sums, strict=True):
                rows = layer.read(*part)
                rows = rows if here is None else rows[here.to(rows.device)]
                if len(rows):
                    found[0] += (rows > 0).sum(dim=0).cpu()
                    low, high = rows.amin(dim=0).cpu(), rows.amax(dim=0).cpu()
                    first = found[3] == 0
                    found[1] = torch.where(first, low, torch.minimum(found[1], low))
                    found[2] = torch.where(first, high, torch.maximum(found[2], high))
                    found[3] += len(rows)
                layer.release(*part)
        for found in sums:
            live.append(found[1] != found[2])
            shares.append(found[0] / max(count, 1))
    alive, share = torch.cat(live), torch.cat(shares)
    median = float(share[alive].median()) if bool(alive.any()) else 0.0
    return _Found(int(alive.sum()), median)
