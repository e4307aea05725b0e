"""Chunks of tokens on their way to a product, standardised where they must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from univfast import native
from univfast.machine.torch_state import exact_products
from univfast.native import Packed
from univfast.sums.products import NARROW, Factor, Form, Multiplier, parts_of, split

__all__ = ["Chunk"]

# Of the powers of two that layers are scaled by.
_EXPONENT = 120

# What the means add to a product of layers that are taken as they are grows with the tokens, and so
# do the bits that are lost, all in one direction where most values of a neuron are the same. Where
# a mean is beyond so many standard deviations, so many tokens are summed at a time, as by the core.
_FAR = 0.75
_SUMMED = 256

# A rotated neuron's variance is g^T S g for a random direction g. Float32 products leave an error
# of about 1e-8 to 1e-7 of the usual variance, so where the layer nearly cancels in a rotated neuron
# they would give it a wrong, even an impossible r, and of the highest r over many neurons the wrong
# ones win. Above this share of the usual variance the error of r stays well below 1e-5.
_CANCELLED = 0.005
# A layer is multiplied in float64 where so small a variance may come up once in this many rotated
# neurons, more than most uses have: those of rank 9 and below, and those where one factor leaves
# less than an eighth of the variance to all others.
_ROTATED_NEURONS = 1e7
_SEEN_BYTES = 8 << 20
# Directions that a layer's spectrum is seen in: a few times the ranks that are to be told apart.
_PROBES = 32


class _Kind(NamedTuple):
    """What a layer of a chunk is multiplied as.

    ``form`` is None for a tensor of ``dtype``; ``raw``: its means are left where they are;
    ``parts``: of bfloat16, that add up to it, where it is multiplied so.
    """

    dtype: torch.dtype
    form: Form | None = None
    raw: bool = False
    parts: int = 0


_STANDARDISED = _Kind(torch.float32)
# Of layers that are packed, for products with others.
_SCALED = _Kind(torch.float32, raw=True)


class Chunk:
    """A chunk of one model's tokens as it is multiplied.

    Layers are standardised, or taken as they are but for their scales (`univfast.sums.products`).

    Attributes:
        tokens: of the chunk.
        mean, m2: of the neurons, float64 ``[neurons]``.
        unscale: powers of two that undo the scale of each neuron, float64 ``[neurons]``.
        shift: means of what is taken as it is, which are to be taken off a product, and 0 for the
            others, float64 ``[neurons]``; None: there are no such layers.
        factors: neighbours of one kind together, as few large products are faster than many small
            ones.
    """

    def __init__(
        self,
        slices: Sequence[slice],
        layers: Sequence[Tensor],
        moments: Tensor,
        multiplier: Multiplier,
        name: str,
        rotated: bool,
        threads: int,
    ) -> None:
        """Takes in a chunk.

        Args:
            slices: where each layer stands among the neurons.
            layers: ``[tokens, width]`` of each.
            moments: mean and second moment of the neurons, float64 ``[2, neurons]``.
            multiplier: of the chunk; its memory is used until the next one.
            name: of the model, which no other has in that memory.
            rotated: whether what is kept of the model serves to rotate it.
            threads: at most this many.
        """
        self.mean, self.m2 = moments
        self.tokens = len(layers[0])
        self._slices, self._layers = slices, layers
        self._multiplier, self._name, self._threads = multiplier, name, threads
        # A power of two, so that scaling rounds nothing, and one that bfloat16 has.
        _, exponent = torch.frexp((self.m2 / len(layers[0])).sqrt())
        exponent = torch.where(self.m2 > 0, exponent, 0).clamp(-_EXPONENT, _EXPONENT)
        one = torch.ones_like(self.mean)
        self._scale, self.unscale = torch.ldexp(one, -exponent), torch.ldexp(one, exponent)
        self.shift: Tensor | None = None
        self._filled: dict[int, bool] = {}  # in the memory for float32, and whether raw

        kinds = [self._kind(i, rotated) for i in range(len(layers))]
        self.factors: list[Factor] = []
        for kind, group in groupby(range(len(slices)), key=kinds.__getitem__):
            members = list(group)
            # Those in float64 are few, and not kept from chunk to chunk.
            parted = [[i] for i in members] if kind.dtype == torch.float64 else [members]
            self.factors += [self._factor(some, kind) for some in parted]

    def layer(self, i: int) -> Factor:
        """One layer by itself."""
        own = self._slices[i]
        (found,) = (x for x in self.factors if x.neurons.start <= own.start < x.neurons.stop)
        first = found.neurons.start
        return found.of(slice(own.start - first, own.stop - first))

    def _kind(self, i: int, rotated: bool) -> _Kind:
        """What a layer is multiplied as."""
        layer, part = self._layers[i], self._slices[i]
        if layer.dtype == torch.float64:
            return _Kind(torch.float64)
        form, mean, m2 = self._multiplier.form(layer.dtype), self.mean[part], self.m2[part]
        raw = form is not None and bool(
            (len(layer) * mean * mean <= form.largest_mean**2 * m2).all()
        )
        if rotated:
            unscale = self.unscale[part]
            if raw:
                cancels = _cancels(layer, torch.ones_like(unscale) / unscale.max(), mean)
            else:
                cancels = _cancels(self._fill(i, _STANDARDISED), unscale / unscale.max())
            if cancels:
                return _Kind(torch.float64)
        if form is None or not (raw or form.parts):
            return _STANDARDISED
        if not form.parts:
            return _Kind(layer.dtype, form, raw)
        return _Kind(torch.float32, form, raw, parts_of(layer.dtype if raw else torch.float32))

    def _factor(self, members: Sequence[int], kind: _Kind) -> Factor:
        """Neighbouring layers of a kind."""
        neurons = slice(self._slices[members[0]].start, self._slices[members[-1]].stop)
        if kind.raw:
            self.shift = torch.zeros_like(self.mean) if self.shift is None else self.shift
            self.shift[neurons] = self.mean[neurons]
        if kind.form is not None and kind.form.packed:
            packed = self._packed(members, neurons)
            return Factor(neurons, packed, lambda: self._tensor(members, neurons, _SCALED))
        x = self._tensor(members, neurons, kind)
        if not kind.parts:
            return Factor(neurons, x, lambda: x)
        buffers = [
            self._buffer(torch.float32, f"part {number} of")[:, neurons]
            for number in range(kind.parts)
        ]
        mean, m2 = self.mean[neurons], self.m2[neurons]
        far = kind.raw and bool((self.tokens * mean * mean > _FAR**2 * m2).any())
        return Factor(neurons, split(x, buffers), lambda: x, _SUMMED if far else None)

    def _packed(self, members: Sequence[int], neurons: slice) -> Packed:
        """Neighbouring layers, packed."""
        tokens, width = len(self._layers[0]), neurons.stop - neurons.start
        size = native.packed_size(tokens, width)
        name = f"packed from {neurons.start} of {self._name}"
        packed = Packed(self._multiplier.buffer(name, size, dtype=torch.int32), tokens, width)
        for i in members:
            part = self._slices[i]
            own = packed.at(part.start - neurons.start)
            native.pack(self._layers[i], self._scale[part].float(), own, self._threads)
        return packed

    def _tensor(self, members: Sequence[int], neurons: slice, kind: _Kind) -> Tensor:
        """Neighbouring layers side by side, ``[tokens, neurons]``."""
        filled = [self._fill(i, kind) for i in members]
        return filled[0] if len(filled) == 1 else self._buffer(kind.dtype)[:, neurons]

    def _fill(self, i: int, kind: _Kind) -> Tensor:
        """A layer, in its place in the memory for all of a dtype; float64 has none."""
        layer, part = self._layers[i], self._slices[i]
        mean, scale = self.mean[part], self._scale[part]
        if kind.dtype == torch.float64:
            output = torch.empty(layer.shape, dtype=torch.float64, device=layer.device)
        else:
            output = self._buffer(kind.dtype)[:, part]
        if kind.dtype in NARROW:
            if kind.dtype == torch.float16:  # has no exponents to spare
                self.unscale[part], scale = 1.0, torch.ones_like(scale)
            torch.mul(layer, scale.to(kind.dtype), out=output)
        elif kind.dtype == torch.float64 or self._filled.get(i) is not kind.raw:
            shift = torch.zeros_like(mean) if kind.raw else mean
            native.standardise(layer, shift, scale, output, self._threads)
            if kind.dtype != torch.float64:
                self._filled[i] = kind.raw
        return output

    def _buffer(self, dtype: torch.dtype, what: str = "chunk of") -> Tensor:
        """Memory of all neurons, ``[tokens, neurons]``."""
        shape = len(self._layers[0]), len(self.mean)
        return self._multiplier.buffer(f"{what} {self._name}", *shape, dtype=dtype)


def _cancels(x: Tensor, weights: Tensor, shift: Tensor | None = None) -> bool:
    """Whether a layer, ``(x - shift) * weights``, can nearly cancel in a rotated neuron.

    ``x`` is ``[tokens, neurons]``, the others ``[neurons]``. By Chernoff's bound g^T S g is below a
    share v of its mean, tr S, for a Gaussian g with a probability of at most
    e / sqrt(det(1 + 2 S / (v tr S))).
    """
    generator = torch.Generator("cpu").manual_seed(0)
    directions = torch.randn(
        x.shape[1], _PROBES, generator=generator, dtype=torch.float32, device="cpu"
    ).to(x.device)
    directions *= weights.float()[:, None]
    # Some tokens at a time: fresh memory for all of them takes longer than what is done in it.
    step = len(x) if x.is_cuda else max(1, _SEEN_BYTES // (4 * x.shape[1]))
    some = torch.empty(min(step, len(x)), x.shape[1], dtype=torch.float32, device=x.device)
    seen = torch.empty(len(x), _PROBES, dtype=torch.float32, device=x.device)
    with exact_products("cuda" if x.is_cuda else "cpu"):
        for first in range(0, len(x), step):
            part = x[first : first + step]
            torch.mm(some[: len(part)].copy_(part), directions, out=seen[first : first + step])
        if shift is not None:
            seen -= shift.float() @ directions
        s = (seen.T @ seen).double()
    one = torch.eye(_PROBES, dtype=torch.float64, device=x.device)
    determinant = one.add(2 / _CANCELLED * s / s.trace()).logdet()
    return bool(1 - determinant / 2 > -math.log(_ROTATED_NEURONS))
