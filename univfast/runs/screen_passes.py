"""The passes of a screen behind its sample: the search on it, and r of what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine.devices import CPU, thread_count
from univfast.machine.processes import Processes
from univfast.nulls.kinds import Baseline
from univfast.option import select
from univfast.options import CorrelateOptions, PairedOptions
from univfast.paired import PairedCorrelation
from univfast.runs.comparisons import Comparison, Lineup
from univfast.runs.layer_pairs import LayerPairs
from univfast.runs.passes import LEAST_TOKENS, READ_BYTES, Range, aligned, prepare
from univfast.runs.sampling import Sample, gather
from univfast.runs.screen_found import Checked, Verified
from univfast.runs.screen_plan import ROWS
from univfast.search.sampled import Sampled, SampleSearch
from univfast.search.saved import check_number
from univfast.search.verified import Pairs
from univfast.sums.batches import PairOrigin, bad_value
from univfast.sums.candidates import Candidates, CandidateSums
from univfast.sums.checked import CheckedRows
from univfast.sums.states import check_count, check_fields, check_tensor

__all__ = ["SearchPass", "VerifyPass"]


class SearchPass:
    """Searches a sample for candidates: a pass over the neurons of one model.

    Each process gathers the sample for itself, at its first slice of neurons.

    Args:
        one: whose neurons are matched, and in which model they are searched.
        sample: the tokens.
        count: candidates of each neuron, in either direction.
        baseline_only: look for none, but in rotations alone.
        keeps: as `Screen` has it.
        lineup: of all models.
        options: of the task.
        device: where the sample is multiplied.
        processes: those that share the work; None for this one alone.
    """

    step = ROWS
    models = ()  # which the sample is gathered from, before anything else is done

    def __init__(
        self,
        one: Comparison,
        sample: Sample,
        count: int,
        baseline_only: bool,
        keeps: bool,
        lineup: Lineup,
        options: CorrelateOptions,
        device: torch.device,
        processes: Processes | None,
    ) -> None:
        self._sides, self._lineup, self._processes = (one.first, one.second), lineup, processes
        self._sample, self._sampled = sample, list[Sampled]()
        self._threads = thread_count(options["threads"])
        self._done = 0
        self.search = SampleSearch(
            lineup.layout(one.first),
            lineup.layout(one.second),
            Baseline.of(options),
            count,
            options["exclude_self"],
            baseline_only,
            keeps,
            (options["products"], options["precision"]),
            self._threads,
            device,
        )

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        """Searches for some neurons' candidates; ``keep`` is of tokens, and says nothing here."""
        if not self._sampled:
            self._sampled = [self._gathered(i) for i in self._sides]
            self._measure()
        a, b = self._sampled
        self.search.add(a, b, slice(*part))
        self._done += part[1] - part[0]

    def _measure(self) -> None:
        variances = self._sample.variances
        for i, (model, sampled) in enumerate(zip(self._sides, self._sampled, strict=True)):
            self.search.measure(i, sampled, variances[model] if variances else None)

    def _gathered(self, model: int) -> Sampled:
        lineup, sample = self._lineup, self._sample
        source = lineup.models[model]
        layers = gather(source, lineup.layers[model], sample.tokens)
        for layer, x in zip(lineup.layers[model], layers, strict=True):
            moments = native.neuron_moments(x, self._threads)
            if isinstance(moments, native.BadValue):
                raise bad_value(moments, source.name, layer.name, int(sample.tokens[moments.token]))
        return Sampled(lineup.layout(model), layers, sample.even)

    def states(self) -> list[dict[str, Any]]:
        found = {name: x.cpu() for name, x in self.search.tensors().items()}
        return [{"tokens": self._done, **found}]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        (state,) = check_number("searches", states, 1)
        own = self.search.tensors()
        found = check_fields("a search", state, ("tokens", *own))
        done = check_count("neurons", found["tokens"])
        new = {name: check_tensor(name, found[name], x.shape, x.dtype) for name, x in own.items()}
        for name, tensor in own.items():
            tensor.copy_(new[name])
        self._done = done

    def reduce(self) -> None:
        assert self._processes is not None
        found = self._processes.gather(self.states()[0])
        self.search.reset()
        self._done = 0
        if self._processes.rank == 0:
            for state in found:
                self._done += state.pop("tokens")
                self.search.merge(state)


