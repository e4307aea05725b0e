"""Which token stands where: ids, in memory or in a file."""

from __future__ import annotations

import math
import os

import torch

from univfast.errors import InputError
from univfast.inputs.arrays import same_order, to_tensor
from univfast.inputs.formats import read_array

__all__ = ["open_token_ids"]


def open_token_ids(ids: object, shape: tuple[int, ...], name: str = "token_ids") -> torch.Tensor:
    """The token ids of activations ``[*shape, neurons]``: int64, in the shape that they have.

    Args:
        ids: integers, as a tensor, an array or a file's path; of ``shape``, or with axes merged or
            divided.
        shape: the leading axes of the activations.
        name: what to call them in errors where they are no file.

    Raises:
        InputError: they are no such ids; names them.
        TypeError: ``ids`` is none of these.
    """
    if isinstance(ids, (str, os.PathLike)):
        name = os.fsdecode(ids)
        found = read_array(name, "token ids").tensor().clone()  # its file may change
    else:
        found = to_tensor(ids, name)
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        kind = str(found.dtype).removeprefix("torch.")
        raise InputError(f"{name}: token ids are integers, found {kind}; give those")
    if found.numel() != math.prod(shape) or not same_order(tuple(found.shape), shape):
        raise InputError(
            f"{name}: has {found.numel()} token ids of shape {list(found.shape)}, expected"
            f" {math.prod(shape)} of shape {list(shape)}; give one a token"
        )
    return found.cpu().long()
