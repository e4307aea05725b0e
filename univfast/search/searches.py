"""All pairs of two models: what is asked, what it takes, and the answer from their co-moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layout import Layout
from univfast.machine.devices import thread_count
from univfast.machine.processes import Processes
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import draw_bytes
from univfast.options import AllPairsOptions
from univfast.search.assigning import AssignWork
from univfast.search.blocks import Block
from univfast.search.matches import Matches
from univfast.search.matchings import all_pairs
from univfast.search.merging import gather
from univfast.search.partners import PartnersWork, Search, Tell, silent
from univfast.search.same_number import SameNumbers
from univfast.search.saved import check_found, check_number, matches_from
from univfast.sums.co_moments import CoMoments, chunk_tokens, streams, tile_bytes
from univfast.sums.state_values import check_multiplied
from univfast.sums.states import check_count, check_fields, refused

__all__ = [
    "Searches",
    "Work",
    "check_same_neurons",
    "partners_bytes",
    "rotations_bytes",
    "state_bytes",
]

# Of each partner, from the search to the result: r and number while searching; then r, number in
# its layer, that layer and whether there is one; and r once more on the way.
_PARTNER_BYTES = 48


class Work(Protocol):
    """Some part of a search, which can be left, and gone on with, also elsewhere.

    Attributes:
        search: what takes in what is found.
        block: what is searched.
        rotation: of the model that is searched.
        turns: layers that are searched, by number, with the draws of their rotations.
        done: of each of its units, parts that are done, int64.
        parts: of each unit.
    """

    search: Search
    block: Block
    rotation: Baseline
    turns: list[tuple[int, range]]
    done: Tensor
    parts: int

    def run(self, units: Sequence[int] | None = None) -> Iterator[int]:
        """Does what is not done of some units, by their numbers in order; None: of all.

        Yields:
            Pairs of neurons compared since the last time. What was found is whole whenever it does.
        """
        ...

    def finished(self) -> int:
        """Pairs of neurons of all that is done."""
        ...

    def needs(self, units: Sequence[int]) -> list[slice]:
        """The rows of the block that some units take."""
        ...

    def words(self) -> str:
        """How far it is, where pairs do not say it."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far beside what the search holds, by name, not copied."""
        ...

    def merge(self, done: Tensor, theirs: Mapping[str, Tensor]) -> None:
        """Takes in what ``done`` and `tensors` of others are, who did other units."""
        ...

    def end(self) -> None:
        """Once all is done, takes what was found together."""
        ...


