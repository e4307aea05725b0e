"""The operations of the core on the CPU. Their contracts stand in ``csrc/univfast.h``."""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.views import (
    COMMON_ROUNDS,
    BadValue,
    Best,
    Shifts,
    co_moments,
    dtype_code,
    matrix,
    shifts_view,
    signs_view,
    tile_view,
    workspace,
)

__all__ = [
    "add_product",
    "best_pairs",
    "neuron_moments",
    "paired_moments",
    "rotate",
    "rotated_best",
    "rotated_variance",
    "standardise",
]


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """Rotates each row of ``x`` by each draw: ``[rows, neurons]`` -> ``[draws, rows, neurons]``.

    ``x`` is float32 or float64; the result has its dtype.
    """
    threads = torch.get_num_threads()
    view = matrix(x)
    output = torch.empty(len(signs) - COMMON_ROUNDS, *x.shape, dtype=x.dtype)
    owner, room = workspace(_native.rotate_workspace(view, threads))
    _native.rotate(
        x=view,
        signs=signs_view(signs),
        output=output.data_ptr(),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here
    return output


def paired_moments(
    a: Tensor,
    b: Tensor,
    rows: Tensor | None,
    signs: Tensor,
    threads: int,
    shifts: Shifts | None = None,
) -> Tensor | BadValue:
    """Moments of neuron i of ``a`` with that of ``b``, of its rotations, and with wrong partners.

    Args:
        a: ``[tokens, neurons]``, float64, float32, float16 or bfloat16, neuron stride 1.
        b: the same shape, any of the same dtypes.
        rows: int64 ``[tokens used]``, or None for all tokens.
        signs: as `rotation_signs` returns them.
        threads: at most this many; the result does not depend on it.
        shifts: which partners are wrong; None for none of them.

    Returns:
        float64 ``[5 + 2 * draws + shifts, neurons]`` (`univfast.sums.moments` names the rows), or
        the value that prevents it.
    """
    tokens = a.shape[0] if rows is None else rows.shape[0]
    neurons, draws = a.shape[1], len(signs) - COMMON_ROUNDS
    shifts = shifts or Shifts.none()
    moments = torch.empty(5 + 2 * draws + shifts.count, neurons, dtype=torch.float64)
    shifted = shifts_view(shifts)
    owner, room = workspace(_native.paired_workspace(tokens, neurons, draws, shifted, threads))
    bad = _native.paired_moments(
        a=matrix(a),
        b=matrix(b),
        rows=(0 if rows is None else rows.data_ptr(), tokens),
        signs=signs_view(signs),
        shifts=shifted,
        moments=moments.data_ptr(),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here
    return moments if bad is None else BadValue(*bad)


# ---- all pairs ----------------------------------------------------------------------------------


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    """Mean and second moment (a sum about the mean) of each neuron, float64 ``[2, neurons]``.

    ``x`` is ``[tokens, neurons]``, at least one each, of any dtype of activations, neuron stride 1.
    Returns the value that prevents it if there is one.
    """
    moments = torch.empty(2, x.shape[1], dtype=torch.float64)
    bad = _native.neuron_moments(
        x=matrix(x), mean=moments[0].data_ptr(), m2=moments[1].data_ptr(), threads=threads
    )
    return moments if bad is None else BadValue(*bad)


def standardise(x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int) -> None:
    """``output = (x - mean) * scale``, ``[tokens, neurons]``, taken in float64 before rounding.

    ``mean`` and ``scale`` are float64 ``[neurons]``; ``output`` is float64, or float32 where ``x``
    is not float64, with neuron stride 1.
    """
    _native.standardise(
        x=matrix(x),
        mean=mean.data_ptr(),
        scale=scale.data_ptr(),
        output=output.data_ptr(),
        output_dtype=dtype_code(output.dtype),
        output_stride=output.stride(0),
        threads=threads,
    )


def add_product(
    c: Tensor,
    product: Tensor,
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    """``c[i, j] += product[i, j] * scale_a[i] * scale_b[j] + delta_a[i] * delta_b[j]``.

    ``c`` is float64 ``[rows, columns]``, ``product`` float32 or float64 of that shape; scales and
    deltas are float64, of the rows and of the columns.
    """
    _native.add_product(
        c=co_moments(c),
        product=matrix(product),
        scales=(scales[0].data_ptr(), scales[1].data_ptr()),
        deltas=(deltas[0].data_ptr(), deltas[1].data_ptr()),
        threads=threads,
    )


def best_pairs(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    first: tuple[int, int],
    rows: Best,
    columns: Best | None,
    skip: Tensor | None,
    threads: int,
) -> None:
    """Takes a tile of co-moments into the highest correlations of its rows and columns.

    Args:
        c: float64 ``[rows, columns]``.
        inverse: 1 / norm of the rows and of the columns, float64; NaN leaves one out.
        first: numbers of the first row and the first column.
        rows: ``[rows, count]``, contiguous, highest first; updated.
        columns: ``[columns]``, contiguous; updated. None: not asked for.
        skip: int64 ``[rows]``, the column of the tile that a row leaves out.
        threads: at most this many; the result does not depend on it.
    """
    view = co_moments(c)
    owner, room = workspace(_native.best_pairs_workspace(view, threads))
    _native.best_pairs(
        tile=tile_view(c, inverse[0], skip, threads),
        column_inverse=inverse[1].data_ptr(),
        first=first,
        count=rows.place.shape[1],
        best=rows.pointers(),
        column_best=(0, 0) if columns is None else columns.pointers(),
        workspace=room,
    )
    del owner  # alive until here


def rotated_best(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    signs: Tensor,
    best: Tensor,
    skip: Tensor | None,
    threads: int,
) -> None:
    """Raises ``best`` to the highest correlation of each row with each rotation of the columns.

    Args:
        c: float64 ``[rows, columns]``: co-moments of the rows with the neurons of one layer.
        inverse: 1 / norm of the rows, and of each draw's rotated neurons ``[draws, columns]``.
        signs: of the layer's rotations.
        best: float64 ``[draws, rows]``, rows contiguous; updated.
        skip: int64 ``[rows]``, the rotated neuron that a row leaves out.
        threads: at most this many; the result does not depend on it.
    """
    view = co_moments(c)
    owner, room = workspace(_native.rotated_best_workspace(view, threads))
    _native.rotated_best(
        tile=tile_view(c, inverse[0], skip, threads),
        signs=signs_view(signs),
        column_inverse=inverse[1].data_ptr(),
        best=(best.data_ptr(), best.stride(0)),
        workspace=room,
    )
    del owner  # alive until here


def rotated_variance(c: Tensor, signs: Tensor, threads: int) -> Tensor:
    """Second moments of each rotated neuron, float64 ``[draws, neurons]``: ``diag(R c R^T)``.

    ``c`` is float64 ``[neurons, neurons]``, the co-moments within one layer.
    """
    draws = len(signs) - COMMON_ROUNDS
    variance = torch.empty(draws, c.shape[1], dtype=torch.float64)
    view = co_moments(c)
    size = _native.rotated_variance_workspace(view, draws, threads)
    owner, room = workspace(size)
    _native.rotated_variance(
        c=view,
        signs=signs_view(signs),
        variance=variance.data_ptr(),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here
    return variance


# ---- CUDA ---------------------------------------------------------------------------------------
