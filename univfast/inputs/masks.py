"""Which tokens count: masks, in memory or in a file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

from univfast.errors import InputError
from univfast.inputs.arrays import same_order, to_tensor
from univfast.inputs.formats import read_array
from univfast.inputs.layers import Activations

__all__ = ["kept_tokens", "open_mask"]


def open_mask(mask: object, shape: tuple[int, ...], name: str = "mask") -> torch.Tensor:
    """The mask of activations ``[*shape, neurons]``, flattened to bool ``[tokens]``.

    Args:
        mask: true for the tokens to use: bool, or integers 0 and 1, as a tensor, an array or a
            file's path; of ``shape``, or with axes of it merged.
        shape: the leading axes of the activations.
        name: what to call it in errors where it is no file.

    Raises:
        InputError: it is no such mask; names it.
        TypeError: ``mask`` is none of these.
    """
    if isinstance(mask, (str, os.PathLike)):
        name, found = os.fsdecode(mask), _read(mask)
    else:
        found = to_tensor(mask, name)
    if found.numel() != math.prod(shape) or not same_order(tuple(found.shape), shape):
        raise InputError(
            f"{name}: the mask has {found.numel()} values of shape {list(found.shape)}, expected "
            f"{math.prod(shape)} of shape {list(shape)}; give one value a token"
        )
    return _flags(found, name)


def kept_tokens(
    models: Sequence[Activations], mask: object | None, shape: tuple[int, ...]
) -> torch.Tensor | None:
    """The tokens that count, bool ``[tokens]``: where all say so that say anything; None for all.

    Args:
        models: each with a mask of its own (``keep``) or not. One of fewer tokens, as a control
            has, is of the first.
        mask: as `open_mask` takes it; None for no other mask.
        shape: the leading axes of the activations.

    Raises:
        InputError: no such mask, or one of other tokens than the activations have.
        TypeError: ``mask`` is none.
    """
    kept = None if mask is None else open_mask(mask, shape)
    for model in models:
        if model.keep is None:
            continue
        if kept is None:
            kept = torch.ones(math.prod(shape), dtype=torch.bool, device="cpu")
        if len(model.keep) > len(kept):
            raise InputError(
                f"{model.name}: its mask is of {len(model.keep)} tokens, the activations have "
                f"{len(kept)}; choose the layers that it is of"
            )
        kept = kept.clone()  # the mask is the caller's
        kept[: len(model.keep)] &= model.keep.to(kept.device)
    return kept


def _read(path: str | os.PathLike[str]) -> torch.Tensor:
    name = os.fsdecode(path)
    found = read_array(name, "mask").tensor()
    if found.numel() == 0:
        raise InputError(f"{name}: the mask is empty; give one value a token")
    if found.dtype == torch.bool:
        found = found.view(torch.uint8)  # in a file, the byte of a bool may be any
    # Copied, for it is used as long as the activations are read: its file may be written to.
    return found.clone(memory_format=torch.contiguous_format)


def _flags(mask: torch.Tensor, name: str) -> torch.Tensor:
    if mask.dtype.is_floating_point or mask.dtype.is_complex:
        raise InputError(
            f"{name}: a mask has dtype bool or integer, found "
            f"{str(mask.dtype).removeprefix('torch.')}; convert it to bool"
        )
    if mask.dtype == torch.bool:  # left on its device, which need not be waited for
        return mask.flatten().contiguous()
    flags = mask.cpu().flatten()
    kept = flags == 1
    if not bool((kept | (flags == 0)).all()):
        raise InputError(f"{name}: a mask holds 0 and 1 alone; convert it to bool")
    return kept
