"""All pairs of two models on a sample of tokens, by tiles of co-moments that are never kept.

A tile has some neurons of A and one layer of B. What is drawn evenly is added first: rotations of B
are compared on it alone, as the other tokens, at which some neuron is extreme, are no fair sample
and would raise the highest r with any rotated neuron. Then the others are added, and the best
partners are taken, in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.native import Best
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import Rotations, draw_bytes, draws_together, make_rotations
from univfast.search.partners import same_neurons
from univfast.sums.chunks import Chunk
from univfast.sums.co_moments import CoMoments, all_deltas, chunk_tokens, tile_bytes
from univfast.sums.products import Multiplier

__all__ = ["SampleSearch", "Sampled", "tile_memory"]

# Of a tile in float64: far above what a call costs, and beside a sample next to nothing. Its
# transpose and the product that is added to it take as much again and half of it.
_TILE_BYTES = 256 << 20
# Dense rotations that are kept from tile to tile; larger ones are made again, and again.
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Sampled:
    """A model on a sample of tokens.

    Attributes:
        layout: its layers.
        layers: ``[tokens, width]`` of each, the tokens drawn evenly first.
        even: how many these are.
    """

    layout: Layout
    layers: list[Tensor]
    even: int

    def parts(self, chunk: int) -> list[slice]:
        """Runs of tokens that are multiplied at once; none has both kinds."""
        total = len(self.layers[0])
        ends = [*range(0, self.even, chunk), *range(self.even, total, chunk), total]
        return [slice(i, j) for i, j in pairwise(ends) if j > i]


class _Neurons:
    """Some neurons as products take them, run by run, and what their means add to each."""

    def __init__(
        self, x: Tensor, parts: Sequence[slice], rotated: bool, how: tuple[str, str], threads: int
    ) -> None:
        self.chunks: list[Chunk] = []
        self.deltas: list[Tensor] = []
        self.inverses: list[Tensor] = []  # 1 / norm over the runs so far
        mean, m2 = torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device)
        done = 0
        for part in parts:
            rows = x[part]
            moments = native.neuron_moments(rows, threads)
            assert isinstance(moments, Tensor)  # bad values were refused before
            own = Multiplier(*how, x.device, threads)  # its memory is kept with the chunk
            part_of = [slice(0, rows.shape[1])]
            chunk = Chunk(part_of, [rows], moments, own, "sample", rotated, threads)
            delta, total = chunk.mean - mean, done + len(rows)
            m2 = m2 + chunk.m2 + done * (len(rows) / total) * delta * delta
            mean = mean + delta * (len(rows) / total)
            done = total
            self.chunks.append(chunk)
            self.deltas.append(delta)
            self.inverses.append(torch.where(m2 > 0, m2.rsqrt(), torch.nan))


class SampleSearch:
    """Both models on a sample, neurons of A by neurons of A.

    Args:
        a, b: the models on the sample.
        rotation: of B; none where it has no draws.
        count: partners to keep in either direction.
        exclude_self: leave out the neuron of the same number in the layer of the same name.
        baseline_only: look for no partners, but in rotations alone.
        keeps: B stays in memory as products take it, and is not made so again for other neurons.
        how: what layers are multiplied as, and the precision of float32 on a CUDA device.
        threads: at most this many.
        device: where products are taken.

    Attributes:
        forward: the best partners of A's neurons, ``[neurons, count]``.
        backward: those of B's.
        rotated: highest r of A's neurons in each rotation, ``[draws, neurons]``; -inf for none.
        rests_on: effective tokens of A's neurons in the sample, float64: tokens over kurtosis, by
            the share of their variance that the sample has, where it has less; 0 for a constant.
        rests_on_back: the same of B's.
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        rotation: Baseline,
        count: int,
        exclude_self: bool,
        baseline_only: bool,
        keeps: bool,
        how: tuple[str, str],
        threads: int,
        device: torch.device,
    ) -> None:
        self._a, self._b = a, b
        self._rotation, self._how = rotation, how
        self._multiplier = Multiplier(*how, device, threads)
        self._baseline_only = baseline_only
        self._threads, self._device = threads, device
        self.skip = same_neurons(a, b).to(device) if exclude_self else None
        self._skip_back = same_neurons(b, a).to(device) if exclude_self else None
        self.forward = Best.none(a.neurons, min(count, b.neurons), device=device)
        self.backward = Best.none(b.neurons, min(count, a.neurons), device=device)
        self.rotated = torch.full(
            (rotation.draws, a.neurons), -torch.inf, dtype=torch.float64, device=device
        )
        self.rests_on, self.rests_on_back = (
            torch.zeros(x.neurons, dtype=torch.float64, device=device) for x in (a, b)
        )
        self._keeps, self._kept = keeps, dict[int, _Neurons]()
        self._rotations: dict[tuple[int, int], tuple[Rotations | None, Tensor]] = {}

    def measure(self, side: int, model: Sampled, variance: Tensor | None) -> None:
        """Takes in how much of the sample the neurons of A (0) or B (1) rest on, before `add`.

        ``variance`` is that over all tokens: where a sample has less of it, as of a neuron that did
        not fire in it, a neuron rests on as much less. None: there are no others.
        """
        output = (self.rests_on, self.rests_on_back)[side]
        for part, x in zip(model.layout.slices, model.layers, strict=True):
            step = max(1, _TILE_BYTES // (8 * len(x)))
            for first in range(0, x.shape[1], step):
                some = x[:, first : first + step]
                own = slice(part.start + first, part.start + first + some.shape[1])
                whole = None if variance is None else variance[own]
                output[own] = _rests_on(some, whole, self._threads)

    def add(self, a: Sampled, b: Sampled, rows: slice) -> None:
        """Searches for partners of some neurons of A."""
        parts = a.parts(chunk_tokens(self._device))
        if self._baseline_only:
            parts = [part for part in parts if part.stop <= a.even]
        own = []
        for layer, x in zip(self._a.slices, a.layers, strict=True):
            start, stop = max(rows.start, layer.start), min(rows.stop, layer.stop)
            if start < stop:
                x = x[:, start - layer.start : stop - layer.start].to(self._device)
                own.append((start, _Neurons(x, parts, False, self._how, self._threads)))
        for number in range(len(self._b.names)):
            y = b.layers[number].to(self._device)
            columns = self._kept.get(number)
            if columns is None:
                columns = _Neurons(y, parts, self._rotation.draws > 0, self._how, self._threads)
            if self._keeps:
                self._kept[number] = columns
            draws = [
                (part, *self._draws(number, y, b, part))
                for part in (draws_together(self._rotation) if self._rotation.draws else [])
            ]
            even = sum(part.stop <= a.even for part in parts)
            for start, neurons in own:
                for first, tile in self._tiles(neurons, columns, even, number, start, draws):
                    if not self._baseline_only:
                        self._take(neurons, columns, number, first, start, tile)

    def _tiles(
        self,
        rows: _Neurons,
        columns: _Neurons,
        even: int,
        number: int,
        start: int,
        draws: list[tuple[range, Rotations, Tensor]],
    ) -> Iterator[tuple[int, Tensor]]:
        """Co-moments over the whole sample, tile by tile; rotations are compared on the way."""
        height, width = (len(x.inverses[0]) for x in (rows, columns))
        step = max(1, min(height, _TILE_BYTES // (8 * width)))
        tile = torch.empty(step, width, dtype=torch.float64, device=self._device)
        place = self._b.slices[number]
        for first in range(0, height, step):
            own = slice(first, min(first + step, height))
            c = tile[: own.stop - own.start].zero_()
            everywhere = slice(start + own.start, start + own.stop)
            for i in range(len(rows.chunks)):
                self._add_run(c, rows, columns, own, i)
                if i + 1 != even:
                    continue
                inverse = rows.inverses[i][own]
                for part, rotations, theirs in draws:
                    rotations.raise_best(
                        c,
                        (inverse, theirs),
                        self.rotated[part.start : part.stop, everywhere],
                        _skipped(self.skip, everywhere, place.start),
                        self._threads,
                    )
            yield own.start, c

    def _add_run(self, c: Tensor, rows: _Neurons, columns: _Neurons, own: slice, i: int) -> None:
        """Adds a run of tokens to a tile, about the means of all runs so far."""
        one, two = rows.chunks[i], columns.chunks[i]
        tokens = one.tokens
        before = sum(chunk.tokens for chunk in rows.chunks[:i])
        weight = before * (tokens / (before + tokens))
        shift = None if one.shift is None else one.shift[own]
        deltas = all_deltas(
            (weight * rows.deltas[i][own], columns.deltas[i]), (shift, two.shift), tokens
        )
        scales, x = (one.unscale[own], two.unscale), one.layer(0).of(own)
        self._multiplier.add(c, x, two.layer(0), scales, deltas, tile_bytes(self._device))

    def _take(
        self,
        rows: _Neurons,
        columns: _Neurons,
        number: int,
        first: int,
        start: int,
        c: Tensor,
    ) -> None:
        """Takes a tile into the best partners of both models."""
        place, own = self._b.slices[number], slice(first, first + len(c))
        everywhere = slice(start + own.start, start + own.stop)
        inverse = rows.inverses[-1][own], columns.inverses[-1]
        native.best_pairs(
            c,
            inverse,
            (everywhere.start, place.start),
            Best(self.forward.correlation[everywhere], self.forward.place[everywhere]),
            None,
            _skipped(self.skip, everywhere, place.start),
            self._threads,
        )
        native.best_pairs(
            c.T.contiguous(),
            inverse[::-1],
            (place.start, everywhere.start),
            Best(self.backward.correlation[place], self.backward.place[place]),
            None,
            _skipped(self._skip_back, place, everywhere.start),
            self._threads,
        )

    def _draws(self, number: int, y: Tensor, b: Sampled, draws: range) -> tuple[Rotations, Tensor]:
        """Some rotations of a layer, and 1 / norm of its rotated neurons over the even tokens."""
        key = (number, draws.start)
        name, width = self._b.names[number], self._b.widths[number]
        rotations, inverse = self._rotations.get(key, (None, None))
        if rotations is None:
            rotations = make_rotations(self._rotation, width, name, draws).to(self._device)
        if inverse is None:
            moments = self._rotated_moments(number, y, b, rotations, draws)
            inverse = torch.where(moments > 0, moments.rsqrt(), torch.nan)
        held = draw_bytes(self._rotation, width) * self._rotation.draws * len(self._b.names)
        self._rotations[key] = (rotations if held <= _KEPT_BYTES else None), inverse
        return rotations, inverse

    def _rotated_moments(
        self, number: int, y: Tensor, b: Sampled, rotations: Rotations, draws: range
    ) -> Tensor:
        """Of a layer's rotated neurons, float64 ``[draws, width]``, as sums of all pairs have them.

        They are those of a model with one neuron, whose co-moments cost nothing.
        """
        layer = Layout((self._b.names[number],), (self._b.widths[number],))
        one = Layout(("one",), (1,))
        products, precision = self._how
        settings = self._threads, self._device, precision, products
        sums = CoMoments(one, layer, None, self._rotation, *settings)
        for part in b.parts(chunk_tokens(self._device)):
            if part.stop <= b.even:
                both = y[part, :1].contiguous(), y[part]
                moments = [native.neuron_moments(x, self._threads) for x in both]
                assert isinstance(moments[0], Tensor)
                assert isinstance(moments[1], Tensor)
                sums.add([both[0]], [both[1]], moments[0], moments[1])
        return sums.b.second_moments(0, rotations, draws, self._threads).clone()

    def tensors(self) -> dict[str, Tensor]:
        """What was found so far, by name, not copied."""
        return {
            "top": self.forward.correlation,
            "top_place": self.forward.place,
            "back": self.backward.correlation,
            "back_place": self.backward.place,
            "rotated": self.rotated,
            "rests_on": self.rests_on,
            "rests_on_back": self.rests_on_back,
        }

    def merge(self, found: dict[str, Tensor]) -> None:
        """Takes in what was found for other neurons of A."""
        other = {name: x.to(self._device) for name, x in found.items()}
        for mine, name in ((self.forward, "top"), (self.backward, "back")):
            r = torch.cat([mine.correlation, other[name]], dim=1)
            place = torch.cat([mine.place, other[f"{name}_place"]], dim=1)
            order = place.argsort(dim=1, stable=True)
            order = order.gather(1, r.gather(1, order).argsort(dim=1, stable=True, descending=True))
            order = order[:, : mine.place.shape[1]]
            mine.correlation.copy_(r.gather(1, order))
            mine.place.copy_(place.gather(1, order))
        torch.maximum(self.rotated, other["rotated"], out=self.rotated)
        for own, name in ((self.rests_on, "rests_on"), (self.rests_on_back, "rests_on_back")):
            torch.maximum(own, other[name], out=own)

    def reset(self) -> None:
        """Forgets what was found."""
        for name, tensor in self.tensors().items():
            none = 0.0 if name.startswith("rests_on") else -torch.inf
            tensor.fill_(-1 if name.endswith("place") else none)


def _rests_on(x: Tensor, variance: Tensor | None, threads: int) -> Tensor:
    """Effective tokens of each neuron ``[tokens, neurons]``: their number over the kurtosis."""
    moments = native.neuron_moments(x, threads)
    assert isinstance(moments, Tensor)  # bad values were refused before
    mean, m2 = moments
    dtype = torch.promote_types(x.dtype, torch.float32)
    square = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.where(m2 > 0, (len(x) / m2).sqrt(), 0.0)
    native.standardise(x, mean, scale, square, threads)
    fourth = square.square_().square_().sum(dim=0).double()
    found = torch.where(m2 > 0, len(x) ** 2 / fourth, 0.0).clamp(0.0, len(x))
    if variance is None:
        return found
    return torch.where(variance > 0, found * (m2 / len(x) / variance).clamp(max=1.0), 0.0)


def _skipped(skip: Tensor | None, rows: slice, first_column: int) -> Tensor | None:
    return None if skip is None else (skip[rows] - first_column).contiguous()


def tile_memory(rows: int, columns: int) -> int:
    """Bytes of a tile of so many neurons, at most, and of what is beside it."""
    return 5 * min(_TILE_BYTES, 8 * rows * columns) // 2
