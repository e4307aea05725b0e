"""Masks of batches that say what is padding, where ``attention_mask`` says what is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from univfast.errors import InputError

__all__ = ["without_padding"]

# Of `torch.nn.TransformerEncoder`: bool ``[samples, tokens]``, true where a token is padding.
_PADDING_MASK = "src_key_padding_mask"


def without_padding(batch: Mapping[str, object], models: Iterable[nn.Module]) -> Tensor | None:
    """What is no padding, of the padding mask of a batch; None where it has none.

    Raises:
        InputError: it is no bool, the batch has an ``attention_mask`` too, or a model puts tokens
            before samples, and this mask the other way round.
    """
    found = batch.get(_PADDING_MASK)
    if not isinstance(found, Tensor):
        return None
    instead = "give mask=, of the tokens to use"
    if batch.get("attention_mask") is not None:
        raise InputError(f"batches: have both attention_mask and {_PADDING_MASK}; {instead}")
    if found.dtype != torch.bool:
        dtype = str(found.dtype).removeprefix("torch.")
        raise InputError(
            f"batches: {_PADDING_MASK} holds {dtype}, expected bool, true for padding; {instead}"
        )
    attention = (x for m in models for x in m.modules() if isinstance(x, nn.MultiheadAttention))
    if found.ndim == 2 and any(not x.batch_first for x in attention):
        raise InputError(
            f"batches: {_PADDING_MASK} is [samples, tokens], and the model puts tokens before"
            f" samples (batch_first=False); {instead}, as (~mask).T"
        )
    return ~found
