"""Which planted pairs a screen finds, by how often they fire and how much they agree.

    python benchmarks/screen_recall.py --neurons 6000 --tokens 131072 --screen 4096

Two models of sparse neurons, as many of each activity. Half of them are planted pairs: of the
tokens at which one fires, the other fires at a share r, and elsewhere as often. The others fire by
themselves. The answer is checked: all pairs over all tokens say which matches are the planted ones,
and a screen is right where it has the same.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

import torch

import univfast as uf
from univfast.runs import sampling, screening

ACTIVITY = (0.5, 0.1, 0.01, 0.001, 0.0001)
R = (0.5, 0.7, 0.9)


class Planted:
    """Two models of sparse neurons, and which of them are planted pairs.

    ``group`` of each neuron of A: ``3 * activity + r`` is planted, with its ``partner`` in B; -1 is
    not.
    """

    def __init__(self, neurons: int, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        number, groups = torch.arange(neurons), len(ACTIVITY) * len(R)
        self.group = torch.where(number < neurons // 2, number % groups, -1)
        there = self.group >= 0
        activity = torch.where(there, self.group // len(R), number % len(ACTIVITY))
        self._share = torch.tensor(ACTIVITY)[activity]
        # Of 0 and 1 with mean p, events that are shared at a rate s give r = (s - p^2) / (p - p^2).
        r = torch.where(there, torch.tensor(R)[self.group % len(R)], 0.0)
        self._shared = r * (self._share - self._share**2) + self._share**2
        self._order = torch.randperm(neurons, generator=self._generator)
        self.partner = self._order.argsort()

    def batch(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next tokens of both models, bfloat16 ``[tokens, neurons]``."""
        shape, share, shared = (tokens, len(self.group)), self._share, self._shared

        def drawn() -> torch.Tensor:
            return torch.rand(shape, generator=self._generator)

        own = drawn() < share
        # The other fires with these, or else with what is as likely beside them.
        theirs = drawn() < torch.where(own, shared / share, (share - shared) / (1 - share))
        a, b = (
            torch.where(fires, 1 + 0.1 * drawn(), 0.001 * drawn()).bfloat16()
            for fires in (own, theirs)
        )
        return a, b[:, self._order]


def recall(
    result: uf.CorrelationResult, whole: uf.CorrelationResult, models: Planted
) -> dict[tuple[float, float], tuple[int, int]]:
    """Of each activity and r: planted pairs that are best matches over all, and those found."""
    group, partner = models.group, models.partner
    table = {}
    for i, activity in enumerate(ACTIVITY):
        for j, r in enumerate(R):
            there = (group == i * len(R) + j) & (whole.match_neuron == partner)
            found = int((result.match_neuron == partner)[there].sum())
            table[activity, r] = found, int(there.sum())
    return table


def show(name: str, table: dict[tuple[float, float], tuple[int, int]]) -> None:
    print(f"\n| {name} | " + " | ".join(f"r = {r}" for r in R) + " |")
    print("| --- |" + " ---: |" * len(R))
    for activity in ACTIVITY:
        cells = [table[activity, r] for r in R]
        words = [f"{x / y:.1%} of {y}" if y else "none" for x, y in cells]
        print(f"| {activity:.2%} | " + " | ".join(words) + " |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--neurons", type=int, default=6000)
    options.add_argument("--tokens", type=int, default=131_072)
    options.add_argument("--screen", type=int, default=4096)
    given = options.parse_args()
    models = Planted(given.neurons)
    batches = [models.batch(4096) for _ in range(-(-given.tokens // 4096))]
    a, b = (torch.cat(x)[: given.tokens] for x in zip(*batches, strict=True))
    del batches
    start = time.perf_counter()
    whole = uf.correlate(a, b, rotation="none", draws=0)
    print(f"all pairs: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    result = uf.correlate(a, b, rotation="none", draws=0, screen=given.screen)
    print(f"screened:  {time.perf_counter() - start:.1f} s")
    screen = result.summary["screen"]
    same = (result.match_neuron == whole.match_neuron) | whole.correlation.isnan()
    missed = 1 - same.double().mean().item()
    print(
        f"missed: {missed:.2%} of matches; said: {screen['found']} of {screen['checked']} found, at"
        f" most {screen['missed_limit']:.2%} missed, by {screen['shortfall']:.3f} of r; of those"
        f" with r above 0.5 {screen['above']['found']} of {screen['above']['checked']}"
    )
    show("half by activity", recall(result, whole, models))

    choose = screening.choose

    def evenly(*arguments: Any) -> sampling.Sample:
        _, tokens, _, number, seed = arguments
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(tokens, generator=generator)[:number].sort().values
        return choose(*arguments)._replace(tokens=chosen, even=number)

    with mock.patch.object(screening, "choose", evenly):
        result = uf.correlate(a, b, rotation="none", draws=0, screen=given.screen)
    show("all drawn evenly", recall(result, whole, models))


if __name__ == "__main__":
    main()
