"""What univfast is measured against: the read floor, and the same jobs in other libraries.

Activations are ``[tokens, neurons]``; every rival returns r ``[neurons]``, and those that rotate
return r and the rotated r, ``[1 + draws, neurons]``. Rivals for all pairs take a list of these,
layer after layer, and return the highest r of A's neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "READS",
    "Read",
    "naive",
    "naive_pairs",
    "naive_rotated",
    "numpy_naive",
    "numpy_rotated",
    "published",
]

# ---- the read floor -----------------------------------------------------------------------------


class Read(NamedTuple):
    """A pass over every byte of both inputs, with torch's threads.

    Attributes:
        word: what the bytes are read as, so that no read converts a value.
        exact: the dtype in which `combine` has no rounding error to speak of.
        combine: words of A and of B, vectors -> a number that depends on each of them, and adds up
            over parts of the vectors.
    """

    word: torch.dtype
    exact: torch.dtype
    combine: Callable[[Tensor, Tensor], Tensor]

    def words(self, x: Tensor) -> Tensor:
        """The bytes of ``x``, but for a last incomplete word."""
        flat = x.view(-1)
        word = self.word if x.dtype.itemsize <= self.word.itemsize else x.dtype
        per_word = word.itemsize // x.dtype.itemsize
        return flat[: len(flat) // per_word * per_word].view(word)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.combine(self.words(a), self.words(b))


# Which is faster depends on the machine (not every BLAS library threads a dot product), so both
# are tried.
READS = {
    "dot product of A and B (BLAS)": Read(torch.float32, torch.float64, torch.dot),
    "sum of each input's 64-bit words": Read(
        torch.int64, torch.int64, lambda x, y: x.sum() + y.sum()
    ),
}


# ---- r ------------------------------------------------------------------------------------------


def naive(a: Tensor, b: Tensor) -> Tensor:
    """Centre, multiply, sum: Pearson's r as it stands in a textbook."""
    a = a - a.mean(dim=0)
    b = b - b.mean(dim=0)
    return (a * b).sum(dim=0) / ((a**2).sum(dim=0).sqrt() * (b**2).sum(dim=0).sqrt())


def numpy_naive(a: Tensor, b: Tensor) -> Tensor:
    """The same in NumPy, in the dtype of the input."""
    x, y = a.numpy(), b.numpy()
    x = x - x.mean(axis=0)
    y = y - y.mean(axis=0)
    r = (x * y).sum(axis=0) / (np.sqrt((x**2).sum(axis=0)) * np.sqrt((y**2).sum(axis=0)))
    return torch.from_numpy(r)


# ---- r and one rotation -------------------------------------------------------------------------


def naive_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """r, and r with B multiplied by a dense matrix ``[neurons, neurons]``."""
    return torch.stack((naive(a, b), naive(a, b @ rotation.T)))


def numpy_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """The same in NumPy."""
    rotated = torch.from_numpy(b.numpy() @ rotation.numpy().T)
    return torch.stack((numpy_naive(a, b), numpy_naive(a, rotated)))


# ---- all pairs ----------------------------------------------------------------------------------


def naive_pairs(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Standardise all layers in float32, one product, the highest of each row."""
    x, y = (torch.cat([layer.float() for layer in layers], dim=1) for layers in (a, b))
    x, y = ((z - z.mean(dim=0)) / z.std(dim=0, correction=0) for z in (x, y))
    return (x.T @ y).max(dim=1).values / len(x)


# Tokens that the published method takes at a time: 32 sequences of 512.
PUBLISHED_BATCH = 32 * 512


def published(
    a: Sequence[Tensor], b: Sequence[Tensor], draws: Sequence[Sequence[Tensor]] = ()
) -> Tensor:
    """The method of Gurnee et al. 2024, written anew from its description.

    Plain sums over tokens, of products in float64; r of a layer with a layer in float16. A draw
    does all of it again with rotated activations. Sums and squares, which would overflow float16 at
    this many tokens, are of float32.

    Args:
        a: layers of one width.
        b: layers of one width.
        draws: a matrix ``[width, width]`` a layer of B, float32, for each draw.
    """
    return torch.stack([_published_best(a, b, turn) for turn in ((), *draws)])


def _published_best(a: Sequence[Tensor], b: Sequence[Tensor], turn: Sequence[Tensor]) -> Tensor:
    tokens, width = a[0].shape
    zeros = partial(torch.zeros, dtype=torch.float64, device=a[0].device)
    cross = zeros(len(a), width, len(b), b[0].shape[1])
    sums = [zeros(2, len(s), s[0].shape[1]) for s in (a, b)]
    for first in range(0, tokens, PUBLISHED_BATCH):
        batch = slice(first, first + PUBLISHED_BATCH)
        x, y = ([layer[batch].float() for layer in layers] for layers in (a, b))
        if turn:
            y = [layer @ matrix.T for layer, matrix in zip(y, turn, strict=True)]
        for total, layers in zip(sums, (x, y), strict=True):
            total[0] += torch.stack([layer.sum(dim=0) for layer in layers])
            total[1] += torch.stack([layer.square().sum(dim=0) for layer in layers])
        for i, one in enumerate(x):
            for j, other in enumerate(y):
                cross[i, :, j] += torch.einsum("ti,tj->ij", one, other)

    (sum_a, squares_a), (sum_b, squares_b) = sums
    sd_a = (squares_a - sum_a**2 / tokens).sqrt()
    sd_b = (squares_b - sum_b**2 / tokens).sqrt()
    best = []
    for i in range(len(a)):
        r = [
            (cross[i, :, j] - torch.outer(sum_a[i], sum_b[j]) / tokens)
            / torch.outer(sd_a[i], sd_b[j])
            for j in range(len(b))
        ]
        best.append(torch.cat([part.half() for part in r], dim=1).max(dim=1).values)
    return torch.cat(best)
