"""A small network that is wrapped, compiled and exported, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import univfast as uf

HOOKS = "layers.*.act"
OPTIONS: dict[str, Any] = {"match": "best", "draws": 1}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


class Network(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(6, 10, 8, generator=generator) for _ in range(3)]


def by_hand(model: Network, batches: list[Tensor]) -> dict[str, Tensor]:
    """What `HOOKS` match, computed without the modules' being called."""
    found: dict[str, list[Tensor]] = {"layers.0.act": [], "layers.1.act": []}
    with torch.no_grad():
        for x in batches:
            for i, block in enumerate(model.layers):
                hidden = (x @ block.up.weight.T + block.up.bias).clamp(min=0)
                found[f"layers.{i}.act"].append(hidden)
                x = x + hidden @ block.down.weight.T + block.down.bias
    return {name: torch.cat(parts) for name, parts in found.items()}


def expected() -> uf.CorrelationResult:
    """Of networks 1 and 2."""
    return uf.correlate(*(by_hand(Network(seed), inputs()) for seed in (1, 2)), **OPTIONS)


def check_both_places(
    wrap: Callable[[Network], Any], options: dict[str, Any] | None = None
) -> None:
    """What is wrapped gives the right numbers by its own names, as A and as B."""
    right = expected()
    for first, second in ((wrap(Network(1)), Network(2)), (Network(1), wrap(Network(2)))):
        found = uf.correlate_models(
            first, second, inputs(), hooks=HOOKS, **{**OPTIONS, **(options or {})}
        )
        assert found.layer == right.layer
        assert torch.equal(found.match_neuron, right.match_neuron)
        torch.testing.assert_close(
            found.correlation, right.correlation, rtol=0, atol=5e-6, equal_nan=True
        )
        assert found.summary["tokens"] == 180
