"""Layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from univfast.inputs.layers import Layer

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Layers side by side on one axis, in order.

    Attributes:
        names: of the layers.
        widths: neurons of each.
        skipped: neurons of the first layer that come before; of a part of that layer alone.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    skipped: int = 0

    @staticmethod
    def of(layers: Sequence[Layer]) -> Layout:
        """That of some layers of activations."""
        return Layout(
            tuple(layer.name for layer in layers), tuple(layer.neurons for layer in layers)
        )

    @property
    def neurons(self) -> int:
        """Of all layers together."""
        return sum(self.widths)

    @property
    def slices(self) -> list[slice]:
        """Where each layer stands."""
        ends = list(accumulate(self.widths))
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]

    def by_name(self) -> dict[str, int]:
        """The width of each layer by its name."""
        return dict(zip(self.names, self.widths, strict=True))

    def start(self, part: Layout) -> int:
        """Number of the first neuron of some of these layers."""
        before = self.widths[: self.names.index(part.names[0])]
        return sum(before) + part.skipped

    def locate(self, neuron: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the layer, and in it, of neurons counted over all layers; -1 stays -1."""
        ends = torch.tensor(list(accumulate(self.widths)), dtype=torch.int64, device="cpu")
        layer = torch.bucketize(neuron.contiguous(), ends, right=True)
        starts = torch.tensor([part.start for part in self.slices], dtype=torch.int64, device="cpu")
        inside = neuron - starts[layer.clamp(max=len(ends) - 1)]
        return torch.where(neuron < 0, -1, layer), torch.where(neuron < 0, -1, inside)
