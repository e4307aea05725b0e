"""From co-moments to matches: each neuron's partners in another model, and in rotations of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.meanwhile import meanwhile
from univfast.native import Best
from univfast.native.place import numbers
from univfast.nulls.kinds import ROTATIONS, Baseline
from univfast.nulls.rotations import Rotations, draws_together, make_rotations
from univfast.search.blocks import Block, inverse_root
from univfast.search.matches import Matches, matches_by_index
from univfast.search.same_number import SameNumbers
from univfast.sums.co_moments import Side

__all__ = ["PartnersWork", "Search", "Tell", "same_neurons", "silent"]

_LONG = 2048  # neurons of a layer whose matrices, and norms by them, take seconds and more
_KEPT_BYTES = 64 << 20  # of the signs of rotations, which take time to draw

# Called with the number of pairs of neurons that were compared since the last call: once in the
# models, and once in each rotation.
Tell = Callable[[int], None]


def silent(pairs: int) -> None:
    """Tells nobody."""


class Search:
    """Searches one model for partners of another's neurons, block of layers by block of layers.

    Args:
        matched: the layers whose neurons are matched.
        searched: the layers that are searched, and rotated for the baseline.
        rotation: of the layers searched.
        same: takes in neurons with those of the same number beside the search; None for none.
        top_k: partners to keep; no more than there are neurons to search.
        exclude_self: leave out the neuron of the same number in the layer of the same name.
        threads: at most this many.
        device: where the co-moments are.
    """

    def __init__(
        self,
        matched: Layout,
        searched: Layout,
        rotation: Baseline,
        same: SameNumbers | None,
        top_k: int,
        exclude_self: bool,
        threads: int,
        device: torch.device = devices.CPU,
    ) -> None:
        self.matched, self.searched = matched, searched
        self.rotation, self._threads = rotation, threads
        self._device = device
        self.skip = same_neurons(matched, searched).to(device) if exclude_self else None
        self._top = Best.none(matched.neurons, min(top_k, searched.neurons), device=device)
        # Of each neuron searched, who likes it best.
        self._back = Best.none(searched.neurons, device=device)
        self._rotated = torch.full(
            (rotation.draws, matched.neurons), -torch.inf, dtype=torch.float64, device=device
        )
        self.same = same
        self._alive = torch.zeros(matched.neurons, dtype=torch.bool, device=device)
        self.inverses: dict[tuple[str, int], Tensor] = {}
        """1 / norm of rotated neurons ``[draws, width]``, by layer and first draw."""

    def add(self, cross: Tensor, matched: Side, searched: Side, tell: Tell = silent) -> None:
        """Takes in the co-moments of some layers of either model, in increasing order.

        Args:
            cross: ``[neurons of matched, neurons of searched]``; any strides.
            matched: of neighbouring layers.
            searched: of neighbouring layers; kept with this search's rotations.
            tell: called as pairs of neurons are done.
        """
        for pairs in PartnersWork(self, self.block(cross, matched, searched)).run():
            tell(pairs)

    def block(self, cross: Tensor, matched: Side, searched: Side) -> Block:
        """What `add` takes, as `PartnersWork` does."""
        return Block(cross, matched, searched, (self.matched, self.searched))

    def take(self, block: Block, rows: slice, late: bool) -> None:
        """Takes in some rows of a block: partners, who likes whom best, and the same numbers.

        ``late``: rows behind them were taken in before.
        """
        here, columns = block.place
        self._alive[here][rows] = ~block.inverse[0][rows].isnan()
        if self.same is not None:
            self.same.add(block, rows)
        back = Best(self._back.correlation[columns], self._back.place[columns])
        own = Best.none(len(back.place), device=self._device) if late else back
        for part, place, tile in block.tiles(rows, slice(0, block.cross.shape[1])):
            native.best_pairs(
                tile,
                (block.inverse[0][part], block.inverse[1]),
                (place.start, columns.start),
                Best(self._top.correlation[place], self._top.place[place]),
                own,
                self._skipped(place, columns.start),
                self._threads,
            )
        if late:
            # Of equal ones the lower row, as where rows come in their order.
            lower = (own.correlation == back.correlation) & (own.place < back.place)
            better = lower | (own.correlation > back.correlation)
            for mine, theirs in zip(back, own, strict=True):
                mine.copy_(torch.where(better, theirs, mine))

    def take_draws(
        self, block: Block, rows: slice, number: int, draws: range, rotations: Rotations
    ) -> None:
        """Takes in some rows of a block with some rotations of a layer that is searched."""
        columns = block.searched.layout.slices[number]
        inverse = self.inverse(block.searched, number, draws)
        same = None if self.same is None else self.same.own(block, rows, number)
        for part, own, tile in block.tiles(rows, columns):
            single = None
            if self.same is not None and same is not None:
                here = same[part.start - rows.start : part.stop - rows.start]
                single = here, self.same.rotated[draws.start : draws.stop, own]
            rotations.raise_best(
                tile,
                (block.inverse[0][part], inverse),
                self._rotated[draws.start : draws.stop, own],
                self._skipped(own, block.place[1].start + columns.start),
                self._threads,
                single,
            )

    def prepare(
        self, searched: Side, number: int, draws: range, rotation: Baseline
    ) -> Generator[int, None, Rotations]:
        """Makes some rotations of a layer that is searched, and the norms of its rotated neurons.

        Yields 0, every so often, where that takes long.
        """
        name, width = searched.layout.names[number], searched.layout.widths[number]

        def make() -> tuple[Rotations, Tensor]:
            rotations = make_rotations(rotation, width, name, draws).to(self._device)
            known = self.inverses.get((name, draws.start))
            if known is None:
                moments = searched.second_moments(number, rotations, draws, self._threads)
                known = inverse_root(moments)
            return rotations, known

        long = ROTATIONS[rotation.kind].draw_matrices and width >= _LONG
        rotations, inverse = (yield from meanwhile(make)) if long else make()
        self.inverses[name, draws.start] = inverse
        return rotations

    def inverse(self, searched: Side, number: int, draws: range) -> Tensor:
        """1 / norm of the rotated neurons of a layer ``[draws, width]``, once it was prepared."""
        return self.inverses[searched.layout.names[number], draws.start]

    @property
    def top_k(self) -> int:
        """Partners that are kept."""
        return self._top.place.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far, by name, not copied."""
        return {
            "top": self._top.correlation,
            "top_place": self._top.place,
            "back": self._back.correlation,
            "back_place": self._back.place,
            "rotated": self._rotated,
            "alive": self._alive,
            **({} if self.same is None else self.same.tensors()),
        }

    def by_index(self, tokens: int) -> Matches | None:
        """Neurons with those of the same number; None where the models have other layers."""
        return None if self.same is None else matches_by_index(self.same.correlations(tokens))

    def best(self) -> Matches:
        """Each neuron with the highest correlation of all neurons searched."""
        top = self._top.cpu()
        correlation = torch.where(top.place >= 0, top.correlation, torch.nan)
        rotated = self._rotated.cpu()
        rotated = torch.where(rotated > -torch.inf, rotated, torch.nan)
        return self.matches(top.place[:, 0], correlation[:, 0], rotated)

    def matches(self, match: Tensor, correlation: Tensor, rotated: Tensor) -> Matches:
        """Matches with a neuron each, -1 for none, beside the partners that were found."""
        top, back = self._top.cpu(), self._back.cpu()
        found = top.place >= 0  # [neurons, top_k]
        layer, neuron = self.searched.locate(match)
        top_layer, top_neuron = self.searched.locate(top.place)
        own = numbers(len(match))
        mutual = (match >= 0) & (back.place[match] == own) & (top.place[:, 0] == match)
        return Matches(
            layers=self.searched.names,
            correlation=correlation,
            match_layer=layer,
            match_neuron=neuron,
            rotated=rotated,
            dead=~self._alive.cpu(),
            mutual=mutual,
            top_correlation=torch.where(found, top.correlation, torch.nan),
            top_layer=top_layer,
            top_neuron=top_neuron,
            place=match,
            back=torch.where(back.place >= 0, back.correlation, torch.nan),
        )

    def _skipped(self, rows: slice, first_column: int) -> Tensor | None:
        """The column of a tile that each row leaves out; outside of the tile for none."""
        return None if self.skip is None else (self.skip[rows] - first_column).contiguous()


