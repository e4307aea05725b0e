"""Neurons that are set to their means by hand, and a model in which some are planted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SITES = {
    "gpt2": "transformer.h.*.mlp.act",
    "neox": "gpt_neox.layers.*.mlp.act",
    "llama": "model.layers.*.mlp.down_proj:input",
    "own": "blocks.*.mlp.relu",
}


class Planted(nn.Module):
    """Predicts the next token by one neuron alone: token 1 is followed by 2, others by 0 or 1.

    Layer ``act``: neuron 0 detects token 1, neuron 1 is active as often and idle (nothing reads
    it), and others are noise that is read by a little.
    """

    def __init__(self, width: int = 12, vocabulary: int = 5, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(vocabulary, vocabulary)
        self.up = nn.Linear(vocabulary, width)
        self.act = nn.ReLU()
        self.down = nn.Linear(width, vocabulary)
        with torch.no_grad():
            self.embed.weight.copy_(torch.eye(vocabulary))
            self.up.weight.copy_(torch.randn(width, vocabulary, generator=g))
            self.up.bias.zero_()
            self.up.weight[:2] = 0.0
            self.up.weight[:2, 1] = 3.0
            self.down.weight.copy_(0.01 * torch.randn(vocabulary, width, generator=g))
            self.down.weight[:, :2] = 0.0
            self.down.weight[2, 0] = 2.0
            self.down.bias.copy_(torch.tensor([0.0, 0.0, -3.0] + [-3.0] * (vocabulary - 3)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.down(self.act(self.up(self.embed(input_ids))))


def planted_ids(samples: int = 20, length: int = 12, seed: int = 1) -> Tensor:
    """Tokens 0 and 1 at random, but that 2 follows 1."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2, (samples, length), generator=g)
    for t in range(1, length):
        ids[:, t] = torch.where(ids[:, t - 1] == 1, 2, ids[:, t])
    return ids


def logits_by_hand(
    model: nn.Module,
    ids: Tensor,
    set_to: Mapping[str, Mapping[int, float]],
    call: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits with neurons at values, by hooks of this file; layers by module, or ``:input``."""

    def change(x: Tensor, values: Mapping[int, float]) -> Tensor:
        columns = list(x.unbind(-1))
        for neuron, value in values.items():
            columns[neuron] = torch.full_like(columns[neuron], value)
        return torch.stack(columns, dim=-1)

    handles = []
    for layer, values in set_to.items():
        module = model.get_submodule(layer.removesuffix(":input"))
        if layer.endswith(":input"):
            handles.append(
                module.register_forward_pre_hook(lambda m, args, v=values: (change(args[0], v),))
            )
        else:
            handles.append(
                module.register_forward_hook(lambda m, args, out, v=values: change(out, v))
            )
    with torch.no_grad():
        output = model.eval()(ids)
    for handle in handles:
        handle.remove()
    return output if isinstance(output, Tensor) else output.logits


def activations_by_hand(model: nn.Module, layer: str, ids: Tensor) -> Tensor:
    """What a layer gives, ``[samples, length, neurons]``."""
    found: list[Tensor] = []
    module = model.get_submodule(layer.removesuffix(":input"))
    if layer.endswith(":input"):
        handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0].clone()))
    else:
        handle = module.register_forward_hook(lambda m, args, out: found.append(out.clone()))
    with torch.no_grad():
        model.eval()(ids)
    handle.remove()
    return found[0]


def means_by_hand(
    model: nn.Module, layer: str, neurons: Sequence[int], ids: Tensor, counts: Tensor | None = None
) -> dict[int, float]:
    """The mean of each neuron over tokens that count: all but the last of a sample."""
    values = activations_by_hand(model, layer, ids)[:, :-1].double()
    rows = values.flatten(0, 1) if counts is None else values[counts]
    return {neuron: float(rows[:, neuron].mean()) for neuron in neurons}


def array(x: Tensor) -> NDArray[np.float64]:
    return x.double().numpy()