class Searches:
    """Both directions of a search, from the states of all layers of A, or of some after others.

    Args:
        a: all layers of A.
        b: all layers of B.
        match: one that searches all pairs. One that assigns needs all layers of A at once.
        options: of the search.
        device: where the states are.

    Raises:
        InputError: another match, or more neurons than it can take.
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        match: str,
        options: AllPairsOptions,
        device: torch.device,
    ) -> None:
        self.matching = all_pairs().check(match)
        self.matching.check_size(a.neurons, b.neurons)
        self.baseline, self.device = Baseline.of(options), device
        self.tokens = 0
        """That the states hold."""
        self.multiplied: set[str] = set()
        """What their products were made of."""
        directions = ((a, b), (b, a)) if options["reverse"] else ((a, b),)
        # An assignment of the rotated models takes the place of the search in them.
        assigns = self.matching.assign is not None
        searched = self.baseline.without_draws() if assigns else self.baseline
        top_k, exclude_self = options["top_k"], options["exclude_self"]
        threads = thread_count(options["threads"])
        # Of one model with itself, a neuron of the same number is the neuron itself.
        alike = a == b and not exclude_self
        same = SameNumbers(a, self.baseline, options["shifts"], device) if alike else None
        self._searches = [
            Search(one, other, searched, beside, top_k, exclude_self, threads, device)
            for (one, other), beside in zip(directions, (same, None), strict=False)
        ]
        self._assigned: list[Matches] = []

    def add(self, state: CoMoments, tell: Tell = silent) -> None:
        """Takes in the state of some layers of A with all of B; layers in increasing order.

        ``tell`` is called as pairs of neurons are done, in either direction.

        Raises:
            InputError: it holds no tokens.
        """
        if state.tokens == 0:
            raise InputError("compute: no tokens were accumulated; call update first")
        for work in self.works(state):
            for pairs in work.run():
                tell(pairs)
            work.end()

    def works(self, state: CoMoments) -> list[Work]:
        """What `add` does, one after another: each is made with `Work.run`, then ended.

        Where an assignment is made, both directions are searched before.
        """
        self.tokens = state.tokens
        self.multiplied |= state.multiplied
        directions = ((state.cross, state.a, state.b), (state.cross.T, state.b, state.a))
        blocks = [
            search.block(*direction)
            for search, direction in zip(self._searches, directions, strict=False)
        ]
        pairs = list(zip(self._searches, blocks, strict=True))
        assigns = self.matching.assign is not None
        works: list[Work] = [PartnersWork(*pair, counted=not assigns) for pair in pairs]
        if assigns:
            given = self.matching, self.baseline
            works += [AssignWork(search, *given, x, self._assign) for search, x in pairs]
        return works

    def _assign(self, matches: Matches) -> None:
        self._assigned.append(matches)

    def pairs(self, neurons: int) -> int:
        """Pairs that are compared where so many neurons of A are searched, in all directions.

        Each once in the models, and once in each rotation.
        """
        each = (1 + self.baseline.draws) * len(self._searches)
        return neurons * self._searches[0].searched.neurons * each

    def state(self) -> dict[str, Any]:
        """What was found so far, as plain values and tensors, not copied; for `load`."""
        return {
            "tokens": self.tokens,
            "multiplied": sorted(self.multiplied),
            "searches": [
                {name: tensor.cpu() for name, tensor in found.items()} for found in self.found()
            ],
            "assigned": [vars(matches) for matches in self._assigned],
        }

    def load(self, state: object, tokens: int, assigned: bool = True) -> None:
        """Goes on from what `state` gave, of so many tokens; 0 where nothing was searched.

        ``assigned`` says whether assignments are, where the matching makes them.

        Raises:
            InputError: it is none that these searches give.
        """
        found = check_fields("a search", state, ("tokens", "multiplied", "searches", "assigned"))
        if check_count("tokens of a search", found["tokens"]) != tokens:
            raise refused(f"a search is of {found['tokens']} tokens, of {tokens} that are done")
        multiplied = check_multiplied(found["multiplied"])
        searches = check_number("directions", found["searches"], len(self._searches))
        new = [
            check_found(each, own.tensors(), own.matched.neurons, own.searched.neurons)
            for own, each in zip(self._searches, searches, strict=True)
        ]
        assigns = self.matching.assign is not None and tokens > 0
        number = len(self._searches) if assigns and assigned else 0
        found_matches = [
            matches_from(plain, own.matched, own.searched, own.top_k, self.baseline.draws)
            for own, plain in zip(
                self._searches,
                check_number("assignments", found["assigned"], number),
                strict=assigns and assigned,
            )
        ]
        for search, tensors in zip(self._searches, new, strict=True):
            for name, tensor in search.tensors().items():
                tensor.copy_(tensors[name])
        self.tokens, self._assigned, self.multiplied = tokens, found_matches, multiplied

    def found(self) -> list[dict[str, Tensor]]:
        """The tensors of each direction by name, not copied."""
        return [search.tensors() for search in self._searches]

    def gather(self, processes: Processes) -> None:
        """Moves what all processes have found to process 0: `merging.gather`."""
        gather(self, processes)

    @property
    def layouts(self) -> list[Layout]:
        """The layers whose neurons are matched: of A and, where that was asked for, of B."""
        return [search.matched for search in self._searches]

    def by_index(self) -> Matches | None:
        """Of A in B, neurons with those of the same number; None where they have other layers."""
        return self._searches[0].by_index(self.tokens)

    def matches(self) -> list[Matches]:
        """Of A in B and, where that was asked for, of B in A."""
        return self._assigned or [search.best() for search in self._searches]


def state_bytes(
    a: Layout,
    b: Layout,
    options: AllPairsOptions,
    device: torch.device,
    group: Layout | None = None,
) -> int:
    """Of the state, of a chunk and a product beside it, of a rotation and of the partners found.

    Args:
        a: all layers of A.
        b: all layers of B.
        options: of the search.
        device: where the state is.
        group: the layers of A whose state is held at once; None for all.
    """
    held = a if group is None else group
    values = held.neurons * b.neurons
    rotation = Baseline.of(options)
    rotated = (*b.widths, *(held.widths if options["reverse"] else ())) if rotation.draws else ()
    for width in rotated:
        values += width * (5 + 2 * rotation.draws if streams(rotation, width) else width)
    chunk = chunk_tokens(device) * (held.neurons + b.neurons)
    more = rotations_bytes(rotation, rotated) + partners_bytes(a, b, options)
    return 8 * (values + chunk) + tile_bytes(device) + more


def rotations_bytes(rotation: Baseline, widths: Sequence[int]) -> int:
    """That making and using rotations of layers of these widths takes."""
    return max((draw_bytes(rotation, width) for width in widths), default=0)


def partners_bytes(a: Layout, b: Layout, options: AllPairsOptions) -> int:
    """Of the partners that are found of all neurons."""
    partners = a.neurons * min(options["top_k"], b.neurons)
    if options["reverse"]:
        partners += b.neurons * min(options["top_k"], a.neurons)
    return _PARTNER_BYTES * partners


def check_same_neurons(a: Layout, b: Layout) -> None:
    """Refuses to leave out a neuron itself where there is none of its name.

    Raises:
        InputError: A and B have not the same layers of the same widths.
    """
    if a != b:
        raise InputError(
            "exclude_self: A and B have other layers or widths; it is for a model with itself"
        )
