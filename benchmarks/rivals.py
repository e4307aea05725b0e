"""Rivals besides those of `univfast bench`: libraries that it does not need, and learners' code.

Activations are ``[tokens, neurons]``; every rival returns r ``[neurons]``, and those that rotate
return r and the rotated r, ``[1 + draws, neurons]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from univfast.bench.rivals import (
    READS,
    naive,
    naive_pairs,
    naive_rotated,
    numpy_naive,
    numpy_rotated,
    published,
)

__all__ = [
    "READS",
    "learners",
    "naive",
    "naive_pairs",
    "naive_rotated",
    "numpy_naive",
    "numpy_rotated",
    "published",
    "scipy_pearsonr",
    "torchmetrics_rotated",
    "torchmetrics_streaming",
]

# Tokens of a batch for rivals that stream: 12 MiB of float32 at 3,072 neurons, as a user would
# get from a few sequences.
BATCH = 1024


def torchmetrics_streaming(a: Tensor, b: Tensor, batch: int = BATCH) -> Tensor:
    """``torchmetrics.PearsonCorrCoef``, in batches of so many tokens."""
    from torchmetrics import PearsonCorrCoef

    metric = PearsonCorrCoef(num_outputs=a.shape[1]).to(a.device)
    for x, y in zip(a.split(batch), b.split(batch), strict=True):
        metric.update(x, y)
    r: Tensor = metric.compute()
    return r


def torchmetrics_rotated(a: Tensor, b: Tensor, rotation: Tensor) -> Tensor:
    """The same by torchmetrics."""
    rotated = b @ rotation.T
    return torch.stack((torchmetrics_streaming(a, b), torchmetrics_streaming(a, rotated)))


def scipy_pearsonr(a: Tensor, b: Tensor) -> Tensor:
    """``scipy.stats.pearsonr``, neuron by neuron."""
    columns = zip(a.numpy().T, b.numpy().T, strict=True)
    return torch.tensor([scipy.stats.pearsonr(x, y).statistic for x, y in columns])


def learners(a: Tensor, b: Tensor, rotations: Sequence[np.ndarray]) -> Tensor:
    """What tutorials do: all of B rotated by matrices of ``scipy.stats.ortho_group``, and a loop.

    The matrices, which take longer still, are made beforehand.
    """
    x, y = a.numpy(), b.numpy()
    rotated = (y, *(y @ rotation for rotation in rotations))
    neurons = range(x.shape[1])
    return torch.tensor(
        [[scipy.stats.pearsonr(x[:, i], z[:, i])[0] for i in neurons] for z in rotated]
    )
