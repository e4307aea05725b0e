"""What stands in a pickle of PyTorch: tensors by their places, and other things by their kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Other", "SparsePlace", "Storage", "TensorPlace", "reads_axes"]


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle names: what it is called in the file, and what it holds.

    Attributes:
        key: its name.
        dtype: of its values; uint8 where it has none.
        values: how many.
    """

    key: str
    dtype: torch.dtype
    values: int

    @property
    def bytes(self) -> int:
        return self.values * self.dtype.itemsize


@dataclass(frozen=True)
class TensorPlace:
    """A tensor, within its storage. ``offset`` and ``stride`` are in values.

    ``quantised``: the scale and zero point of its integers, numbers or tensors of one a neuron.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negated: bool = False
    quantised: tuple[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Other:
    """What is no plain tensor, by what it is called.

    ``tensor``: it is one of another kind. ``refused``: it asks for what is never executed.
    """

    kind: str
    tensor: bool = False
    refused: bool = False


@dataclass(frozen=True, eq=False)
class SparsePlace(Other):
    """A sparse tensor ``[..., features]``: by rows, or by entries, ``kind`` says which.

    ``parts``: its tensors, as PyTorch lists them; ``size``: of the whole.
    """

    parts: tuple[TensorPlace, ...] = ()
    size: tuple[int, ...] = ()


def reads_axes(kind: str, axes: int) -> bool:
    """Whether a sparse tensor of so many axes is read: entries of any number, rows of two."""
    return axes >= 2 if kind == "sparse_coo" else axes == 2
