"""Which tokens count: masks, in memory or in a file."""

from __future__ import annotations

import math
import os

import torch

from univfast.errors import InputError
from univfast.inputs.arrays import same_order, to_tensor
from univfast.inputs.formats import read_array

__all__ = ["open_mask"]


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
