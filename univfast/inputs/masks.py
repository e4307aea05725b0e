"""Which tokens count: mask files."""

from __future__ import annotations

import os

import torch

from univfast.errors import InputError
from univfast.inputs.files import is_checkpoint, read_file

__all__ = ["load_mask"]


def load_mask(path: str | os.PathLike[str]) -> torch.Tensor:
    """The mask in a file, flattened to bool ``[tokens]``: true where a token counts.

    The file holds one array of bool or of integers 0 and 1, of any shape. Raises InputError.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"mask: expected a path, found {type(path).__name__}")
    name = os.fsdecode(path)
    content = read_file(name, "mask")
    if is_checkpoint(content) or len(content) != 1:
        raise InputError(f"{name}: a mask file must hold one array; save the mask alone")
    (stored,) = content.values()
    mask = stored.tensor().flatten()
    if mask.dtype.is_floating_point or mask.dtype.is_complex:
        raise InputError(
            f"{name}: a mask has dtype bool or integer, found "
            f"{str(mask.dtype).removeprefix('torch.')}; convert it to bool"
        )
    if mask.numel() == 0:
        raise InputError(f"{name}: the mask is empty; give one value a token")
    kept = mask == 1
    if not bool((kept | (mask == 0)).all()):
        raise InputError(f"{name}: a mask holds 0 and 1 alone; convert it to bool")
    return kept
