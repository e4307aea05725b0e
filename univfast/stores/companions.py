"""What stands beside activations: which tokens they are, and which of them count."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.masks import open_mask
from univfast.inputs.token_ids import open_token_ids

__all__ = ["IDS", "MASKS", "companion", "flags_of", "ids_of", "other_masks"]

MASKS = ("mask", "attention_mask")
"""Names of masks: 1 or true for the tokens that count."""
IDS = ("tokens", "token_ids", "input_ids")
"""Names of token ids."""


def companion(source: str, names: Iterable[str], known: tuple[str, ...]) -> str | None:
    """The one of ``names`` whose last part is one of ``known``; None where there is none.

    Raises:
        InputError: there are two, which may differ.
    """
    found = [name for name in names if name.rsplit("/", 1)[-1] in known]
    if len(found) > 1:
        raise InputError(
            f"{source}: holds {found[0]!r} and {found[1]!r}, of which either may be meant; keep one"
        )
    return found[0] if found else None


def other_masks(source: str, passed: Iterable[str]) -> dict[str, InputError]:
    """Those that may be masks by their names, as ``padding_mask``, but may be true for either."""
    return {
        name: InputError(
            f"{source}: {name!r} may say which tokens count, or which do not; call it 'mask' if it"
            " is true for those that do"
        )
        for name in passed
        if name.lower().endswith(("mask", "masks"))
    }


def ids_of(values: NDArray[np.generic], shape: tuple[int, ...], where: str) -> torch.Tensor:
    """Token ids, int64 ``[tokens]``. ``where`` begins an error."""
    return open_token_ids(values, shape, where).flatten()


def flags_of(values: NDArray[np.generic], shape: tuple[int, ...], where: str) -> torch.Tensor:
    """A mask, bool ``[tokens]``. ``where`` begins an error."""
    return open_mask(values, shape, where)
