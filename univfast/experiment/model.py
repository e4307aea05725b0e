"""A tiny causal transformer."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.native.place import numbers

__all__ = ["VOCABULARY", "ModelConfig", "TinyTransformer"]

VOCABULARY = 128
"""Tokens the corpora use: the ASCII codes."""

# Far above what trains on a CPU; it turns a slip of the finger, which would otherwise end in the
# allocator, into a message.
_LARGEST_SIZE = 16_384


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a `TinyTransformer`.

    Attributes:
        vocabulary: number of tokens; the corpora need at least 128 (ASCII).
        sequence: tokens in a sample, the most the model can read.
        d_model: width of the residual stream.
        heads: attention heads of a layer; divides ``d_model``.
        layers: number of transformer blocks.
        d_mlp: neurons of each MLP.

    Raises:
        TypeError: a size is not an int.
        InputError: a size is out of range, or ``heads`` does not divide ``d_model``.
    """

    vocabulary: int = VOCABULARY
    sequence: int = 64
    d_model: int = 128
    heads: int = 4
    layers: int = 2
    d_mlp: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            low = VOCABULARY if field.name == "vocabulary" else 1
            size = as_integer(field.name, getattr(self, field.name), low, _LARGEST_SIZE)
            object.__setattr__(self, field.name, size)  # a plain int, whatever it came as
        if self.d_model % self.heads:
            raise InputError(
                f"heads: {self.heads} does not divide d_model {self.d_model}; "
                "change one so that it does"
            )


def sinusoidal_positions(sequence: int, d_model: int) -> Tensor:
    """Positional encoding ``[sequence, d_model]`` of Vaswani et al. (2017), section 3.5."""
    position = torch.arange(sequence, dtype=torch.float64, device="cpu")[:, None]
    column = numbers(d_model)
    angle = position / 10_000 ** ((2 * (column // 2)).float() / d_model)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, dtype=torch.float32)
        self.out = nn.Linear(config.d_model, config.d_model, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """``[samples, sequence, d_model]`` to the same shape."""
        # [samples, sequence, 3 * heads, d_head] to three of [samples, heads, sequence, d_head]
        parts = self.qkv(x).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        query, key, value = parts.chunk(3, dim=1)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class MLP(nn.Module):
    """``down(relu(up(x)))``; the outputs of ``up`` and ``relu`` are the neurons under study."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_mlp, dtype=torch.float32)
        self.relu = nn.ReLU()  # a module of its own, and not in place, so that it can be hooked
        self.down = nn.Linear(config.d_mlp, config.d_model, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d_model]`` to the same shape, over ``[..., d_mlp]``."""
        y: Tensor = self.down(self.relu(self.up(x)))
        return y


class Block(nn.Module):
    """Attention, then MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, dtype=torch.float32)
        self.attention = CausalSelfAttention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model, dtype=torch.float32)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """``[samples, sequence, d_model]`` to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class TinyTransformer(nn.Module):
    """Causal language model; layer ``i`` has its neurons at ``blocks.{i}.mlp.up`` and ``.relu``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.d_model, dtype=torch.float32)
        self.positions: Tensor
        # Not persistent: the configuration determines it.
        self.register_buffer(
            "positions", sinusoidal_positions(config.sequence, config.d_model), persistent=False
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model, dtype=torch.float32)
        self.unembedding = nn.Linear(config.d_model, config.vocabulary, dtype=torch.float32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of each next token.

        Args:
            tokens: int64 ``[samples, length]``, ``length`` at most ``config.sequence``.

        Returns:
            ``[samples, length, vocabulary]``; position ``t`` depends on tokens ``0..t`` alone.
        """
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.unembedding(self.norm(x))
        return logits
