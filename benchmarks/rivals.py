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
    "faiss_pairs",
    "learners",
    "naive",
    "naive_pairs",
    "naive_rotated",
    "numpy_naive",
    "numpy_rotated",
    "published",
    "scipy_pearsonr",
    "top_pairs",
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


def standardised(layers: Sequence[Tensor]) -> Tensor:
    """All layers side by side, float32, about their means and of norm 1: a product of two is r."""
    x = torch.cat([layer.float() for layer in layers], dim=1)
    x -= x.mean(dim=0)
    return x.div_(x.norm(dim=0))


def top_pairs(a: Sequence[Tensor], b: Sequence[Tensor], count: int) -> Tensor:
    """One product of torch in float32, and its ``topk``: the highest r, ``[1, neurons]``."""
    return (standardised(a).T @ standardised(b)).topk(count, dim=1).values[None, :, 0]


def faiss_pairs(a: Sequence[Tensor], b: Sequence[Tensor], count: int) -> Tensor:
    """A flat index of inner products in FAISS, whose vectors are neurons: the same."""
    import faiss

    x, y = (standardised(side).T.contiguous().numpy() for side in (a, b))
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(y)
    found, _ = index.search(x, count)
    return torch.from_numpy(found[None, :, 0])


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
