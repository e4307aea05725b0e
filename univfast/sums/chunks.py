"""Chunks of tokens on their way to a product: gathered, standardised and multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from univfast import native
from univfast.machine.torch_state import exact_products
from univfast.native import place

__all__ = ["Chunk", "Pending", "multiply"]

# A layer whose neurons have no mean beyond so many standard deviations is multiplied as it is, if
# it is of 16 bits: its products are exact in float32, and only what the mean adds to their sums
# costs accuracy (matrix units cut off the last bits of a sum, always downwards).
_LARGEST_MEAN = 2.0
_NARROW = (torch.float16, torch.bfloat16)

# A rotated neuron's variance is g^T S g for a random direction g. Float32 products leave an error
# of about 1e-8 to 1e-7 of the usual variance, so where the layer nearly cancels in a rotated neuron
# they would give it a wrong, even an impossible r, and of the highest r over many neurons the wrong
# ones win. Above this share of the usual variance the error of r stays well below 1e-5.
_CANCELLED = 0.005
# A layer is multiplied in float64 where so small a variance may come up once in this many rotated
# neurons, more than most uses have: those of rank 9 and below, and those where one factor leaves
# less than an eighth of the variance to all others.
_ROTATED_NEURONS = 1e7
# Directions that a layer's spectrum is seen in: a few times the ranks that are to be told apart.
_PROBES = 32


class Pending:
    """Tokens of all layers that wait until there are enough for a chunk."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self.tokens = 0
        self._buffers: list[Tensor] = []

    @property
    def dtypes(self) -> list[torch.dtype]:
        return [buffer.dtype for buffer in self._buffers]

    def take(self, layers: Sequence[Tensor]) -> int:
        """Copies tokens ``[tokens, width]`` of each layer; returns how many wait now."""
        if self.dtypes != [layer.dtype for layer in layers]:
            self._buffers = [layer.new_empty(self.chunk, layer.shape[1]) for layer in layers]
        stop = self.tokens + len(layers[0])
        for buffer, layer in zip(self._buffers, layers, strict=True):
            buffer[self.tokens : stop] = layer
        self.tokens = stop
        return stop

    def layers(self) -> list[Tensor]:
        return [buffer[: self.tokens] for buffer in self._buffers]


class Chunk:
    """A chunk of one model's tokens as it is multiplied.

    Layers are standardised; those of 16 bits are taken as they are where the device multiplies them
    so, and ``shift`` has their means, which are to be taken off the product.
    """

    def __init__(
        self,
        slices: Sequence[slice],
        layers: Sequence[Tensor],
        moments: Tensor,
        buffer: Callable[[torch.dtype], Tensor],
        rotated: bool,
        threads: int,
    ) -> None:
        """Takes in a chunk.

        Args:
            slices: where each layer stands among the neurons.
            layers: ``[tokens, width]`` of each.
            moments: mean and second moment of the neurons, float64 ``[2, neurons]``.
            buffer: memory ``[tokens, neurons]`` of a dtype, kept from chunk to chunk.
            rotated: whether what is kept of the model serves to rotate it.
            threads: at most this many.
        """
        tokens = len(layers[0])
        self.mean, self.m2 = moments
        # A power of two, so that scaling rounds nothing.
        _, exponent = torch.frexp((self.m2 / tokens).sqrt())
        exponent = torch.where(self.m2 > 0, exponent, 0)
        one = torch.ones_like(self.mean)
        scale, self.unscale = torch.ldexp(one, -exponent), torch.ldexp(one, exponent)
        self.shift: Tensor | None = None

        def place(i: int, dtype: torch.dtype) -> Tensor:
            if dtype == torch.float64:
                return torch.empty(layers[i].shape, dtype=dtype, device=layers[i].device)
            return buffer(dtype)[:tokens, slices[i]]

        def standardised(i: int, dtype: torch.dtype) -> Tensor:
            part, output = slices[i], place(i, dtype)
            native.standardise(layers[i], self.mean[part], scale[part], output, threads)
            return output

        self.layers: list[Tensor] = []
        for i, (layer, part) in enumerate(zip(layers, slices, strict=True)):
            raw = _multiplied_raw(layer, self.mean[part], self.m2[part])
            if raw:
                x = place(i, layer.dtype).copy_(layer)
            else:
                x = standardised(i, torch.promote_types(layer.dtype, torch.float32))
            if rotated and x.dtype != torch.float64:
                unscale, shift = self.unscale[part], self.mean[part] if raw else None
                weights = (torch.ones_like(unscale) if raw else unscale) / unscale.max()
                if _cancels(x, weights, shift):
                    x, raw = standardised(i, torch.float64), False
            if raw:
                self.shift = torch.zeros_like(self.mean) if self.shift is None else self.shift
                self.shift[part], self.unscale[part] = self.mean[part], 1.0
            self.layers.append(x)

        # Neighbours of one dtype, together: few large products are faster than many small ones.
        self.groups: list[tuple[slice, Tensor]] = []
        for dtype, group in groupby(range(len(slices)), key=lambda i: self.layers[i].dtype):
            members = list(group)
            part = slice(slices[members[0]].start, slices[members[-1]].stop)
            if dtype == torch.float64:
                self.groups += [(slices[i], self.layers[i]) for i in members]
            else:
                self.groups.append((part, buffer(dtype)[:tokens, part]))


def multiply(x: Tensor, y: Tensor, product: Tensor, precision: str) -> None:
    """``product = x @ y``, in float32 for tensors of 16 bits, whose products are exact."""
    device = "cuda" if x.is_cuda else "cpu"
    with exact_products(device, tf32=precision == "tf32"):
        if x.is_cuda and x.dtype in _NARROW:
            torch.mm(x, y, out_dtype=torch.float32, out=product)
        else:
            torch.mm(x, y, out=product)


def _multiplied_raw(layer: Tensor, mean: Tensor, m2: Tensor) -> bool:
    """Whether a device multiplies a layer ``[tokens, neurons]`` as it is (`_LARGEST_MEAN`)."""
    if layer.dtype not in _NARROW or not place.on_cuda(layer):
        return False
    return bool((len(layer) * mean * mean <= _LARGEST_MEAN**2 * m2).all())


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
    with exact_products("cuda" if x.is_cuda else "cpu"):
        seen = x.float() @ directions
        if shift is not None:
            seen -= shift.float() @ directions
        s = (seen.T @ seen).double()
    one = torch.eye(_PROBES, dtype=torch.float64, device=x.device)
    determinant = one.add(2 / _CANCELLED * s / s.trace()).logdet()
    return bool(1 - determinant / 2 > -math.log(_ROTATED_NEURONS))