class VerifyPass:
    """Exact r of candidates, of some neurons with all others, and of those of the same number.

    Args:
        one: the models.
        candidates: the pairs.
        checked: numbers of neurons of the first that are correlated with all of the second, and,
            where both directions are asked for, of neurons of the second with all of the first.
        same: neurons are correlated with those of the same number too; layers are the same.
        lineup: of all models.
        options: of the task.
    """

    def __init__(
        self,
        one: Comparison,
        candidates: Candidates,
        checked: Sequence[Tensor],
        same: bool,
        lineup: Lineup,
        options: CorrelateOptions,
    ) -> None:
        sides = one.first, one.second
        self._layers = [lineup.layers[i] for i in sides]
        self.models = [lineup.models[i] for i in sides]
        self._layouts = [lineup.layout(i) for i in sides]
        a, b = self._layouts
        threads = options["threads"]
        self._candidates = candidates
        self._sums = CandidateSums(a, b, candidates, threads=threads)
        turned = ((a, b), (b, a))
        self._checked = [
            CheckedRows(*turned[i], numbers, threads=threads) for i, numbers in enumerate(checked)
        ]
        # On the CPU, as all sums of this pass.
        paired = select(PairedOptions, {**options, "device": CPU})
        self._same = LayerPairs(a, b, paired) if same else None
        self._exclude_self = options["exclude_self"]
        row = sum(x.neurons * x.dtype.itemsize for layers in self._layers for x in layers)
        least = max(1, min(LEAST_TOKENS, 4 * READ_BYTES // row))
        self.step = aligned(max(least, READ_BYTES // row), self.models)

    def _all(self) -> list[CandidateSums | CheckedRows | PairedCorrelation]:
        same = [] if self._same is None else self._same.accumulators
        return [self._sums, *self._checked, *same]

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        every = [layer for layers in self._layers for layer in layers]
        if following is not None:
            prepare(every, following)
        here = None if keep is None else keep[slice(*part)]
        read = [[layer.read(*part) for layer in layers] for layers in self._layers]
        names = [model.name for model in self.models]
        origin = PairOrigin(names[0], names[1], part[0])
        self._sums.update_rows(read[0], read[1], here, origin)
        for i, checked in enumerate(self._checked):
            own = PairOrigin(names[i], names[1 - i], part[0])
            checked.update_rows(read[i], read[1 - i], here, own)
        if self._same is not None:
            for i, (x, y) in enumerate(zip(*read, strict=True)):
                self._same.update_rows(i, x, y, here, origin)
        for layer in every:
            layer.release(*part)

    def states(self) -> list[dict[str, Any]]:
        return [sums.saved_state() for sums in self._all()]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        sums = self._all()
        check_number("sums", states, len(sums))
        for own, state in zip(sums, states, strict=True):
            own.load_saved(state)

    def reduce(self) -> None:
        for sums in self._all():
            sums.reduce()

    def verified(self) -> Verified:
        """What was found, in process 0."""
        r = self._sums.correlations()
        pairs = pairs_of(self._candidates, r, *self._layouts)
        checks = [
            self._check(checked, own)
            for checked, own in zip(self._checked, (pairs, pairs.turned()), strict=False)
        ]
        dead = self._sums.dead_a, self._sums.dead_b
        same = [] if self._same is None else self._same.correlations()
        return Verified(self._sums.tokens, r, *dead, checks, same)

    def _check(self, checked: CheckedRows, pairs: Pairs) -> Checked:
        place = pairs.best(1).place[checked.numbers, 0]
        r, best = checked.best(self._exclude_self)
        return Checked(checked.numbers, checked.at(place), place, r, best)


def pairs_of(candidates: Candidates, r: Tensor, a: Layout, b: Layout) -> Pairs:
    """Candidates with their r."""
    return Pairs(a, b, candidates.rows(), candidates.places, r)
