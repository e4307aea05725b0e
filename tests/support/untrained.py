"""Networks that stand for trained ones, and how often their neurons are above 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import univfast as uf

WIDTH = 24
DEAD = 4  # first neurons of each layer, which no token brings above 0


class Network(nn.Module):
    """Blocks that see earlier tokens too, with an activation function as a module in each."""

    def __init__(self, act: Callable[[], nn.Module] = nn.ReLU, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.up = nn.ModuleList(nn.Linear(8, WIDTH) for _ in range(layers))
        self.act = nn.ModuleList(act() for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(layers))
        self.norm = nn.LayerNorm(8)

    def forward(self, ids: Tensor) -> Tensor:
        steps = torch.arange(1, ids.shape[1] + 1)[:, None]
        x = self.embed(ids)
        x = x + x.cumsum(1) / steps + steps / 10
        for up, act, down in zip(self.up, self.act, self.down, strict=True):
            x = x + down(act(up(self.norm(x))))
        return x


def trained(act: Callable[[], nn.Module] = nn.ReLU, layers: int = 3) -> Network:
    """As if trained: its neurons are above 0 on few tokens, the first of them on none."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Network(act, layers)
    with torch.no_grad():
        for up in model.up:
            up.bias -= torch.linspace(0, 2, WIDTH)
            up.bias[:DEAD] = -500
    return model


def values(model: nn.Module, hooks: str, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """``[tokens, neurons]`` of each layer."""
    found: dict[str, list[Tensor]] = {}
    with uf.capture(model, hooks) as captured, torch.no_grad():
        for batch in batches:
            model(batch)
            for layer, rows in captured.items():
                found.setdefault(layer, []).append(rows.flatten(0, -2).clone())
    return {layer: torch.cat(rows) for layer, rows in found.items()}


def above(model: nn.Module, hooks: str, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tokens on which each neuron is above 0."""
    return {layer: (x > 0).sum(0) for layer, x in values(model, hooks, batches).items()}
