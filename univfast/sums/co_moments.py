"""The state of the all-pairs correlation, and how a chunk of tokens is added to it.

Everything is a sum over tokens about the mean, in float64, in units of the activations; sets of
tokens merge by the pairwise update of Chan, Golub and LeVeque (1983). A chunk is standardised
first (its own mean subtracted, divided by a power of two near its standard deviation), so that the
matrix product, in float32 unless the input is float64, sees neither offsets nor scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.machine.processes import Processes
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.nulls.rotations import HadamardRotations, Rotations, is_structured
from univfast.sums import moments as m
from univfast.sums.chunks import Chunk
from univfast.sums.products import Factor, Multiplier

__all__ = ["CoMoments", "Side", "all_deltas", "chunk_tokens", "tile_bytes"]

# Tokens of a product: enough that adding it to the state, which does not depend on them, costs a
# few percent of it; few enough that a chunk stays small beside the state. A CUDA device multiplies
# faster beside the rate of its memory (H200: a product of 16,384 tokens takes 41 ps a pair, adding
# it 24 bytes or 6 ps).
_CHUNK_TOKENS = 4096
_CUDA_CHUNK_TOKENS = 16_384
# A few times the cache, where products run at full rate; a CUDA device needs more work at a time.
_TILE_BYTES = 32 << 20
_CUDA_TILE_BYTES = 1 << 30

# Neurons of the blocks that co-moments within a layer are cut into, to leave out the lower triangle
# but for the blocks on the diagonal.
_BLOCK = 512

# Structured rotations of a layer are applied to its tokens as they come, and their second moments
# kept, where there are few of them for its width: that takes less time than the co-moments within
# the layer, which serve any number and kind. Measured on two cores with AVX-512: equal at one draw
# for 22 (of 512) to 35 neurons (of 2,048).
_WIDTH_OF_A_DRAW = 32


def chunk_tokens(device: torch.device) -> int:
    """Tokens of a product."""
    return _CUDA_CHUNK_TOKENS if place.on_cuda(device) else _CHUNK_TOKENS


def tile_bytes(device: torch.device) -> int:
    """Of the largest product, or part of the state, that is taken at a time."""
    return _CUDA_TILE_BYTES if place.on_cuda(device) else _TILE_BYTES


class Side:
    """The moments of one model's neurons.

    Attributes:
        layout: its layers.
        mean, m2: float64 ``[neurons]``.
        rotation: what is kept serves to rotate this model by it; None: nothing is.
        within: co-moments within the layers whose number it is, float64 ``[width, width]``. Only
            blocks on and above the diagonal are up to date; `second_moments` completes them.
        streamed: of the other layers, the moments of the tokens rotated, as `univfast.sums.moments`
            has them.
    """

    def __init__(self, layout: Layout, rotation: Baseline | None, device: torch.device) -> None:
        self.layout = layout
        self.mean, self.m2 = torch.zeros(2, layout.neurons, dtype=torch.float64, device=device)
        self.rotation = rotation
        self.within: dict[int, Tensor] = {}
        self.streamed: dict[int, Tensor] = {}
        self._rotations: dict[int, HadamardRotations] = {}
        for i, (name, width) in enumerate(zip(layout.names, layout.widths, strict=True)):
            if rotation is None:
                continue
            if streams(rotation, width):
                rotations = HadamardRotations(width, range(rotation.draws), rotation.seed, name)
                self._rotations[i] = rotations.to(device)
                self.streamed[i] = m.zero(width, rotation.draws).to(device)
            else:
                self.within[i] = torch.zeros(width, width, dtype=torch.float64, device=device)

    @property
    def inverse_norm(self) -> Tensor:
        """1 / sqrt(m2), float64 ``[neurons]``; NaN where a neuron is constant."""
        return torch.where(self.m2 > 0, self.m2.rsqrt(), torch.nan)

    def second_moments(
        self, layer: int, rotations: Rotations, draws: range, threads: int
    ) -> Tensor:
        """Of the rotated neurons of a layer, float64 ``[draws, width]``; 0 for what is rounding.

        ``rotations`` are those ``draws`` of the layer.
        """
        if layer in self.streamed:
            found = self.streamed[layer][m.ROTATED :: 2][draws.start : draws.stop]
        else:
            s = self.within[layer]
            for rows, columns in _upper_blocks(0, len(s)):
                if rows != columns:
                    s[columns, rows] = s[rows, columns].T
            found = rotations.second_moments(s, threads)
        return m.beyond_rounding(found, self.m2[self.layout.slices[layer]])

    def stream(self, layers: Sequence[Tensor], before: int, threads: int) -> None:
        """Takes a chunk ``[tokens, width]`` of each layer into `streamed`, behind other tokens."""
        for i, rotations in self._rotations.items():
            chunk = native.paired_moments(layers[i], layers[i], None, rotations.signs, threads)
            assert isinstance(chunk, Tensor)  # bad values were refused before
            state, tokens = self.streamed[i], len(layers[i])
            self.streamed[i].copy_(m.merge(state, before, chunk, tokens, rotations))

    def merge_streamed(self, other: Side, before: int, tokens: int) -> None:
        """Takes in what another side, of as many tokens, has streamed."""
        for i, rotations in self._rotations.items():
            merged = m.merge(self.streamed[i], before, other.streamed[i], tokens, rotations)
            self.streamed[i].copy_(merged)

    def move_streamed(self, tokens: int, mean: Tensor) -> None:
        """Puts the sums of what was streamed about another mean, ``[neurons]`` of all layers."""
        for i, rotations in self._rotations.items():
            own = mean[self.layout.slices[i]].expand(2, -1)
            self.streamed[i].copy_(m.about(self.streamed[i], tokens, own, rotations))


def streams(rotation: Baseline, width: int) -> bool:
    """Whether a layer's tokens are rotated as they come, and no co-moments within it kept."""
    structured = is_structured(rotation.kind, width)
    return structured and rotation.draws * _WIDTH_OF_A_DRAW <= width


