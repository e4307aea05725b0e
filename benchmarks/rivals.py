"""What univfast is measured against: the read floor, and the same jobs in other libraries.

Activations are ``[tokens, neurons]``; every rival returns r ``[neurons]``, and those that rotate
return r and the rotated r, ``[2, neurons]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Tokens of a batch for rivals that stream: 12 MiB of float32 at 3,072 neurons, as a user would
# get from a few sequences.
BATCH = 1024


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
        per_word = max(1, self.word.itemsize // x.dtype.itemsize)
        return flat[: len(flat) // per_word * per_word].view(self.word)

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


def torchmetrics_streaming(a: Tensor, b: Tensor) -> Tensor:
    """``torchmetrics.PearsonCorrCoef``, in batches of `BATCH` tokens."""
    from torchmetrics import PearsonCorrCoef

    metric = PearsonCorrCoef(num_outputs=a.shape[1])
    for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True):
        metric.update(x, y)
    r: Tensor = metric.compute()
    return r


# ---- r and one rotation -------------------------------------------------------------------------


def naive_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """r, and r with B multiplied by a dense matrix ``[neurons, neurons]``."""
    return torch.stack((naive(a, b), naive(a, b @ rotation.T)))


def numpy_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """The same in NumPy."""
    rotated = torch.from_numpy(b.numpy() @ rotation.numpy().T)
    return torch.stack((numpy_naive(a, b), numpy_naive(a, rotated)))


def torchmetrics_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """The same by torchmetrics."""
    rotated = b @ rotation.T
    return torch.stack((torchmetrics_streaming(a, b), torchmetrics_streaming(a, rotated)))
