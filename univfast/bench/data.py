"""Activations to measure on, and their exact r."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast import reference

__all__ = ["LAYER", "Activations", "Array", "correlated", "spread"]

# The name of the layer, which its rotations depend on: that of `PairedCorrelation` by default.
LAYER = "activations"

Array = NDArray[np.float64]

# Neurons whose answer is checked, spread over the layer: the exact answer of all would take longer
# than the measurements.
_CHECKED = 16
# Tokens that the exact answer converts to float64 at a time, to bound its memory.
_TOKENS = 4096


def correlated(
    tokens: int, neurons: int, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Two models; means of 0 to 2 sd; r of neuron i with neuron i runs from -1 to 1.

    The values depend on the kind of device that makes them. A factor that all neurons share makes
    rotations of B correlate with A too. Means of one sign keep the dot product of A and B, a read
    floor, far from 0, so that it can be checked.
    """
    g = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(tokens, neurons, generator=g, device=device, dtype=torch.float32)
        for _ in range(2)
    )
    rho = torch.linspace(-1, 1, neurons, device=device, dtype=torch.float32)
    b.mul_((1 - rho**2).sqrt()).addcmul_(a, rho)
    factor = torch.randn(tokens, 1, generator=g, device=device, dtype=torch.float32)
    for x in (a, b):
        loadings, means = (
            torch.rand(2, 1, neurons, generator=g, device=device, dtype=torch.float32) * 2
        )
        x.addcmul_(factor, loadings - 1).add_(means)
    return a, b


class Activations:
    """Two models' activations on the same tokens, and the exact r of some of their neurons.

    Attributes:
        a: ``[tokens, neurons]``.
        b: the same shape and dtype.
        checked: numbers of the neurons whose exact r is known, ``[checked]``.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.tokens, self.neurons = a.shape
        self.dtype = a.dtype
        self.size = f"{self.tokens:,} tokens x {self.neurons:,} neurons"
        self.checked = spread(self.neurons)

    @cached_property
    def exact(self) -> Array:
        """r of the checked neurons, ``[1, checked]``."""
        return reference.pearson(self._columns(self.a), self._columns(self.b))[None]

    def exact_rotated(self, *rotations: Array) -> Array:
        """r, and r with each rotation of B, ``[1 + draws, checked]``.

        Args:
            rotations: matrices ``[neurons, neurons]``.
        """
        a, first = self._columns(self.a), self.b[0].double()
        turn = torch.cat([torch.from_numpy(r)[self.checked] for r in rotations]).T
        rotated = torch.cat(
            [(part.double() - first) @ turn for part in torch.split(self.b, _TOKENS)]
        )
        draws = torch.split(rotated, len(self.checked), dim=1)
        return np.stack([self.exact[0], *(reference.pearson(a, d.numpy()) for d in draws)])

    def _columns(self, x: Tensor) -> Array:
        return x[:, self.checked].double().cpu().numpy()


def spread(neurons: int) -> Tensor:
    """Numbers of the neurons that are checked."""
    numbers = np.linspace(0, neurons - 1, min(_CHECKED, neurons))
    return torch.from_numpy(numbers.round().astype(np.int64))
