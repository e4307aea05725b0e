"""Some pairs alone, on the CPU. The contracts stand in ``csrc/univfast.h``."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.views import dtype_code, matrix, pointer, strided

__all__ = ["candidate_products", "standardise_transposed"]


def standardise_transposed(
    x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int
) -> None:
    """``output = ((x - mean) * scale).T``, ``[neurons, tokens]`` of ``[tokens, neurons]``.

    As `univfast.native.cpu.standardise`: taken in float64 before rounding; ``mean`` and ``scale``
    are float64 ``[neurons]``; ``output`` is float64, or float32 where ``x`` is not float64, with
    token stride 1.
    """
    tokens, neurons = x.shape
    made = (torch.float64,) if x.dtype == torch.float64 else (torch.float64, torch.float32)
    address, stride = strided(output, made, (neurons, tokens))
    _native.standardise_transposed(
        x=matrix(x),
        mean=pointer(mean, torch.float64, (neurons,)),
        scale=pointer(scale, torch.float64, (neurons,)),
        output=address,
        output_dtype=dtype_code(output.dtype),
        output_stride=stride,
        threads=threads,
    )


def candidate_products(
    x: Tensor,
    y: Tensor,
    pairs: tuple[Tensor, Tensor],
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    sums: Tensor,
    threads: int,
) -> None:
    """``sums[k] += (x[i] . y[j]) * scale_a[i] * scale_b[j] + delta_a[i] * delta_b[j]``.

    Args:
        x: ``[neurons of A, tokens]``, float32 or float64, token stride 1. Products are summed in
            this dtype.
        y: ``[neurons of B, tokens]``, likewise.
        pairs: pair k is (i, j): int64 ``starts [neurons of A + 1]``, where the pairs of each i
            begin and the last end, and int64 ``places [pairs]``, each j.
        scales: float64, of the neurons of A and of B.
        deltas: the same.
        sums: float64 ``[pairs]``; updated.
        threads: at most this many; the result does not depend on it.
    """
    starts, places = pairs
    shape = places.shape
    if x.shape[1] != y.shape[1] or places.dim() != 1:
        raise ValueError(f"native: got x {tuple(x.shape)}, y {tuple(y.shape)}, places {shape}")

    def both(sides: tuple[Tensor, Tensor]) -> tuple[int, int]:
        first, second = (
            pointer(side, torch.float64, (len(rows),))
            for side, rows in zip(sides, (x, y), strict=True)
        )
        return first, second

    _native.candidate_products(
        x=matrix(x),
        y=matrix(y),
        pairs=_native.PairRows(
            starts=pointer(starts, torch.int64, (len(x) + 1,)),
            places=pointer(places, torch.int64, (len(places),)),
            count=len(places),
        ),
        scales=both(scales),
        deltas=both(deltas),
        sums=pointer(sums, torch.float64, (len(places),)),
        threads=threads,
    )
