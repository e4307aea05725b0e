"""Two models of neurons that fire seldom, some of them planted in both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["planted"]


def planted(
    tokens: int, counts: Sequence[int], each: int, beside: int, seed: int = 0, r: float = 0.9
) -> tuple[Tensor, Tensor, Tensor]:
    """Models ``[tokens, neurons]`` in float32, and the partner in B of A's planted neurons, first.

    ``each`` pairs fire at as many tokens as each of ``counts`` says, at a share ``r`` of them
    together; ``beside`` others of each model fire at as many, by themselves.
    """
    generator = torch.Generator().manual_seed(seed)
    fires = torch.tensor([n for n in counts for _ in range(each)])
    others = fires[torch.arange(beside) % len(fires)]
    neurons = len(fires) + beside

    def background() -> Tensor:
        return 0.001 * torch.rand(tokens, neurons, generator=generator)

    a, b = background(), background()
    for i in range(neurons):
        count = int(torch.cat([fires, others])[i])
        at = torch.randperm(tokens, generator=generator)[:count]
        a[at, i] += 1 + 0.1 * torch.rand(count, generator=generator)
        shared = round(r * count) if i < len(fires) else 0
        alone = torch.randperm(tokens, generator=generator)[: count - shared]
        at = torch.cat([at[:shared], alone])
        b[at, i] += 1 + 0.1 * torch.rand(count, generator=generator)
    order = torch.randperm(neurons, generator=generator)
    return a, b[:, order], order.argsort()[: len(fires)]
