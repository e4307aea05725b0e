"""Masks of batches that say what is padding, where ``attention_mask`` says what is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from univfast.errors import InputError

__all__ = ["PADDING_MASK", "check_padding_mask", "without_padding"]

PADDING_MASK = "src_key_padding_mask"
"""Of `torch.nn.TransformerEncoder`: bool ``[samples, tokens]``, true where a token is padding."""


def without_padding(batch: Mapping[str, object]) -> Tensor | None:
    """What is no padding, of the padding mask of a batch; None where it has none.

    Raises:
        InputError: it is no bool, or the batch has an ``attention_mask`` too.
    """
    found = batch.get(PADDING_MASK)
    if not isinstance(found, Tensor):
        return None
    if batch.get("attention_mask") is not None:
        raise InputError(
            f"batches: have both attention_mask and {PADDING_MASK}; give mask=, of the tokens to"
            " use"
        )
    if found.dtype != torch.bool:
        raise InputError(
            f"batches: {PADDING_MASK} holds {str(found.dtype).removeprefix('torch.')}, and true for"
            " padding is expected; give mask=, of the tokens to use"
        )
    return ~found


def check_padding_mask(model: nn.Module, keywords: Mapping[str, object], name: str) -> None:
    """Refuses a mask as long as it is wide for a model whose first axis is that of tokens.

    Raises:
        InputError: it is ``[samples, tokens]``, and activations are ``[tokens, samples]``.
    """
    found = keywords.get(PADDING_MASK)
    if isinstance(found, Tensor) and found.ndim == 2 and found.shape[0] == found.shape[1]:
        attention = (x for x in model.modules() if isinstance(x, nn.MultiheadAttention))
        if any(not x.batch_first for x in attention):
            raise InputError(
                f"batches: {PADDING_MASK} is [samples, tokens], and {name} puts tokens first"
                " (batch_first=False); give mask=, transposed, of the tokens to use"
            )
