"""One-to-one matches: all neurons of two models assigned at once, and anew in each rotation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.machine.meanwhile import meanwhile
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.search.blocks import Block
from univfast.search.matches import Matches
from univfast.search.matchings import Matching
from univfast.search.partners import Search

__all__ = ["AssignWork", "assignment_bytes"]


class AssignWork:
    """The assignments of one direction: that of the models, and one of each rotation.

    Neurons are left over where one model has more, and where they are constant. A rotation has none
    that are constant: as many are left over, so that a draw has no more matches.

    Args:
        search: which all layers were given to at once.
        matching: one that assigns.
        rotation: of the model that is searched.
        block: all layers of both models.
        take: takes the matches in the end.

    Attributes:
        done: whether an assignment is: of the models, then of each draw; int64.
        place: the match of each neuron, int64; -1 for none.
        correlation: r with it; NaN for none.
        rotated: r with the match in each draw, ``[draws, neurons]``.
    """

    parts = 1

    def __init__(
        self,
        search: Search,
        matching: Matching,
        rotation: Baseline,
        block: Block,
        take: Callable[[Matches], None],
    ) -> None:
        self.search, self._matching, self.rotation = search, matching, rotation
        self.block, self._take = block, take
        layers = range(len(block.searched.layout.names))
        draws = [range(draw, draw + 1) for draw in range(rotation.draws)]
        self.turns = [(number, draw) for draw in draws for number in layers]
        neurons = len(block.cross)
        self.done = torch.zeros(1 + rotation.draws, dtype=torch.int64, device="cpu")
        self.place = torch.full((neurons,), -1, dtype=torch.int64, device="cpu")
        self.correlation = torch.full((neurons,), torch.nan, dtype=torch.float64, device="cpu")
        self.rotated = self.correlation.repeat(rotation.draws, 1)

    def run(self, units: Sequence[int] | None = None) -> Iterator[int]:
        """Makes the assignments of these numbers that are not done, in order; None: all.

        Yields:
            Pairs of neurons compared since the last time: 0 within an assignment, which is made
            anew where it is left.
        """
        units = range(len(self.done)) if units is None else units
        left = [unit for unit in units if not self.done[unit]]
        r = torch.empty(self.block.cross.shape if left else 0, dtype=torch.float64, device="cpu")
        for unit in left:
            yield from self._fill(r, unit - 1) if unit else self._fill_plain(r)
            match = yield from _assigned(self._matching, r, self.search.skip)
            (self.rotated[unit - 1] if unit else self.correlation).copy_(_taken(r, match))
            if unit == 0:
                self.place.copy_(match)
            self.done[unit] = 1
            yield r.numel()

    def end(self) -> None:
        """Gives the matches, once all is done, to what takes them."""
        width = self.block.cross.shape[1]
        back = torch.full((width,), torch.nan, dtype=torch.float64, device="cpu")
        found = self.place >= 0
        back[self.place[found]] = self.correlation[found]
        matches = self.search.matches(self.place, self.correlation, self.rotated)
        self._take(replace(matches, back=back))

    def tensors(self) -> dict[str, Tensor]:
        """What was assigned so far, by name, not copied."""
        return {"place": self.place, "correlation": self.correlation, "rotated": self.rotated}

    def merge(self, done: Tensor, theirs: Mapping[str, Tensor]) -> None:
        """Takes in what `done` and `tensors` of others are, that made other assignments."""
        new = (done > self.done).tolist()
        if new[0]:
            self.place.copy_(theirs["place"])
            self.correlation.copy_(theirs["correlation"])
        for draw, takes in enumerate(new[1:]):
            if takes:
                self.rotated[draw] = theirs["rotated"][draw]
        self.done = torch.maximum(self.done, done)

    def finished(self) -> int:
        """Pairs of neurons of all that is done."""
        return int(self.done.sum()) * self.block.cross.numel()

    def needs(self, units: Sequence[int]) -> list[slice]:
        """The rows of the block that some assignments take: all."""
        return [slice(0, len(self.block.cross))] if units else []

    def words(self) -> str:
        """What is being done, for an assignment says nothing until it has ended."""
        return f"making assignments: of the models, and of {self.rotation.draws} rotations"

    def _fill_plain(self, r: Tensor) -> Iterator[int]:
        """Fills ``r`` with the correlations, a tile at a time."""
        rows, columns = (slice(0, count) for count in r.shape)
        for part, _, tile in self.block.tiles(rows, columns):
            turned = tile * self.block.inverse[0][part, None]
            r[part] = turned.mul_(self.block.inverse[1]).cpu()
            yield 0

    def _fill(self, r: Tensor, draw: int) -> Iterator[int]:
        """Fills ``r`` with the correlations with one rotation, a tile at a time."""
        block, draws = self.block, range(draw, draw + 1)
        every = slice(0, len(r))
        for number, columns in enumerate(block.searched.layout.slices):
            rotations = yield from self.search.prepare(block.searched, number, draws, self.rotation)
            inverse = self.search.inverse(block.searched, number, draws)
            for part, _, tile in block.tiles(every, columns):
                turned = rotations.apply(tile)[0]
                r[part, columns] = (turned * block.inverse[0][part, None] * inverse[0]).cpu()
                yield 0
            same = self.search.same
            if same is not None and (own := same.own(block, every, number)) is not None:
                row = (own >= 0).nonzero()[:, 0].cpu()
                found = r[row, columns.start + own.cpu()[row]].clamp(-1, 1)
                same.rotated[draws.start, row] = found.to(same.rotated.device)
        r[:, block.inverse[1].isnan().cpu()] = torch.nan


def _assigned(matching: Matching, r: Tensor, skip: Tensor | None) -> Generator[int, None, Tensor]:
    """The column of each row, int64 ``[rows]``; -1 for rows left over. Yields 0 while it is sought.

    Args:
        matching: one that assigns.
        r: ``[rows, columns]``, NaN for the dead; clamped, and written to.
        skip: the column that each row leaves out; None for none.
    """
    r.clamp_(-1.0, 1.0)
    if skip is not None:
        # Such a pair costs more than all others can gain by it, from -1 to 1 each, so that one is
        # taken only where no assignment is without.
        forbidden = -2.0 * min(r.shape) - 1
        skip = skip.cpu()
        own = (skip >= 0).nonzero()[:, 0]
        same = r[own, skip[own]]
        r[own, skip[own]] = torch.where(same.isnan(), same, forbidden)
    dead_rows, dead_columns = r.isnan().all(dim=1), r.isnan().all(dim=0)
    rows, columns = (~dead_rows).nonzero()[:, 0], (~dead_columns).nonzero()[:, 0]
    match = torch.full((len(r),), -1, dtype=torch.int64, device="cpu")
    if len(rows) and len(columns):
        whole = len(rows) * len(columns) == r.numel()
        live = r if whole else r[rows[:, None], columns]
        pairs = yield from meanwhile(lambda: matching.pairs(live.numpy()))
        i, j = (torch.from_numpy(x) for x in pairs)
        allowed = live[i, j] >= -1
        match[rows[i[allowed]]] = columns[j[allowed]]
    return match


def assignment_bytes(a: Layout, b: Layout) -> int:
    """That an assignment takes beside the state: r, that of live neurons, the solver's copy."""
    return 3 * 8 * a.neurons * b.neurons


def _taken(r: Tensor, match: Tensor) -> Tensor:
    """r of each row with its match, NaN where it has none."""
    values = r[numbers(len(match)), match.clamp(min=0)]
    return torch.where(match >= 0, values, torch.nan)
