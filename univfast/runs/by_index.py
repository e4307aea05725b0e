"""Neuron i with neuron i: the passes of a task, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.checks import differ
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.processes import Processes
from univfast.method import Method, paired
from univfast.native import place
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.option import select
from univfast.options import CorrelateOptions, PairedOptions
from univfast.paired import PairedCorrelation
from univfast.runs.comparisons import Comparison, Lineup
from univfast.runs.details import joined, plain_statistics, statistics_from
from univfast.runs.layer_pairs import LayerPairs
from univfast.runs.passes import LEAST_TOKENS, READ_BYTES, Range, aligned, at_least, prepare
from univfast.search.matches import LayerCorrelation, Matches, matches_by_index
from univfast.search.saved import check_number, correlations_from
from univfast.sums.batches import PairOrigin
from univfast.sums.details import PairDetails
from univfast.sums.pair_statistics import PairStatistics
from univfast.sums.token_facts import TokenFacts
from univfast.sums.transfer import Uploads

__all__ = ["ByIndex", "IndexPass"]


class IndexPass:
    """Layers of some models beside those of others.

    Args:
        comparisons: which, by number.
        lineup: of all models, whose layers stand in one order.
        options: how sums are taken.
        device: where.
        facts: of the tokens, where details of the pairs are taken too; None: they are not.
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        lineup: Lineup,
        options: CorrelateOptions,
        device: torch.device,
        facts: TokenFacts | None = None,
    ) -> None:
        self._comparisons = comparisons
        self._used = sorted({i for one in comparisons for i in (one.first, one.second)})
        self._layers = {i: lineup.layers[i] for i in self._used}
        self.models = [lineup.models[i] for i in self._used]
        self._names = {i: lineup.models[i].name for i in self._used}
        paired = select(PairedOptions, {**options, "device": device})
        self._sums = [
            LayerPairs(lineup.layout(one.first), lineup.layout(one.second), paired)
            for one in comparisons
        ]
        # Of each comparison and layer.
        self._details = [
            [
                PairDetails(
                    {name: width},
                    {name: width},
                    numbers(width),
                    facts,
                    threads=options["threads"],
                    device=device,
                )
                for name, width in lineup.layout(one.first).by_name().items()
            ]
            for one in (comparisons if facts is not None else ())
            if facts is not None
        ]
        self._uploads = Uploads(device) if place.on_cuda(device) else None
        every = [layer for layers in self._layers.values() for layer in layers]
        widest = max(x.neurons * x.dtype.itemsize for x in every)
        least = min(at_least(LEAST_TOKENS, row) for row in zip(*self._layers.values(), strict=True))
        self.step = aligned(max(least, READ_BYTES // widest), self.models)

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        rows = list(zip(*self._layers.values(), strict=True))  # of each number, a layer a model
        for i, layers in enumerate(rows):
            if i + 1 < len(rows):
                prepare(rows[i + 1], part)
            elif following is not None:
                prepare(rows[0], following)
            read = [layer.read(*part) for layer in layers]
            here = None if keep is None else keep[slice(*part)]
            if self._uploads is not None:
                read = self._uploads.bring(read if here is None else [*read, here])
                here = None if here is None else read.pop()
            tensors = dict(zip(self._used, read, strict=True))
            for sums, one in zip(self._sums, self._comparisons, strict=True):
                origin = PairOrigin(self._names[one.first], self._names[one.second], part[0])
                sums.update_rows(i, tensors[one.first], tensors[one.second], here, origin)
            for details, one in zip(self._details, self._comparisons, strict=False):
                names = self._names[one.first], self._names[one.second]
                a, b = tensors[one.first], tensors[one.second]
                details[i].update_rows([a], [b], here, part[0], names)
            for layer in layers:
                layer.release(*part)

    @property
    def _accumulators(self) -> list[PairedCorrelation | PairDetails]:
        return [
            *(sums for layers in self._sums for sums in layers.accumulators),
            *(sums for layers in self._details for sums in layers),
        ]

    def states(self) -> list[dict[str, Any]]:
        return [sums.saved_state() for sums in self._accumulators]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        check_number("sums", states, len(self._accumulators))
        for sums, state in zip(self._accumulators, states, strict=True):
            sums.load_saved(state)

    def reduce(self) -> None:
        for sums in self._accumulators:
            sums.reduce()

    def correlations(self) -> list[list[LayerCorrelation]]:
        """Of each comparison, r of each layer.

        Raises:
            InputError: a CUDA device found a NaN or infinity.
        """
        return [layers.correlations() for layers in self._sums]

    def details(self) -> list[PairStatistics]:
        """Of each comparison, of the pairs of all layers; nothing where they were not asked for."""
        return [joined([sums.finish() for sums in layers]) for layers in self._details]


class ByIndex:
    """What the passes of a task by index are, and what they have found so far: a pass a round.

    Args:
        lineup: of all models.
        options: of the task.
        device: where it is computed.
        facts: of the tokens, for details, which the first pass takes too; None: not asked for.
        processes: not needed.
    """

    def __init__(
        self,
        lineup: Lineup,
        options: CorrelateOptions,
        device: torch.device,
        facts: TokenFacts | None,
        processes: Processes | None,
    ) -> None:
        self._lineup, self._options, self._device = lineup, options, device
        self._facts = facts
        self._details: list[PairStatistics] = []  # of each real comparison
        self._found: list[list[LayerCorrelation]] = []  # of each comparison
        self._nulls = Baseline.of(options).draws, options["shifts"]

    def plan(self, limit: float, done: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """The passes, as plain values; of any limit of memory, for they take next to nothing.

        ``done`` are passes that come before.
        """
        rounds = enumerate(self._lineup.rounds)
        return [{"tokens": one.tokens, "round": i} for i, one in rounds][len(done) :]

    def check_plan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Refuses the plan of a checkpoint that is another."""
        if differ(list(plan), self.plan(0)):
            raise InputError("its passes are not those of these inputs")

    def check_memory(self, rest: Sequence[Mapping[str, Any]], limit: float) -> None:
        """Refuses no passes."""

    def work(self, entry: Mapping[str, Any]) -> IndexPass:
        """What a pass does."""
        number = entry["round"]
        facts = self._facts if number == 0 else None
        comparisons = self._lineup.rounds[number].comparisons
        return IndexPass(comparisons, self._lineup, self._options, self._device, facts)

    def pairs(self, entry: Mapping[str, Any]) -> int:
        """Pairs of neurons that are searched: none."""
        return 0

    def take(self, entry: Mapping[str, Any], work: IndexPass) -> None:
        """Takes what a pass has found, in process 0."""
        self._found += work.correlations()
        self._details += work.details()

    def found(self) -> list[Any]:
        """What the passes have found, as plain values and tensors."""
        found = [[vars(layer) for layer in layers] for layers in self._found]
        return [found, [plain_statistics(details) for details in self._details]]

    def load(
        self, found: object, done: Sequence[Mapping[str, Any]], kept: Callable[[int], int]
    ) -> None:
        """Goes on from what `found` gave after the passes that are done.

        ``kept`` says how many of the first so many tokens are used.

        Raises:
            InputError: it is none that these passes find.
        """
        correlations, details = check_number("parts of what was found", found, 2)
        rounds = [self._lineup.rounds[entry["round"]] for entry in done]
        comparisons = [(one.tokens, each) for one in rounds for each in one.comparisons]
        self._found = [
            correlations_from(plain, self._layouts(each), kept(tokens), *self._nulls)
            for plain, (tokens, each) in zip(
                check_number("comparisons", correlations, len(comparisons)),
                comparisons,
                strict=True,
            )
        ]
        facts, number = self._facts, len(rounds[0].comparisons) if rounds else 0
        plain_details = check_number("details", details, 0 if facts is None else number)
        self._details = [
            statistics_from(plain, facts, self._lineup.layout(0).neurons, kept(facts.tokens))
            for plain in plain_details
            if facts is not None
        ]

    def _layouts(self, comparison: Comparison) -> tuple[Layout, Layout]:
        first, second = (self._lineup.layout(i) for i in (comparison.first, comparison.second))
        return first, second

    def details(self, comparison: int) -> PairStatistics | None:
        """Of the pairs of a comparison; None where they were not asked for."""
        return self._details[comparison] if self._details else None

    def tokens(self, comparison: int) -> int:
        """That a comparison was measured on."""
        return self._found[comparison][0].tokens

    def method(self) -> Method:
        """How r was computed."""
        return paired()

    def layouts(self) -> list[Layout]:
        """The layers whose neurons are matched."""
        return [self._lineup.layout(0)]

    def matches(self, comparison: int) -> list[Matches]:
        """Of a comparison."""
        return [matches_by_index(self._found[comparison])]

    def by_index(self, comparison: int) -> None:
        """Nothing beside what `matches` gives."""
