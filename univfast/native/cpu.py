"""The operations of the core on the CPU. Their contracts stand in ``csrc/univfast.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.place import CPU
from univfast.native.views import (
    COMMON_ROUNDS,
    BadValue,
    Best,
    PairSums,
    Shifts,
    UsedTokens,
    co_moments,
    dtype_code,
    matrix,
    pointer,
    row_numbers,
    shifts_view,
    signs_view,
    single_view,
    strided,
    terms,
    tile_view,
    workspace,
)

__all__ = [
    "add_product",
    "best_pairs",
    "extreme_tokens",
    "group_sums",
    "neuron_moments",
    "pair_details",
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
    shape = (len(signs) - COMMON_ROUNDS, *x.shape)
    output = torch.empty(shape, dtype=x.dtype, device="cpu")
    owner, room = workspace(_native.rotate_workspace(view, threads))
    _native.rotate(
        x=view,
        signs=signs_view(signs, x.shape[1]),
        output=pointer(output, x.dtype, shape),
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
    if a.shape != b.shape:
        raise ValueError(f"native: got a {tuple(a.shape)} and b {tuple(b.shape)}")
    tokens = a.shape[0] if rows is None else rows.shape[0]
    neurons, draws = a.shape[1], len(signs) - COMMON_ROUNDS
    shifts = shifts or Shifts.none()
    shape = (5 + 2 * draws + shifts.total, neurons)
    moments = torch.empty(shape, dtype=torch.float64, device="cpu")
    shifted = shifts_view(shifts)
    owner, room = workspace(_native.paired_workspace(tokens, neurons, draws, shifted, threads))
    bad = _native.paired_moments(
        a=matrix(a),
        b=matrix(b),
        rows=(0 if rows is None else row_numbers(rows, len(a)), tokens),
        signs=signs_view(signs, neurons),
        shifts=shifted,
        moments=pointer(moments, torch.float64, shape),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here
    return moments if bad is None else BadValue(*bad)


# ---- details of matched pairs --------------------------------------------------------------------


def pair_details(
    frame: Tensor,
    layers: tuple[Sequence[Tensor], Sequence[Tensor]],
    match: Tensor,
    used: UsedTokens,
    sums: PairSums,
    threads: int,
) -> None:
    """Adds a batch to the sums of matched pairs, and raises the lists of their highest values.

    Args:
        frame: ``[2, 2, neurons]``, contiguous, of the dtype that is summed in within a run of
            tokens, float32 or float64 (which it must be where a layer is): pivots of A's neurons
            and of their partners, then scales. x = (value - pivot) * scale.
        layers: those of A, and those of B: ``[tokens, width]`` each, any dtype, neuron stride 1.
        match: int64 ``[neurons]``: number of the partner among all neurons of B.
        used: tokens.
        sums: contiguous; updated. NaN and infinity go into the sums, and leave the contexts
            unspecified.
        threads: at most this many; the result does not depend on it.
    """
    (tokens,) = {len(x) for side in layers for x in side}
    widths = [sum(x.shape[1] for x in side) for side in layers]
    neurons, blocks, ends = len(match), len(used.ends), [0, *used.ends.tolist()]
    if used.rows is not None:
        tokens, rows = len(used.rows), row_numbers(used.rows, tokens)
    else:
        rows = 0
    if widths[0] != neurons or ends != sorted(ends) or used.number > tokens:
        raise ValueError(
            f"native: got {neurons} pairs of {widths[0]} neurons, and blocks that end at {ends[1:]}"
            f" of {tokens} tokens"
        )
    contexts = neurons, sums.top.value.shape[1]
    a, b = ([matrix(x) for x in side] for side in layers)
    _native.pair_details(
        frame=(
            pointer(frame[0], frame.dtype, (2, neurons)),
            pointer(frame[1], frame.dtype, (2, neurons)),
        ),
        dtype=dtype_code(frame.dtype),
        a=a,
        b=b,
        match=row_numbers(match, widths[1]),
        rows=(rows, used.number),
        first_token=used.first_token,
        ends=(pointer(used.ends, torch.int64, (blocks,)), blocks),
        sums=(
            pointer(sums.pairs, torch.float64, (blocks, 5, neurons)),
            pointer(sums.powers, torch.float64, (9, neurons)),
        ),
        top=(sums.top.pointers(contexts, CPU), sums.match_top.pointers(contexts, CPU)),
        count=contexts[1],
        threads=threads,
    )


def group_sums(
    x: Tensor, rows: Tensor, groups: Tensor, pivot: Tensor, sums: Tensor, threads: int
) -> None:
    """``sums[groups[t]] += x[rows[t]] - pivot``, in float64.

    Args:
        x: ``[tokens, neurons]``, any dtype, neuron stride 1.
        rows: int64 ``[tokens used]``: those of a group next to each other.
        groups: int64 ``[tokens used]``.
        pivot: float64 ``[neurons]``, contiguous.
        sums: float64 ``[groups, neurons]``, neuron stride 1; updated.
        threads: at most this many; the result does not depend on it.
    """
    if len(groups) != len(rows):
        raise ValueError(f"native: got {len(groups)} groups of {len(rows)} tokens")
    _native.group_sums(
        x=matrix(x),
        rows=(row_numbers(rows, len(x)), len(rows)),
        groups=row_numbers(groups, len(sums)),
        pivot=pointer(pivot, torch.float64, (x.shape[1],)),
        sums=strided(sums, (torch.float64,), (len(sums), x.shape[1])),
        count=len(sums),
        threads=threads,
    )


def extreme_tokens(
    x: Tensor,
    tokens: Tensor,
    high: tuple[Tensor, Tensor],
    low: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    """Raises the lists of each neuron's highest values, and of its highest negated ones.

    Args:
        x: ``[tokens, neurons]``, any dtype but float64, neuron stride 1.
        tokens: int64 ``[tokens]``: their numbers, increasing, none of them listed before.
        high: values, float32 ``[neurons, count]``, highest first, and their tokens, int64, of equal
            values the lower first; -inf and -1 where there are fewer. Contiguous; updated.
        low: the same of negated values.
        threads: at most this many; the result does not depend on it.
    """
    count = high[0].shape[1]
    shape = x.shape[1], count
    (high_values, low_values), (high_tokens, low_tokens) = (
        tuple(pointer(side[i], dtype, shape) for side in (high, low))
        for i, dtype in enumerate((torch.float32, torch.int64))
    )
    _native.extreme_tokens(
        x=matrix(x),
        tokens=pointer(tokens, torch.int64, (len(x),)),
        high=(high_values, high_tokens),
        low=(low_values, low_tokens),
        count=count,
        threads=threads,
    )


# ---- all pairs ----------------------------------------------------------------------------------


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    """Mean and second moment (a sum about the mean) of each neuron, float64 ``[2, neurons]``.

    ``x`` is ``[tokens, neurons]``, at least one each, of any dtype of activations, neuron stride 1.
    Returns the value that prevents it if there is one.
    """
    neurons = (x.shape[1],)
    moments = torch.empty(2, *neurons, dtype=torch.float64, device="cpu")
    mean, m2 = (pointer(row, torch.float64, neurons) for row in moments)
    bad = _native.neuron_moments(x=matrix(x), mean=mean, m2=m2, threads=threads)
    return moments if bad is None else BadValue(*bad)


def standardise(x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int) -> None:
    """``output = (x - mean) * scale``, ``[tokens, neurons]``, taken in float64 before rounding.

    ``mean`` and ``scale`` are float64 ``[neurons]``; ``output`` is float64, or float32 where ``x``
    is not float64, with neuron stride 1.
    """
    tokens, neurons = x.shape
    made = (torch.float64,) if x.dtype == torch.float64 else (torch.float64, torch.float32)
    address, stride = strided(output, made, (tokens, neurons))
    _native.standardise(
        x=matrix(x),
        mean=pointer(mean, torch.float64, (neurons,)),
        scale=pointer(scale, torch.float64, (neurons,)),
        output=address,
        output_dtype=dtype_code(output.dtype),
        output_stride=stride,
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
    deltas are float64, of the rows and of the columns; deltas may be two of each: ``[2, rows]``
    and ``[2, columns]``.
    """
    if product.shape != c.shape or product.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"native: got a product {product.dtype} {tuple(product.shape)}")
    _native.add_product(
        c=co_moments(c), product=matrix(product), **terms(c, scales, deltas), threads=threads
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
    height, width = c.shape
    count = rows.place.shape[1]
    _native.best_pairs(
        tile=tile_view(c, inverse[0], skip, threads),
        column_inverse=pointer(inverse[1], torch.float64, (width,)),
        first=first,
        count=count,
        best=rows.pointers((height, count), CPU),
        column_best=(0, 0) if columns is None else columns.pointers((width,), CPU),
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
    single: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Raises ``best`` to the highest correlation of each row with each rotation of the columns.

    Args:
        c: float64 ``[rows, columns]``: co-moments of the rows with the neurons of one layer.
        inverse: 1 / norm of the rows, and of each draw's rotated neurons ``[draws, columns]``.
        signs: of the layer's rotations.
        best: float64 ``[draws, rows]``, rows contiguous; updated.
        skip: int64 ``[rows]``, the rotated neuron that a row leaves out.
        threads: at most this many; the result does not depend on it.
        single: of each row the number of a rotated neuron, -1 for none, int64 ``[rows]``; and its
            correlations with these alone, float64 ``[draws, rows]``, which are written.
    """
    view = co_moments(c)
    owner, room = workspace(_native.rotated_best_workspace(view, threads))
    draws = len(signs) - COMMON_ROUNDS
    _native.rotated_best(
        tile=tile_view(c, inverse[0], skip, threads),
        signs=signs_view(signs, c.shape[1]),
        column_inverse=pointer(inverse[1], torch.float64, (draws, c.shape[1])),
        best=strided(best, (torch.float64,), (draws, len(c))),
        **single_view(single, (draws, *c.shape), CPU),
        workspace=room,
    )
    del owner  # alive until here


def rotated_variance(c: Tensor, signs: Tensor, threads: int) -> Tensor:
    """Second moments of each rotated neuron, float64 ``[draws, neurons]``: ``diag(R c R^T)``.

    ``c`` is float64 ``[neurons, neurons]``, the co-moments within one layer.
    """
    draws, neurons = len(signs) - COMMON_ROUNDS, c.shape[1]
    if c.shape[0] != neurons:
        raise ValueError(f"native: got co-moments {tuple(c.shape)} within one layer")
    variance = torch.empty(draws, neurons, dtype=torch.float64, device="cpu")
    view = co_moments(c)
    size = _native.rotated_variance_workspace(view, draws, threads)
    owner, room = workspace(size)
    _native.rotated_variance(
        c=view,
        signs=signs_view(signs, neurons),
        variance=pointer(variance, torch.float64, (draws, neurons)),
        workspace=room,
        threads=threads,
    )
    del owner  # alive until here
    return variance


# ---- CUDA ---------------------------------------------------------------------------------------
