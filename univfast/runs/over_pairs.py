"""Every neuron with every neuron: the passes of a task, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from univfast.all_pairs import AllPairsCorrelation
from univfast.checks import differ
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.memory import gigabytes, needed
from univfast.machine.processes import Processes
from univfast.method import Method, method_of
from univfast.option import select
from univfast.options import AllPairsOptions, CorrelateOptions, SumsOptions
from univfast.runs.comparisons import Lineup
from univfast.runs.details import DetailsPass, plain_statistics, statistics_by_number
from univfast.runs.passes import READ_BYTES, Range, aligned, prepare
from univfast.runs.planning import (
    MEMORY_SHARE,
    Job,
    multiplications,
    pass_bytes,
    plan_passes,
    used_layers,
)
from univfast.runs.sharding import dealt_to, jobs_in, plan_round, steps_in
from univfast.runs.sparse_pass import SparsePass
from univfast.runs.sparse_plan import SparsePlan
from univfast.runs.to_search import ToSearch
from univfast.search.matches import Matches
from univfast.search.matchings import MATCHINGS
from univfast.search.saved import check_number
from univfast.search.searches import Searches, check_same_neurons
from univfast.sums.batches import PairOrigin
from univfast.sums.co_moments import CoMoments, chunk_tokens
from univfast.sums.pair_statistics import PairStatistics
from univfast.sums.token_facts import TokenFacts

__all__ = ["OverPairs", "PairsPass"]


class PairsPass:
    """All pairs of some layers of models with all layers of others.

    Args:
        jobs: what is done in this pass.
        lineup: of all models.
        options: how sums are taken.
        device: where.
        slices_of: the jobs that are done in the same slices, where others do some of them; None for
            ``jobs``.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        lineup: Lineup,
        options: CorrelateOptions,
        device: torch.device,
        slices_of: Sequence[Job] | None = None,
    ) -> None:
        self._layers = used_layers(jobs, lineup)
        self.models = [lineup.models[i] for i in self._layers]
        self._names = {i: lineup.models[i].name for i in self._layers}
        # What only a search needs is left out: it is done over all passes, by `Searches`.
        sums = select(SumsOptions, {**options, "device": device})
        self._sums = [
            (
                job,
                AllPairsCorrelation(
                    {name: self._layers[job.first][name].neurons for name in job.layers},
                    lineup.layout(job.second).by_name(),
                    **sums,
                ),
            )
            for job in jobs
        ]
        chunk = chunk_tokens(device)
        sliced = self._layers if slices_of is None else used_layers(slices_of, lineup)
        row = sum(layer.neurons * layer.dtype.itemsize for layer in _all(sliced))
        sliced_models = [lineup.models[i] for i in sliced]
        self.step = aligned(max(1, READ_BYTES // (row * chunk)) * chunk, sliced_models)

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        if following is not None:
            prepare(_all(self._layers), following)
        here = None if keep is None else keep[slice(*part)]
        read = {
            i: {name: layer.read(*part) for name, layer in layers.items()}
            for i, layers in self._layers.items()
        }
        for job, sums in self._sums:
            origin = PairOrigin(self._names[job.first], self._names[job.second], part[0])
            first = [read[job.first][name] for name in job.layers]
            sums.update_rows(first, [*read[job.second].values()], here, origin)
        for layer in _all(self._layers):
            layer.release(*part)

    def states(self) -> list[dict[str, Any]]:
        return [sums.saved_state() for _, sums in self._sums]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        check_number("sums", states, len(self._sums))
        for (_, sums), state in zip(self._sums, states, strict=True):
            sums.load_saved(state)

    def reduce(self) -> None:
        for _, sums in self._sums:
            sums.reduce()

    def co_moments(self) -> list[tuple[int, CoMoments]]:
        """Of each job: the number of the comparison, and the sums."""
        return [(job.comparison, sums.co_moments()) for job, sums in self._sums]


def _all(layers: Mapping[int, Mapping[str, Any]]) -> list[Any]:
    return [layer for of_one in layers.values() for layer in of_one.values()]


class OverPairs:
    """What the passes of a task over all pairs are, and what they have found so far.

    Each round is done in as many passes as memory asks for; behind the first one, the details of
    each other model take a pass.

    Args:
        lineup: of all models.
        options: of the task.
        device: where it is computed.
        facts: of the tokens, for details; None where they are not asked for.
        processes: those that share the work; None for this one alone.
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
        self._facts, self._processes = facts, processes
        self._details: dict[int, PairStatistics] = {}
        self._sparse = SparsePlan(lineup.layers, options, device)
        self._comparisons = [one for _, _, one in lineup.comparisons()]
        real = lineup.rounds[0].real
        if options["exclude_self"]:
            for one in real:
                check_same_neurons(lineup.layout(one.first), lineup.layout(one.second))
        searched: AllPairsOptions = select(AllPairsOptions, options)
        # Of a control no other partners are kept.
        of_control: AllPairsOptions = {**searched, "top_k": 1}
        self._searches = [
            Searches(
                lineup.layout(one.first),
                lineup.layout(one.second),
                options["match"],
                searched if number < len(real) else of_control,
                device,
            )
            for number, one in enumerate(self._comparisons)
        ]

    def plan(self, limit: float, done: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """The passes, as plain values, whose states take no more than the limit, in bytes.

        Those of a process, where there are several. ``done`` are passes that come before.

        Raises:
            InputError: no pass does.
        """
        layouts = [self._lineup.layout(i) for i in range(len(self._lineup.models))]
        assigns = MATCHINGS[self._options["match"]].assign is not None
        # An assignment needs all layers of A at once.
        count = 1 if self._processes is None or assigns else self._processes.count
        taken = {
            (job.comparison, name)
            for entry in done
            for job in self._jobs(entry)
            for name in job.layers
        }
        passes: list[dict[str, Any]] = []
        number = 0
        for one in self._lineup.rounds:
            numbered = list(enumerate(one.comparisons, start=number))
            number += len(numbered)
            loads = partial(
                plan_passes,
                numbered,
                layouts,
                self._options,
                device=self._device,
                sparse=self._sparse,
            )
            work = partial(multiplications, layouts=layouts, options=self._options)
            # Of sparse features to read them again costs less than to deal them.
            dealt = not any(self.by_entries(each) for each, _ in numbered)
            passes += plan_round(one.tokens, loads, work, limit, count if dealt else 1, taken)
            if one is self._lineup.rounds[0] and self._facts is not None:
                details = [{"tokens": one.tokens, "details": i} for i in range(number)]
                passes += [entry for entry in details if entry not in done]
        return passes

    def check_plan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Refuses the plan of a checkpoint that is none of these inputs: of any limit of memory."""
        whole = MATCHINGS[self._options["match"]].assign is not None
        firsts = [self._lineup.layout(one.first).by_name() for one in self._comparisons]
        try:
            own = steps_in(self.plan(float("inf")), whole, firsts)
            known = differ(steps_in(plan, whole, firsts), own)
        except (LookupError, TypeError, ValueError):
            known = True
        if known:
            raise InputError("its passes are not those of these inputs")

    def check_memory(self, rest: Sequence[Mapping[str, Any]], limit: float) -> None:
        """Refuses the passes of a checkpoint that was written where there was more memory."""
        layouts = [self._lineup.layout(i) for i in range(len(self._lineup.models))]
        need = max(
            (
                pass_bytes(self._own(jobs), layouts, self._options, self._device, self._sparse)
                for entry in rest
                for jobs in (entry.get("dealt") or [entry.get("jobs", [])])
            ),
            default=0,
        )
        if self._options["memory_limit"] is None:
            limit /= MEMORY_SHARE
        if need > limit:
            raise InputError(
                f"memory_limit: the checkpoint was written by a run whose states take"
                f" {needed(need)} a process, the limit is {gigabytes(limit)}; raise it, or start"
                " fewer processes"
            )

    def _jobs(self, entry: Mapping[str, Any]) -> list[Job]:
        """Of a pass, in all processes."""
        return self._own(jobs_in(entry))

    def _own(self, plain: Sequence[Any]) -> list[Job]:
        return [Job.of(job, self._comparisons) for job in plain]

    def by_entries(self, comparison: int) -> bool:
        """Whether a comparison is of sparse features, summed by what is active together."""
        return self._sparse.entries(self._comparisons[comparison]) is not None

    def work(self, entry: Mapping[str, Any]) -> PairsPass | SparsePass | DetailsPass:
        """What a pass does, in this process."""
        if dealt_to(entry) is not None:
            assert self._processes is not None
            own, every = self._own(entry["dealt"][self._processes.rank]), self._jobs(entry)
            return PairsPass(own, self._lineup, self._options, self._device, every)
        if "jobs" in entry:
            jobs = self._jobs(entry)
            if self.by_entries(jobs[0].comparison):
                return SparsePass(jobs, self._lineup, self._options)
            return PairsPass(jobs, self._lineup, self._options, self._device)
        assert self._facts is not None
        number = entry["details"]
        return DetailsPass(
            self._comparisons[number],
            self._places(number),
            self._lineup,
            self._facts,
            self._options["threads"],
            self._device,
        )

    def _places(self, number: int) -> Tensor:
        """Where the matches of a comparison are, which process 0 tells the others."""
        search = self._searches[number]
        if self._processes is None:
            place = search.matches()[0].place
        else:
            # It may have searched for long, which the others wait for.
            with self._processes.first_alone() as first:
                found = search.matches()[0].place if first else None
            place = self._processes.gather(found)[0]
        assert place is not None
        return place

    def pairs(self, entry: Mapping[str, Any]) -> int:
        """Pairs of neurons that are compared behind a pass: in models, rotations and directions."""
        jobs = self._jobs(entry)
        held = (job.held(self._lineup.layout(job.first)) for job in jobs)
        return sum(
            self._searches[job.comparison].pairs(part.neurons)
            for job, part in zip(jobs, held, strict=True)
        )

    def take(self, entry: Mapping[str, Any], work: PairsPass | SparsePass | DetailsPass) -> None:
        """Takes what a pass gave that needs no search, in process 0."""
        if isinstance(work, DetailsPass):
            self._details[entry["details"]] = work.details.finish()

    def to_search(self, entry: Mapping[str, Any], work: PairsPass | SparsePass) -> ToSearch:
        """What is searched behind a pass of pairs."""
        sums = [(self._searches[number], state) for number, state in work.co_moments()]
        numbers = sorted({job.comparison for job in self._jobs(entry)})
        searches = [self._searches[number] for number in numbers]
        return ToSearch(sums, searches, dealt_to(entry) is not None)

    def found(self) -> list[Any]:
        """What the passes have found, as plain values and tensors, not copied."""
        details = {number: plain_statistics(found) for number, found in self._details.items()}
        return [[search.state() for search in self._searches], details]

    def details(self, comparison: int) -> PairStatistics | None:
        """Of the matched pairs of a comparison; None where they were not asked for."""
        return self._details.get(comparison)

    def load(
        self, found: object, done: Sequence[Mapping[str, Any]], kept: Callable[[int], int]
    ) -> None:
        """Goes on from what `found` gave after the passes that are done.

        ``kept`` says how many of the first so many tokens are used.

        Raises:
            InputError: it is none that these passes find.
        """
        searches, details = check_number("parts of what was found", found, 2)
        held = {
            job.comparison: kept(entry["tokens"]) for entry in done for job in self._jobs(entry)
        }
        check_number("searches", searches, len(self._searches))
        for number, (search, state) in enumerate(zip(self._searches, searches, strict=True)):
            search.load(state, held.get(number, 0))
        wanted = [entry["details"] for entry in done if "details" in entry]
        neurons = [self._lineup.layout(one.first).neurons for one in self._comparisons]
        self._details = statistics_by_number(details, wanted, self._facts, neurons, kept)

    def tokens(self, comparison: int) -> int:
        """That a comparison was measured on."""
        return self._searches[comparison].tokens

    def method(self) -> Method:
        """How r was computed."""
        return method_of((search.multiplied for search in self._searches), self._device)

    def layouts(self) -> list[Layout]:
        """The layers whose neurons are matched: of A and, where that was asked for, of B."""
        return self._searches[0].layouts

    def matches(self, comparison: int) -> list[Matches]:
        """Of the first model in the second and, where that was asked for, the other way."""
        return self._searches[comparison].matches()

    def by_index(self, comparison: int) -> Matches | None:
        """Of neurons with those of the same number; None where the models have other layers."""
        return self._searches[comparison].by_index()