class CoMoments:
    """Moments of two models' neurons, and the co-moments of all pairs between them.

    Attributes:
        tokens: how many were added.
        a, b: the two models.
        cross: float64 ``[neurons of A, neurons of B]``.
        multiplied: what the products of A and B were made of (`univfast.sums.products`).
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        rotation_a: Baseline | None,
        rotation_b: Baseline | None,
        threads: int,
        device: torch.device = devices.CPU,
        precision: str = "float32",
        products: str = "auto",
    ) -> None:
        """Rotations are of the models that are searched; None for none."""
        self.tokens = 0
        self.a, self.b = Side(a, rotation_a, device), Side(b, rotation_b, device)
        self.cross = torch.zeros(a.neurons, b.neurons, dtype=torch.float64, device=device)
        self._threads = threads
        self.device, self._products = device, (precision, products)
        self._multiplier = Multiplier(products, precision, device, threads)
        self.multiplied: set[str] = set()

    def add(
        self, a: Sequence[Tensor], b: Sequence[Tensor], moments_a: Tensor, moments_b: Tensor
    ) -> None:
        """Takes in a chunk of tokens.

        Args:
            a: ``[tokens, neurons]`` of each layer of A, neuron stride 1; at most `chunk_tokens`.
            b: the same tokens in each layer of B.
            moments_a: mean and second moment of the neurons of A, as `native.neuron_moments` gives
                them, float64 ``[2, neurons]``.
            moments_b: the same of B.
        """
        tokens = len(a[0])
        x = self._chunk("a", self.a, a, moments_a)
        y = self._chunk("b", self.b, b, moments_b)
        weight = self.tokens * (tokens / (self.tokens + tokens))
        delta_a, delta_b = x.mean - self.a.mean, y.mean - self.b.mean
        scales = (x.unscale, y.unscale)
        deltas = all_deltas((weight * delta_a, delta_b), (x.shift, y.shift), tokens)

        for left in x.factors:
            for right in y.factors:
                self.multiplied.add(self._add_product(self.cross, left, right, scales, deltas))
        for side, chunk, delta in ((self.a, x, delta_a), (self.b, y, delta_b)):
            side.stream(a if side is self.a else b, self.tokens, self._threads)
            for i, s in side.within.items():
                part, layer = side.layout.slices[i], chunk.layer(i)
                unscale, own = chunk.unscale[part], delta[part]
                shift = None if chunk.shift is None else chunk.shift[part]
                own_deltas = all_deltas((weight * own, own), (shift, shift), tokens)
                layer = layer._replace(neurons=slice(0, len(s)))  # of the block
                for rows, columns in _upper_blocks(0, len(s)):
                    blocks = layer.of(rows), layer.of(columns)
                    self._add_product(s, *blocks, (unscale, unscale), own_deltas)
            side.m2 += chunk.m2 + weight * delta * delta
            side.mean += delta * (tokens / (self.tokens + tokens))
        self.tokens += tokens

    def reset(self) -> None:
        """Forgets every token, but keeps the memory."""
        self.tokens = 0
        self.multiplied.clear()
        for tensor in self.tensors().values():
            tensor.zero_()

    def merge(self, other: CoMoments) -> None:
        """Takes in the tokens of another state of the same layers."""
        tokens = self.tokens + other.tokens
        if other.tokens == 0:
            return
        weight = self.tokens * (other.tokens / tokens)
        delta_a, delta_b = other.a.mean - self.a.mean, other.b.mean - self.b.mean
        _add_states(self.cross, other.cross, weight * delta_a, delta_b, self._threads)
        sides = ((self.a, other.a, delta_a), (self.b, other.b, delta_b))
        for mine, theirs, delta in sides:
            for i, s in mine.within.items():
                own = delta[mine.layout.slices[i]]
                _add_states(s, theirs.within[i], weight * own, own, self._threads)
            mine.merge_streamed(theirs, self.tokens, other.tokens)
            mine.m2 += theirs.m2 + weight * delta * delta
            mine.mean += delta * (other.tokens / tokens)
        self.tokens = tokens
        self.multiplied |= other.multiplied

    def reduce(self, processes: Processes, total: int, dst: int | None) -> None:
        """Adds the states of several processes, ``total`` tokens: in all of them, or in ``dst``."""
        if total == 0:
            return
        deltas = []
        for _, side in self._sides():
            mean = self.tokens * side.mean
            processes.add(mean)
            mean /= total
            deltas.append(side.mean - mean)
            side.move_streamed(self.tokens, mean)
            side.mean.copy_(mean)
        self.cross.addr_(self.tokens * deltas[0], deltas[1])
        for (_, side), delta in zip(self._sides(), deltas, strict=True):
            side.m2 += self.tokens * delta * delta
            for i, s in side.within.items():
                own = delta[side.layout.slices[i]]
                s.addr_(self.tokens * own, own)
        for tensor in self._sums():
            processes.add(tensor, dst)
        self.tokens = total
        self.multiplied = set().union(*processes.gather(self.multiplied))
        if dst is not None and processes.rank != dst:
            self.reset()

    def _sums(self) -> list[Tensor]:
        """What adds, once all sums are about the same means."""
        found = [self.cross]
        for _, side in self._sides():
            streamed = [state[m.M2_A :] for state in side.streamed.values()]
            found += [side.m2, *side.within.values(), *streamed]
        return found

    def to(self, device: torch.device) -> CoMoments:
        """The same state on another device, or this one if it is there."""
        if device == self.device:
            return self
        rotation_a, rotation_b = self.a.rotation, self.b.rotation
        layouts = self.a.layout, self.b.layout
        moved = CoMoments(*layouts, rotation_a, rotation_b, self._threads, device, *self._products)
        for name, tensor in moved.tensors().items():
            tensor.copy_(self.tensors()[name])
        moved.tokens, moved.multiplied = self.tokens, set(self.multiplied)
        return moved

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state by name, not copied."""
        found = {"cross": self.cross}
        for name, side in self._sides():
            found.update({f"mean_{name}": side.mean, f"m2_{name}": side.m2})
            found.update({f"within_{name}.{i}": s for i, s in side.within.items()})
            found.update({f"streamed_{name}.{i}": s for i, s in side.streamed.items()})
        return found

    def _sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        return ("a", self.a), ("b", self.b)

    def _chunk(self, name: str, side: Side, layers: Sequence[Tensor], moments: Tensor) -> Chunk:
        rotated = side.rotation is not None
        return Chunk(
            side.layout.slices, layers, moments, self._multiplier, name, rotated, self._threads
        )

    def _add_product(
        self,
        c: Tensor,
        x: Factor,
        y: Factor,
        scales: tuple[Tensor, Tensor],
        deltas: tuple[Tensor, Tensor],
    ) -> str:
        """The block of ``c`` that is of these neurons takes in x^T y; what was multiplied."""
        rows, columns = x.neurons, y.neurons
        return self._multiplier.add(
            c[rows, columns],
            x,
            y,
            (scales[0][rows], scales[1][columns]),
            (deltas[0][..., rows], deltas[1][..., columns]),
            tile_bytes(self.device),
        )


def all_deltas(
    deltas: tuple[Tensor, Tensor], shifts: tuple[Tensor | None, Tensor | None], tokens: int
) -> tuple[Tensor, Tensor]:
    """What is added to a product: what the means of the chunk and of the state differ by.

    And what the means of the chunk add to the product of two layers that are taken as they are.
    """
    rows, columns = shifts
    if rows is None or columns is None:
        return deltas
    return torch.stack([deltas[0], -tokens * rows]), torch.stack([deltas[1], columns])


def _add_states(
    c: Tensor, more: Tensor, row_delta: Tensor, column_delta: Tensor, threads: int
) -> None:
    ones = torch.ones_like(row_delta), torch.ones_like(column_delta)
    native.add_product(c, more, ones, (row_delta, column_delta), threads)


def _upper_blocks(start: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """Blocks that cover the diagonal of a square and what is above it: large ones far from it."""
    if stop - start <= _BLOCK:
        yield slice(start, stop), slice(start, stop)
        return
    blocks = -(-(stop - start) // _BLOCK)
    middle = start + blocks // 2 * _BLOCK
    yield slice(start, middle), slice(middle, stop)
    yield from _upper_blocks(start, middle)
    yield from _upper_blocks(middle, stop)
