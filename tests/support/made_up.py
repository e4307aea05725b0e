"""Made-up results, whose numbers tests choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from univfast.assemble import Question, make_result
from univfast.inputs.layout import Layout
from univfast.method import method_of, paired
from univfast.nulls.kinds import Baseline
from univfast.result import CorrelationResult
from univfast.search.matches import Matches

NAMES = ("mlp.0", "mlp.1")
TWO = (NAMES, ("x", "y", "z"))  # of two other models

# What is saved of every result, and the first line of the table.
PICTURES = {"correlation.png", "excess.png", "report.html"}
FILES = PICTURES | {"neurons.csv", "summary.json", "null_excess.npy"}
COMMANDED = FILES | {"command.txt"}  # by the command line
# And of a search of all pairs.
PARTNERS = {"matches.csv", "top.csv", "layers.png"}
HEADER = (
    "layer,neuron,match_layer,match_neuron,correlation,baseline,baseline_std,excess,"
    "p_value,q_value,universal,dead"
)


def made_up(
    neurons: int = 500,
    planted: int = 40,
    dead: int = 0,
    unmatched: int = 0,
    draws: int = 5,
    threshold: float = 0.5,
    match: str = "index",
    layers: Sequence[str] = NAMES,
    others: Sequence[Sequence[str]] = (NAMES,),
    models: Sequence[str] | None = None,
) -> CorrelationResult:
    """A result whose first neurons are universal and whose last ones have no correlation.

    Args:
        neurons: of all layers together.
        planted: how many are universal.
        dead: how many are dead: the last ones.
        unmatched: how many have no partner: those before.
        draws: rotations; 0 for none.
        threshold: of the excess.
        match: how they are matched. The match of neuron i is neuron i in some layer.
        layers: names of A's layers.
        others: names of the layers of each other model. The second and later ones know fewer of the
            planted neurons.
        models: names of A and of the others.
    """
    widths = [len(part) for part in np.array_split(np.arange(neurons), len(layers))]
    sizes = (neurons, planted, dead, unmatched, draws)
    baseline = Baseline("hadamard" if draws else "none", draws, 17)
    return make_result(
        Question(
            match,
            baseline,
            threshold,
            "cpu",
            paired() if match == "index" else method_of([["float32"]], torch.device("cpu")),
        ),
        models or ["a.pt", *(f"{letter}.pt" for letter in "bcdefghijkl"[: len(others)])],
        Layout(tuple(layers), tuple(widths)),
        123_456,
        [_matches(sizes, match, names, i) for i, names in enumerate(others)],
        seconds=1.5,
    )


def _matches(
    sizes: tuple[int, int, int, int, int], match: str, layers: Sequence[str], model: int
) -> Matches:
    neurons, planted, dead, unmatched, draws = sizes
    g = np.random.default_rng(model)
    correlation = g.normal(0, 0.12, neurons).clip(-1, 1)
    known = max(planted - 10 * model, 0)
    correlation[:known] = g.uniform(0.7, 0.98, known)
    place = np.arange(neurons)
    is_dead = place >= neurons - dead
    absent = place >= neurons - dead - unmatched
    correlation[absent] = np.nan
    rotated = np.where(absent, np.nan, g.normal(0, 0.12, (draws, neurons)))
    layer = np.where(absent, -1, place % len(layers))
    match_neuron = np.where(absent, -1, place)
    partners: dict[str, Any] = {}
    if match != "index":
        second = np.where(place % 3 > 0, place + 1, -1)  # every third neuron has one partner only
        top_layer = np.stack([layer, np.where(second >= 0, 0, -1)], axis=1)
        top_correlation = np.stack([correlation, np.where(second >= 0, 0.01, np.nan)], axis=1)
        partners = {
            "mutual": torch.from_numpy(~absent & (place % 2 == 0)),
            "top_correlation": torch.from_numpy(top_correlation),
            "top_layer": torch.from_numpy(top_layer),
            "top_neuron": torch.from_numpy(np.stack([match_neuron, second], axis=1)),
        }
    return Matches(
        layers=tuple(layers),
        correlation=torch.from_numpy(correlation),
        match_layer=torch.from_numpy(layer),
        match_neuron=torch.from_numpy(match_neuron),
        rotated=torch.from_numpy(rotated),
        dead=torch.from_numpy(is_dead),
        **partners,
    )
