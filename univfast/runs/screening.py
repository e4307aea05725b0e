"""Every neuron with the likely ones: candidates from a sample of tokens, then r over all of them.

The passes of a task whose co-moments do not fit, or that is asked to be screened: one looks for the
tokens of the sample, one searches it for candidates, and one takes the exact r of those, while some
neurons are correlated with all others to see what was missed, and, where both models have the same
layers, each with that of the same number. Of controls, and of the real models beside them, the
sample is their first tokens and the search on it is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from univfast.checks import differ
from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.processes import Processes
from univfast.method import Method, screened
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.options import CorrelateOptions
from univfast.result import CorrelationResult
from univfast.runs.comparisons import Comparison, Lineup
from univfast.runs.details import DetailsPass, plain_statistics, statistics_by_number
from univfast.runs.passes import Pass
from univfast.runs.sampling import Sample, SamplePass, choose, first_tokens
from univfast.runs.screen_found import (
    Found,
    Screened,
    Verified,
    check_sample,
    chosen_rows,
    screen_summary,
)
from univfast.runs.screen_passes import SearchPass, VerifyPass
from univfast.runs.screen_plan import CANDIDATES, Screen, same_number_bytes
from univfast.search.matches import Matches, matches_by_index
from univfast.search.saved import check_number
from univfast.search.searches import check_same_neurons
from univfast.search.verified import matches_of_best
from univfast.sums.candidates import Candidates
from univfast.sums.pair_statistics import PairStatistics
from univfast.sums.states import check_fields
from univfast.sums.token_facts import TokenFacts

__all__ = ["Screening"]


@dataclass
class _Task:
    """A pass, as a plan has it: its kind, its comparison, and whether B is matched in A."""

    kind: str
    number: int
    turned: bool

    @staticmethod
    def of(entry: Mapping[str, Any]) -> _Task:
        kind = next(x for x in ("sample", "search", "verify", "details") if x in entry)
        number = 0 if kind == "sample" else entry[kind]
        return _Task(kind, number, bool(entry.get("turned", 0)))


class Screening:
    """What the passes of a screened task are, and what they have found so far.

    Args:
        lineup: of all models; its controls have no more tokens than the sample.
        options: of the task.
        device: where samples are multiplied.
        facts: of the tokens, for details; None where they are not asked for.
        processes: those that share the work; None for this one alone.
        screen: how large the sample is.
        keep: true for the tokens that are used; None for all.
    """

    def __init__(
        self,
        lineup: Lineup,
        options: CorrelateOptions,
        device: torch.device,
        facts: TokenFacts | None,
        processes: Processes | None,
        screen: Screen,
        keep: Tensor | None,
    ) -> None:
        self._lineup, self._options, self._device = lineup, options, device
        self._facts, self._processes = facts, processes
        self._screen, self._keep = screen, keep
        self._baseline = Baseline.of(options)
        self._comparisons = [one for _, _, one in lineup.comparisons()]
        self._rounds = [one for _, one, _ in lineup.comparisons()]
        self._real = len(lineup.rounds[0].real)
        if options["exclude_self"]:
            for one in lineup.rounds[0].real:
                check_same_neurons(lineup.layout(one.first), lineup.layout(one.second))
        self._sample: Sample | None = None
        self._found: dict[tuple[int, bool], Found] = {}
        self._verified: dict[int, Verified] = {}
        self._details: dict[int, PairStatistics] = {}

    def plan(self, limit: float, done: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """The passes, as plain values; the sample was made to fit any limit.

        ``done``: nothing is dealt to processes, so that no plan is made anew.
        """
        tokens, real = self._lineup.rounds[0].tokens, range(self._real)
        passes: list[dict[str, Any]] = [{"tokens": tokens, "sample": self._screen.tokens}]
        for number in real:
            passes += [*self._searches(number), {"tokens": tokens, "verify": number}]
        if self._facts is not None:
            passes += [{"tokens": tokens, "details": number} for number in real]
        for number in range(self._real, len(self._comparisons)):
            passes += self._searches(number)
        return passes

    def _searches(self, number: int) -> list[dict[str, Any]]:
        """Those of a comparison: of the second in rotations of the first only where it has them."""
        one, draws = self._comparisons[number], self._baseline.draws
        a, b = (self._lineup.layout(i).neurons for i in (one.first, one.second))
        passes = [{"tokens": a, "search": number, "turned": 0, "pairs": b * (draws + 1)}]
        if self._options["reverse"] and draws:
            passes.append({"tokens": b, "search": number, "turned": 1, "pairs": a * draws})
        return passes

    def _has_same_numbers(self, number: int) -> bool:
        """Whether neurons of a comparison are correlated with those of the same number too."""
        return same_number_bytes(*self._layouts(number), self._options) is not None

    def check_plan(self, plan: Sequence[Mapping[str, Any]]) -> None:
        """Refuses the plan of a checkpoint that is none of these inputs."""
        if differ(list(plan), self.plan(0.0)):
            raise InputError("its passes are not those of these inputs")

    def check_memory(self, rest: Sequence[Mapping[str, Any]], limit: float) -> None:
        """A checkpoint of a larger sample is one of other options, which is refused before."""

    def work(self, entry: Mapping[str, Any]) -> Pass:
        """What a pass does."""
        task = _Task.of(entry)
        if task.kind == "sample":
            models = range(self._real + 1)
            lineup = self._lineup
            return SamplePass(
                [lineup.models[i] for i in models],
                [lineup.layers[i] for i in models],
                self._options["threads"],
                self._processes,
            )
        one = self._comparisons[task.number]
        if task.kind == "search":
            return self._search(task, one)
        if task.kind == "verify":
            candidates, checked = self._told(lambda: self._to_verify(task.number))
            same = self._has_same_numbers(task.number)
            return VerifyPass(one, candidates, checked, same, self._lineup, self._options)
        assert self._facts is not None
        return DetailsPass(
            one,
            self._told(lambda: self.matches(task.number)[0].place),
            self._lineup,
            self._facts,
            self._options["threads"],
            self._device,
        )

    def _told(self, know: Callable[[], Any]) -> Any:
        """What process 0 knows, in every process."""
        if self._processes is None:
            return know()
        return self._processes.gather(know() if self._processes.rank == 0 else None)[0]

    def _search(self, task: _Task, one: Comparison) -> SearchPass:
        if task.number < self._real:
            sample = Sample(*self._told(lambda: tuple(self._sample or ())))
        else:
            sample = first_tokens(self._rounds[task.number].tokens, self._keep)
        if task.turned:
            one = Comparison(one.second, one.first)
        return SearchPass(
            one,
            sample,
            self._count(task.number),
            task.turned,
            self._screen.keeps,
            self._lineup,
            self._options,
            self._device,
            self._processes,
        )

    def _count(self, number: int) -> int:
        """Candidates of each neuron; of a search that is not verified, the best alone."""
        return CANDIDATES if number < self._real else 1

    def _to_verify(self, number: int) -> tuple[Candidates, list[Tensor]]:
        """Candidates of a comparison, and the neurons whose r with all neurons is taken too."""
        found = self._found[number, False]
        forward = found.forward.place
        if self._has_same_numbers(number):
            forward = torch.cat([forward, numbers(len(forward))[:, None]], dim=1)
        return Candidates.of(forward, found.backward.place), self._checked(number)

    def _checked(self, number: int) -> list[Tensor]:
        found, seed = self._found[number, False], self._options["seed"]
        sides = (found.rests_on, found.rests_on_back)
        return [chosen_rows(x, seed, number) for x in sides[: 2 if self._options["reverse"] else 1]]

    def pairs(self, entry: Mapping[str, Any]) -> int:
        """That are searched behind a pass: searches are passes here."""
        return 0

    def take(self, entry: Mapping[str, Any], work: Pass) -> None:
        """Takes what a pass gave, in process 0."""
        task = _Task.of(entry)
        if isinstance(work, SamplePass):
            tokens, seed = self._lineup.rounds[0].tokens, self._options["seed"]
            self._sample = choose(work.extremes, tokens, self._keep, self._screen.tokens, seed)
        elif isinstance(work, SearchPass):
            self._found[task.number, task.turned] = Found.of(work.search)
        elif isinstance(work, VerifyPass):
            self._verified[task.number] = work.verified()
        elif isinstance(work, DetailsPass):
            self._details[task.number] = work.details.finish()

    def found(self) -> list[Any]:
        """What the passes have found, as plain values and tensors, not copied."""
        return [
            None if self._sample is None else self._sample.plain(),
            {f"{i} {int(turned)}": vars(one) for (i, turned), one in self._found.items()},
            {number: one.plain() for number, one in self._verified.items()},
            {number: plain_statistics(one) for number, one in self._details.items()},
        ]

    def load(
        self, found: object, done: Sequence[Mapping[str, Any]], kept: Callable[[int], int]
    ) -> None:
        """Goes on from what `found` gave after the passes that are done.

        ``kept`` says how many of the first so many tokens are used.

        Raises:
            InputError: it is none that these passes find.
        """
        sample, searches, verified, details = check_number("parts of what was found", found, 4)
        tasks = [_Task.of(entry) for entry in done]
        tokens = self._lineup.rounds[0].tokens
        if tasks:
            models = [self._lineup.layout(i) for i in range(self._real + 1)]
            self._sample = check_sample(sample, tokens, self._screen.tokens, models)
        names = {f"{x.number} {int(x.turned)}": x for x in tasks if x.kind == "search"}
        plain = check_fields("what was found of searches", searches, names)
        for name, task in names.items():
            a, b = self._layouts(task.number)
            sides = (b, a) if task.turned else (a, b)
            self._found[task.number, task.turned] = Found.checked(
                plain[name], sides, self._baseline.draws, self._count(task.number)
            )
        wanted: list[Any] = [x.number for x in tasks if x.kind == "verify"]
        plain = check_fields("what was verified", verified, wanted)
        nulls = self._baseline.draws, self._options["shifts"]
        for number in wanted:
            pairs, checked = self._to_verify(number)
            self._verified[number] = Verified.checked(
                plain[number],
                self._layouts(number),
                pairs,
                checked,
                kept(tokens),
                nulls if self._has_same_numbers(number) else None,
            )
        wanted = [x.number for x in tasks if x.kind == "details"]
        neurons = [self._layouts(number)[0].neurons for number in range(self._real)]
        self._details = statistics_by_number(details, wanted, self._facts, neurons, kept)

    def _layouts(self, number: int) -> tuple[Layout, Layout]:
        one = self._comparisons[number]
        return self._lineup.layout(one.first), self._lineup.layout(one.second)

    def tokens(self, comparison: int) -> int:
        """That a comparison was measured on."""
        if comparison < self._real:
            return self._verified[comparison].tokens
        return len(first_tokens(self._rounds[comparison].tokens, self._keep).tokens)

    def layouts(self) -> list[Layout]:
        """The layers whose neurons are matched: of A and, where that was asked for, of B."""
        return list(self._layouts(0))[: 2 if self._options["reverse"] else 1]

    def matches(self, comparison: int) -> list[Matches]:
        """Of the first model in the second and, where that was asked for, the other way."""
        directions = (False, True) if self._options["reverse"] else (False,)
        found = [self._rotated(comparison, turned) for turned in directions]
        if comparison < self._real:
            candidates = self._to_verify(comparison)[0]
            return self._verified[comparison].matches(
                self._layouts(comparison), candidates, found, self._options["top_k"]
            )
        own = self._found[comparison, False]
        sides = (own.forward, own.backward), (own.backward, own.forward)
        dead = own.rests_on == 0, own.rests_on_back == 0
        layouts = self._layouts(comparison)
        return [
            matches_of_best(
                layouts[::-1] if turned else layouts,
                *sides[turned],
                dead[turned],
                rotated,
            )
            for turned, rotated in zip(directions, found, strict=True)
        ]

    def _rotated(self, comparison: int, turned: bool) -> Tensor:
        known = self._found.get((comparison, turned))
        if known is not None:
            return known.rotated
        neurons = self._layouts(comparison)[turned].neurons
        return torch.empty(0, neurons, dtype=torch.float64, device="cpu")

    def by_index(self, comparison: int) -> Matches | None:
        """Neurons with those of the same number; None where they were not correlated."""
        same = self._verified[comparison].same
        return matches_by_index(same) if same else None

    def details(self, comparison: int) -> PairStatistics | None:
        """Of the matched pairs of a comparison; None where they were not asked for."""
        return self._details.get(comparison)

    def method(self) -> Method:
        """How r was computed."""
        layers = self._lineup.layers
        pairs = [(*layers[x.first], *layers[x.second]) for x in self._comparisons[: self._real]]
        return screened(any(x.dtype == torch.float64 for x in pair) for pair in pairs)

    def describe(self, result: CorrelationResult, direction: int) -> None:
        """Adds to a result, and to each of its models, how it was screened and what was missed."""
        assert self._sample is not None
        how = self._sample, self._screen.alone, self._options["threshold"]
        parts = [self._screened(i, direction) for i in range(self._real)]
        result.summary["screen"] = screen_summary(*how, parts)
        rows = result.summary.get("by_model", ())
        for one, row, part in zip(result.by_model, rows, parts, strict=False):
            one.summary["screen"] = row["screen"] = screen_summary(*how, [part])

    def _screened(self, number: int, direction: int) -> Screened:
        verified, found = self._verified[number], self._found[number, False]
        sides = (found.rests_on, verified.dead_a), (found.rests_on_back, verified.dead_b)
        return Screened(verified.checks[direction], *sides[direction])
