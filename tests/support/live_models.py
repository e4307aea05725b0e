"""Models that are run by a test itself, of several kinds, and batches for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BatchEncoding,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

IDS = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 50}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    **IDS,
}


def gpt2(layers: int = 2, width: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(n_layer=layers, n_embd=16, n_inner=width, n_head=2, n_positions=32, **IDS)
    )


def neox(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL))


def llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SMALL))


class Block(nn.Module):
    """As in TransformerLens, activations pass through modules that do nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.up, self.mlp.down = nn.Linear(8, width), nn.Linear(width, 8)
        self.mlp.hook_post = nn.Identity()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        post = self.mlp.hook_post(self.mlp.up(x).relu())
        return x + self.dropout(self.mlp.down(post))


class Plain(nn.Module):
    def __init__(self, layers: int = 2, width: int = 24, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return x


POST = "blocks.*.mlp.hook_post"


def token_ids(batches: int = 4, samples: int = 6, sequence: int = 20) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (samples, sequence), generator=g) for _ in range(batches)]


def by_hand(
    model: nn.Module, modules: Sequence[str], batches: Sequence[Any], inputs: bool = False
) -> dict[str, Tensor]:
    """The activations of all batches, taken by hooks of the test's own."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def take(name: str) -> Callable[..., None]:
        return lambda module, args, output: found[name].append(
            (args[0] if inputs else output).clone()
        )

    handles = [model.get_submodule(x).register_forward_hook(take(x)) for x in modules]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    suffix = ":input" if inputs else ""
    return {name + suffix: torch.cat(x) for name, x in found.items()}


def padded() -> tuple[list[BatchEncoding], list[Tensor]]:
    """Batches of a tokenizer, and where their padding is not."""
    masks = [torch.arange(20) < torch.tensor([[20], [7], [1], [13], [20], [2]])] * 4
    batches = [
        BatchEncoding({"input_ids": x, "attention_mask": keep.long()})
        for x, keep in zip(token_ids(), masks, strict=True)
    ]
    return batches, masks
