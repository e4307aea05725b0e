"""Which layers and models are correlated in one pass: as many as memory holds the states of."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.layers import Layer
from univfast.inputs.layout import Layout
from univfast.machine.memory import available_memory, gigabytes, needed
from univfast.machine.processes import Processes
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.options import ModelOptions
from univfast.runs.comparisons import Comparison, Lineup
from univfast.runs.sparse_plan import SparsePlan
from univfast.search.assigning import assignment_bytes
from univfast.search.matchings import MATCHINGS
from univfast.search.searches import state_bytes
from univfast.sums.co_moments import streams

__all__ = [
    "MEMORY_SHARE",
    "Job",
    "memory_limit",
    "multiplications",
    "pass_bytes",
    "plan_passes",
    "used_layers",
]

MEMORY_SHARE = 0.8
"""Of the memory that is available, what a state may take if no limit is given."""


def memory_limit(asked: float | None, device: torch.device, processes: Processes | None) -> float:
    """Bytes that the states of a pass may take, the same in every process.

    Args:
        asked: the limit that was given; None for most of what is available.
        device: where the states are.
        processes: those that share the work; None for this one alone.
    """
    limit = asked
    if limit is None:
        available = available_memory(device)
        # Processes of one machine share its memory.
        here = 1 if place.on_cuda(device) else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        share = MEMORY_SHARE / (here if processes else 1)
        limit = float("inf") if available is None else share * available
    return limit if processes is None else min(processes.gather(limit))


@dataclass(frozen=True)
class Job:
    """All pairs of some layers of one model with all layers of another.

    Attributes:
        comparison: its number.
        first: number of the model whose neurons are matched.
        second: number of the model that is searched.
        layers: names of the layers of the first.
        part: first neuron and last + 1 of its only layer; None for all neurons.
    """

    comparison: int
    first: int
    second: int
    layers: tuple[str, ...]
    part: tuple[int, int] | None = None

    def held(self, first: Layout) -> Layout:
        """What is matched, of the layers of the first model."""
        if self.part is not None:
            return Layout(self.layers, (self.part[1] - self.part[0],), self.part[0])
        widths = first.by_name()
        return Layout(self.layers, tuple(widths[name] for name in self.layers))

    def plain(self) -> list[Any]:
        """As a checkpoint has it."""
        return [self.comparison, list(self.layers), *(self.part or ())]

    @staticmethod
    def of(plain: Sequence[Any], comparisons: Sequence[Comparison]) -> Job:
        """What `plain` gave."""
        number, layers, *part = plain
        one = comparisons[number]
        first, last = part or (0, 0)
        return Job(number, one.first, one.second, tuple(layers), (first, last) if part else None)


def used_layers(jobs: Sequence[Job], lineup: Lineup) -> dict[int, dict[str, Layer]]:
    """Of each model that is read, the layers that are, in order."""
    wanted: dict[int, set[str]] = {}
    for job in jobs:
        wanted.setdefault(job.first, set()).update(job.layers)
        wanted.setdefault(job.second, set()).update(x.name for x in lineup.layers[job.second])
    return {
        i: {layer.name: layer for layer in lineup.layers[i] if layer.name in wanted[i]}
        for i in sorted(wanted)
    }


def plan_passes(
    comparisons: Sequence[tuple[int, Comparison]],
    layouts: Sequence[Layout],
    options: ModelOptions,
    limit: float,
    device: torch.device,
    sparse: SparsePlan,
    done: Collection[tuple[int, str]] = (),
) -> list[list[Job]]:
    """The jobs of each pass, comparisons in order and layers of their first model in order.

    A pass is of sparse features alone, or of none.

    Args:
        comparisons: with their numbers.
        layouts: the layers of every model.
        options: of the search; the match is one that searches all pairs.
        limit: bytes that the states of a pass may take.
        device: where they are.
        sparse: which comparisons are of sparse features.
        done: numbers of comparisons with names of layers that are left out.

    Raises:
        InputError: not even one layer fits, or one-to-one, which needs all, does not.
    """
    passes: list[list[Job]] = []
    left, before = 0.0, False
    for number, one in comparisons:
        a, b = layouts[one.first], layouts[one.second]
        wanted = [x for x in a.by_name().items() if (number, x[0]) not in done]
        by_entries = sparse.entries(one) is not None
        groups = (
            sparse.groups(one, wanted, limit)
            if by_entries
            else _groups(a, wanted, b, options, limit, device)
        )
        for group, need in groups:
            if not passes or need > left or by_entries != before:
                passes.append([])
                left, before = limit, by_entries
            first, width = group.skipped, group.widths[0]
            part = None if width == a.by_name()[group.names[0]] else (first, first + width)
            passes[-1].append(Job(number, one.first, one.second, group.names, part))
            left -= need
    return passes


def pass_bytes(
    jobs: Sequence[Job],
    layouts: Sequence[Layout],
    options: ModelOptions,
    device: torch.device,
    sparse: SparsePlan,
) -> int:
    """What the states of a pass take; arguments as `plan_passes` has them."""
    need = 0
    for job in jobs:
        a, one = layouts[job.first], Comparison(job.first, job.second)
        group = job.held(a)
        if sparse.entries(one) is not None:
            need += sparse.bytes(one, group)
        else:
            need += _job_bytes(a, layouts[job.second], group, options, device)
    return need


def multiplications(jobs: Sequence[Job], layouts: Sequence[Layout], options: ModelOptions) -> float:
    """That some jobs take a token: of their layers with all of B, and within what is rotated."""
    rotation, found = Baseline.of(options), 0.0
    for job in jobs:
        widths, b = layouts[job.first].by_name(), layouts[job.second]
        own = [widths[name] for name in job.layers]
        rotated = [*b.widths, *(own if options["reverse"] else ())] if rotation.draws else []
        # Of what is symmetric, half.
        found += sum(own) * b.neurons
        found += sum(width**2 / 2 for width in rotated if not streams(rotation, width))
    return found


def _job_bytes(
    a: Layout, b: Layout, group: Layout, options: ModelOptions, device: torch.device
) -> int:
    """Of some layers of A with all of B, and of an assignment (of all of A) beside them."""
    need = state_bytes(a, b, options, device, group)
    return need + (assignment_bytes(a, b) if _assigns(options) else 0)


def _assigns(options: ModelOptions) -> bool:
    return MATCHINGS[options["match"]].assign is not None


def _groups(
    a: Layout,
    wanted: Sequence[tuple[str, int]],
    b: Layout,
    options: ModelOptions,
    limit: float,
    device: torch.device,
) -> list[tuple[Layout, int]]:
    """Neighbouring layers of A whose state, with all of B, fits the limit, and its bytes.

    ``wanted`` are names and widths of those that are searched.
    """

    def need_of(group: Layout) -> int:
        return _job_bytes(a, b, group, options, device)

    if not wanted:
        return []
    names, widths = zip(*wanted, strict=True)
    whole = Layout(names, widths)
    need = need_of(whole)
    if need <= limit:
        return [(whole, need)]
    if _assigns(options):
        raise InputError(
            f"memory_limit: {options['match']} matching of these layers needs {needed(need)},"
            f" the limit is {gigabytes(limit)}; choose layers, or use match='best'"
        )
    each = [Layout((name,), (width,)) for name, width in wanted]
    largest = max(each, key=need_of)
    if need_of(largest) > limit:
        raise InputError(
            f"memory_limit: layer {largest.names[0]!r} of A with all of B needs"
            f" {needed(need_of(largest))}, the limit is {gigabytes(limit)} (all at once need"
            f" {needed(need)}); raise the limit, or choose layers"
        )
    groups: list[Layout] = []
    for one in each:
        if groups:
            both = Layout((*groups[-1].names, *one.names), (*groups[-1].widths, *one.widths))
            if need_of(both) <= limit:
                groups[-1] = both
                continue
        groups.append(one)
    return [(group, need_of(group)) for group in groups]