class PartnersWork:
    """The search through one block, in parts that can be left and gone on with.

    A part of some rows is the search itself, or some rotations of one layer.

    Args:
        search: what takes in what is found.
        block: co-moments of some layers of both models.
        counted: tell of the pairs that are compared; else it is work on the way to assignments.

    Attributes:
        done: parts that are, of each of `Block.rows`, int64.
    """

    def __init__(self, search: Search, block: Block, counted: bool = True) -> None:
        self.search, self.block, self._counted = search, block, counted
        self._rows = block.rows()
        self.rotation = rotation = search.rotation
        layers = range(len(block.searched.layout.names)) if rotation.draws else ()
        together = draws_together(rotation)
        self.turns = [(number, draws) for number in layers for draws in together]
        self.done = torch.zeros(len(self._rows), dtype=torch.int64, device="cpu")
        self.parts = 1 + len(self.turns)
        widths = block.searched.layout.widths
        turned = (widths[number] * len(draws) for number, draws in self.turns)
        self._columns = [block.cross.shape[1], *turned]  # of each part
        # Matrices take long to make, and much memory: rows wait for the next one together.
        self._by_rows = not ROTATIONS[rotation.kind].draw_matrices
        signs = 4 * native.SIGN_STAGES * rotation.draws * sum(block.searched.layout.widths)
        self._keeps = self._by_rows and signs <= _KEPT_BYTES
        self._made: dict[tuple[int, int], Rotations] = {}
        self._making = False

    def run(self, units: Sequence[int] | None = None) -> Iterator[int]:
        """Does what is not done of some of the rows, by their numbers in order; None: of all.

        Yields:
            Pairs of neurons compared since the last time. Between two of them it can be left.
        """
        units = range(len(self._rows)) if units is None else units
        parts = range(self.parts)
        every = (
            ((unit, part) for unit in units for part in parts)
            if self._by_rows
            else ((unit, part) for part in parts for unit in units)
        )
        for unit, part in every:
            if self.done[unit] == part:
                pairs = yield from self._do(unit, part)
                self.done[unit] += 1
                yield pairs if self._counted else 0
        self._made.clear()

    def end(self) -> None:
        """Takes what was found together, once all is done; it is in the search."""

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far beside what the search holds."""
        return {}

    def merge(self, done: Tensor, theirs: Mapping[str, Tensor]) -> None:
        """Takes in that others have searched other rows."""
        self.done = torch.maximum(self.done, done)

    def finished(self) -> int:
        """Pairs of neurons of all that is done."""
        columns = [0, *accumulate(self._columns if self._counted else (0,) * self.parts)]
        done = zip(self._rows, self.done.tolist(), strict=True)
        return sum(_height(rows) * columns[parts] for rows, parts in done)

    def needs(self, units: Sequence[int]) -> list[slice]:
        """The rows of the block that some units take."""
        return [self._rows[unit] for unit in units]

    def words(self) -> str:
        """What is being done, where pairs do not say it."""
        return "making a rotation" if self._making else ""

    def _do(self, unit: int, part: int) -> Generator[int, None, int]:
        rows = self._rows[unit]
        if part == 0:
            self.search.take(self.block, rows, late=bool(self.done[unit + 1 :].any()))
        else:
            number, draws = self.turns[part - 1]
            rotations = yield from self._rotations(number, draws)
            self.search.take_draws(self.block, rows, number, draws, rotations)
        return self._columns[part] * _height(rows)

    def _rotations(self, number: int, draws: range) -> Generator[int, None, Rotations]:
        key = number, draws.start
        if key not in self._made:
            if not self._keeps:
                self._made.clear()
            searched, self._making = self.block.searched, True
            made = yield from self.search.prepare(searched, number, draws, self.rotation)
            self._made[key], self._making = made, False
        return self._made[key]


def _height(rows: slice) -> int:
    return int(rows.stop - rows.start)


def same_neurons(matched: Layout, searched: Layout) -> Tensor:
    """For each neuron matched, the number of the same neuron among those searched; -1 for none."""
    same = torch.full((matched.neurons,), -1, dtype=torch.int64, device="cpu")
    for name, own in zip(matched.names, matched.slices, strict=True):
        if name in searched.names:
            other = searched.slices[searched.names.index(name)]
            width = min(own.stop - own.start, other.stop - other.start)
            same[own.start : own.start + width] = numbers(other.start, other.start + width)
    return same
