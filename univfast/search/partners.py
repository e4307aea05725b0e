"""From co-moments to matches: each neuron's partners in another model, and in rotations of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.native import Best
from univfast.native.place import numbers
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import draws_together, make_rotations
from univfast.search.matches import Matches, matches_by_index
from univfast.search.matchings import Matching
from univfast.search.same_number import SameNumbers
from univfast.sums.co_moments import Side, tile_bytes

__all__ = [
    "Search",
    "Tell",
    "assignment_bytes",
    "same_neurons",
    "silent",
]

# Called with the number of pairs of layers that were searched since the last call.
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
        self._rotation, self._threads = rotation, threads
        self._device = device
        self._skip = same_neurons(matched, searched).to(device) if exclude_self else None
        self._top = Best.none(matched.neurons, min(top_k, searched.neurons), device=device)
        # Of each neuron searched, who likes it best.
        self._back = Best.none(searched.neurons, device=device)
        self._rotated = torch.full(
            (rotation.draws, matched.neurons), -torch.inf, dtype=torch.float64, device=device
        )
        self._same = same
        self._alive = torch.zeros(matched.neurons, dtype=torch.bool, device=device)
        self._inverses: dict[tuple[str, int], Tensor] = {}  # of rotated norms [draws, neurons]

    def add(self, cross: Tensor, matched: Side, searched: Side, tell: Tell = silent) -> None:
        """Takes in the co-moments of some layers of either model, in increasing order.

        Args:
            cross: ``[neurons of matched, neurons of searched]``; any strides.
            matched: of neighbouring layers.
            searched: of neighbouring layers; kept with this search's rotations.
            tell: called as pairs of layers are done.
        """
        block = _Block(
            cross,
            (matched.inverse_norm, searched.inverse_norm),
            (self.matched.start(matched.layout), self.searched.start(searched.layout)),
        )
        rows, columns = block.place
        self._alive[rows] = ~block.inverse[0].isnan()
        if self._same is not None:
            self._same.add(cross, matched, searched)
        back = Best(self._back.correlation[columns], self._back.place[columns])
        for part, own, tile in block.tiles(slice(0, cross.shape[1])):
            native.best_pairs(
                tile,
                (block.inverse[0][part], block.inverse[1]),
                (own.start, columns.start),
                Best(self._top.correlation[own], self._top.place[own]),
                back,
                self._skipped(own, columns.start),
                self._threads,
            )
        if self._rotation.draws:
            for i, part in enumerate(searched.layout.slices):
                for draws in draws_together(self._rotation):
                    self._add_draws(block, matched, searched, i, part, draws)
                tell(len(matched.layout.names))
        else:
            tell(_pairs(matched, searched))

    def _add_draws(
        self,
        block: _Block,
        matched: Side,
        searched: Side,
        number: int,
        columns: slice,
        draws: range,
    ) -> None:
        layer, width = searched.layout.names[number], columns.stop - columns.start
        rotations = make_rotations(self._rotation, width, layer, draws).to(self._device)
        key = (layer, draws.start)
        if key not in self._inverses:
            moments = searched.second_moments(number, rotations, draws, self._threads)
            self._inverses[key] = _inverse_root(moments)
        if self._same is not None:
            self._same.add_draws(block.cross, matched, layer, rotations, self._inverses[key], draws)
        for part, own, tile in block.tiles(columns):
            rotations.raise_best(
                tile,
                (block.inverse[0][part], self._inverses[key]),
                self._rotated[draws.start : draws.stop, own],
                self._skipped(own, block.place[1].start + columns.start),
                self._threads,
            )

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
            **({} if self._same is None else self._same.tensors()),
        }

    def by_index(self, tokens: int) -> Matches | None:
        """Neurons with those of the same number; None where the models have other layers."""
        return None if self._same is None else matches_by_index(self._same.correlations(tokens))

    def best(self) -> Matches:
        """Each neuron with the highest correlation of all neurons searched."""
        top = self._top.cpu()
        correlation = torch.where(top.place >= 0, top.correlation, torch.nan)
        rotated = self._rotated.cpu()
        rotated = torch.where(rotated > -torch.inf, rotated, torch.nan)
        return self._matches(top, top.place[:, 0], correlation[:, 0], rotated)

    def _matches(self, top: Best, match: Tensor, correlation: Tensor, rotated: Tensor) -> Matches:
        """Matches with a neuron each, -1 for none; ``top`` are the partners, on the CPU."""
        back = self._back.cpu()
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

    def assigned(
        self,
        matching: Matching,
        cross: Tensor,
        matched: Side,
        searched: Side,
        rotation: Baseline,
        tell: Tell = silent,
    ) -> Matches:
        """What a matching that assigns pairs, once `add` was given all layers at once.

        Neurons are left over where one model has more, and where they are constant. A rotation has
        none that are constant: as many are left over, so that a draw has no more matches.
        """
        r = cross * matched.inverse_norm[:, None]
        r = r.mul_(searched.inverse_norm).cpu()  # where it is assigned
        match = self._assign(matching, r)
        correlation = _taken(r, match)
        back = torch.full((r.shape[1],), torch.nan, dtype=torch.float64, device="cpu")
        back[match[match >= 0]] = correlation[match >= 0]
        block = _Block(cross, (matched.inverse_norm, searched.inverse_norm), (0, 0))
        dead = searched.inverse_norm.isnan().cpu()
        shares = _shares(_pairs(matched, searched), 1 + rotation.draws)
        tell(next(shares))
        rotated = torch.empty(rotation.draws, len(match), dtype=torch.float64, device="cpu")
        for draw in range(rotation.draws):
            for i, part in enumerate(searched.layout.slices):
                self._rotate(r[:, part], block, (matched, searched), i, rotation, draw)
            r[:, dead] = torch.nan
            rotated[draw] = _taken(r, self._assign(matching, r))
            tell(next(shares))
        return replace(self._matches(self._top.cpu(), match, correlation, rotated), back=back)

    def _rotate(
        self,
        r: Tensor,
        block: _Block,
        sides: tuple[Side, Side],
        number: int,
        rotation: Baseline,
        draw: int,
    ) -> None:
        """Fills ``r`` with the correlations with one draw of a layer, a tile at a time."""
        matched, searched = sides
        draws, columns = range(draw, draw + 1), searched.layout.slices[number]
        name, width = searched.layout.names[number], searched.layout.widths[number]
        rotations = make_rotations(rotation, width, name, draws).to(self._device)
        moments = searched.second_moments(number, rotations, draws, self._threads)
        inverse = _inverse_root(moments)
        if self._same is not None:
            self._same.add_draws(block.cross, matched, name, rotations, inverse, draws)
        for part, _, tile in block.tiles(columns):
            turned = rotations.apply(tile)[0]
            r[part] = (turned * block.inverse[0][part, None] * inverse[0]).cpu()

    def _assign(self, matching: Matching, r: Tensor) -> Tensor:
        """The column of each row, int64 ``[rows]``; -1 for rows left over. Clamps ``r``."""
        r.clamp_(-1.0, 1.0)
        if self._skip is not None:
            # Such a pair costs more than all others can gain by it, from -1 to 1 each, so that one
            # is taken only where no assignment is without.
            forbidden = -2.0 * min(r.shape) - 1
            skip = self._skip.cpu()
            own = (skip >= 0).nonzero()[:, 0]
            same = r[own, skip[own]]
            r[own, skip[own]] = torch.where(same.isnan(), same, forbidden)
        dead_rows, dead_columns = r.isnan().all(dim=1), r.isnan().all(dim=0)
        rows, columns = (~dead_rows).nonzero()[:, 0], (~dead_columns).nonzero()[:, 0]
        match = torch.full((len(r),), -1, dtype=torch.int64, device="cpu")
        if len(rows) and len(columns):
            whole = len(rows) * len(columns) == r.numel()
            live = r if whole else r[rows[:, None], columns]
            i, j = (torch.from_numpy(x) for x in matching.pairs(live.numpy()))
            allowed = live[i, j] >= -1
            match[rows[i[allowed]]] = columns[j[allowed]]
        return match

    def _skipped(self, rows: slice, first_column: int) -> Tensor | None:
        """The column of a tile that each row leaves out; outside of the tile for none."""
        return None if self._skip is None else (self._skip[rows] - first_column).contiguous()


class _Block:
    """Co-moments of the neurons to match (rows) with those of some layers searched (columns)."""

    def __init__(
        self, cross: Tensor, inverse: tuple[Tensor, Tensor], start: tuple[int, int]
    ) -> None:
        self.cross = cross
        self.inverse = inverse
        rows, columns = cross.shape
        # Among all neurons of both models.
        self.place = slice(start[0], start[0] + rows), slice(start[1], start[1] + columns)

    def tiles(self, columns: slice) -> Iterator[tuple[slice, slice, Tensor]]:
        """All rows with some of the columns, tile by tile: rows here, among all, co-moments."""
        rows = len(self.cross)
        step = max(1, tile_bytes(self.cross.device) // (8 * (columns.stop - columns.start)))
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            tile = self.cross[part, columns]
            # Rows of a transpose are no rows in memory: they are copied, a tile at a time.
            tile = tile if tile.stride(1) == 1 or tile.shape[1] == 1 else tile.contiguous()
            start = self.place[0].start
            yield part, slice(start + part.start, start + part.stop), tile


def assignment_bytes(a: Layout, b: Layout) -> int:
    """That an assignment takes beside the state: r, that of live neurons, the solver's copy."""
    return 3 * 8 * a.neurons * b.neurons


def _pairs(matched: Side, searched: Side) -> int:
    return len(matched.layout.names) * len(searched.layout.names)


def _shares(total: int, parts: int) -> Iterator[int]:
    """A whole number in so many parts, as even as can be."""
    return (total * (i + 1) // parts - total * i // parts for i in range(parts))


def same_neurons(matched: Layout, searched: Layout) -> Tensor:
    """For each neuron matched, the number of the same neuron among those searched; -1 for none."""
    same = torch.full((matched.neurons,), -1, dtype=torch.int64, device="cpu")
    for name, own in zip(matched.names, matched.slices, strict=True):
        if name in searched.names:
            other = searched.slices[searched.names.index(name)]
            width = min(own.stop - own.start, other.stop - other.start)
            same[own.start : own.start + width] = numbers(other.start, other.start + width)
    return same


def _inverse_root(moments: Tensor) -> Tensor:
    return torch.where(moments > 0, moments.rsqrt(), torch.nan)


def _taken(r: Tensor, match: Tensor) -> Tensor:
    """r of each row with its match, NaN where it has none."""
    values = r[numbers(len(match)), match.clamp(min=0)]
    return torch.where(match >= 0, values, torch.nan)
