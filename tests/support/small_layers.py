"""Small activations, for what does not depend on their size."""

from __future__ import annotations

import torch
from torch import Tensor

from support.parity import activations


def pair(tokens: int = 300, neurons: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``[tokens, neurons]`` of two models."""
    a, b = activations(tokens, neurons, seed)
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def two_layers() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """20 and 7 neurons, in B in another order."""
    a, b = zip(pair(300, 20), pair(300, 7, seed=1), strict=True)
    return {"mlp.0": a[0], "mlp.1": a[1]}, {"mlp.1": b[1], "mlp.0": b[0]}


def with_dead() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same, with a dead neuron of A in the first layer and of B in the second."""
    a, b = two_layers()
    a["mlp.0"][:, 3] = 0.1
    b["mlp.1"][:, 6] = 0.0
    return a, b
