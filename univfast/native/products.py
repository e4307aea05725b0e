"""Products of bfloat16 on the CPU, where it has instructions for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.views import co_moments, matrix, pointer, terms, workspace

__all__ = ["Packed", "add_packed_product", "multiplies_bfloat16", "pack", "packed_size"]

multiplies_bfloat16 = _native.multiplies_bfloat16
packed_size = _native.packed_size


class Packed(NamedTuple):
    """Tokens of some neurons as they are multiplied (``csrc/packed.h``), or a part of these."""

    data: Tensor  # int32 [packed_size(tokens, neurons)], aligned to 64 bytes
    tokens: int
    neurons: int  # that are packed together
    first: int = 0  # of those that are meant

    def at(self, first: int) -> Packed:
        """Those from this one on."""
        return self._replace(first=self.first + first)


def pack(x: Tensor, scale: Tensor, to: Packed, threads: int) -> None:
    """``x * scale``, packed from the first of the neurons on that ``to`` means.

    Args:
        x: bfloat16 ``[tokens, neurons]``, neuron stride 1.
        scale: float32 ``[neurons]``: powers of two, so that nothing is rounded.
        to: of as many tokens, and no fewer neurons; written.
        threads: at most this many.
    """
    if len(x) != to.tokens:
        raise ValueError(f"native: got {len(x)} tokens, expected {to.tokens}")
    _native.pack(
        x=matrix(x),
        scale=pointer(scale, torch.float32, (x.shape[1],)),
        packed=_at(to),
        threads=threads,
    )


def add_packed_product(
    c: Tensor,
    x: Packed,
    y: Packed,
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    """`add_product` of x^T y, summed in float32, over 256 tokens at a time.

    ``c`` is float64 ``[rows, columns]``: of so many neurons of x and of y, of the same tokens.
    """
    if x.tokens != y.tokens:
        raise ValueError(f"native: got {x.tokens} and {y.tokens} tokens")
    view = co_moments(c)
    owner, room = workspace(_native.packed_product_workspace(view, threads))
    _native.add_packed_product(
        c=view,
        x=_at(x),
        y=_at(y),
        tokens=x.tokens,
        **terms(c, scales, deltas),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here


def _at(packed: Packed) -> tuple[int, int, int]:
    size = packed_size(packed.tokens, packed.neurons)
    return pointer(packed.data, torch.int32, (size,)), packed.neurons, packed.first
