"""The operations of the core on a CUDA device. Their contracts stand in ``csrc/cuda/operations.h``.

They queue work on the device's current stream and return at once. PyTorch's allocator gives memory
that is freed here only to later work on the same stream. ``threads`` is the CPU's, and does not
count here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from univfast.native import place
from univfast.native.extension import _native
from univfast.native.place import numbers
from univfast.native.views import (
    COMMON_ROUNDS,
    SIGN_STAGES,
    BadValue,
    Best,
    Contexts,
    PairSums,
    Shifts,
    UsedTokens,
    co_moments,
    matrix,
    pointer,
    shifts_view,
    signs_view,
    single_view,
    strided,
    terms,
    tile_view,
    workspace,
)

__all__ = [
    "PairedState",
    "add_product",
    "best_pairs",
    "group_sums",
    "neuron_moments",
    "pair_details",
    "paired_moments",
    "rotate",
    "rotated_best",
    "rotated_variance",
    "standardise",
]

# Rows of co-moments that are rotated at a time, for all draws; bounds the memory for them.
_VARIANCE_VALUES = 1 << 27
# Values of matched pairs that are taken in float64 at a time; bounds the memory for them.
_DETAILS_VALUES = 1 << 24


class PairedState:
    """The moments of a stream of batches on a device, which never waits for the host.

    Args:
        neurons: the width of both layers.
        draws: rotations of B.
        device: a CUDA device.
        shifts: how many wrong partners.
    """

    def __init__(self, neurons: int, draws: int, device: torch.device, shifts: int = 0) -> None:
        # An update reads one and writes the other.
        rows = 5 + 2 * draws + shifts
        self._moments = torch.zeros(2, rows, neurons, dtype=torch.float64, device=device)
        self._counters = torch.zeros(2, 5, dtype=torch.int64, device=device)
        self._counters[:, 1] = -1
        self._now = 0
        self._device = device

    def update(
        self,
        a: Tensor,
        b: Tensor,
        keep: Tensor | None,
        signs: Tensor,
        first_token: int = 0,
        shifts: Shifts | None = None,
    ) -> None:
        """Takes in a batch, or leaves it out as a whole if it holds a bad value.

        Args:
            a: ``[tokens, neurons]``, at least one token, neuron stride 1.
            b: of the same shape and dtype.
            keep: bool ``[tokens]``, contiguous; None for all.
            signs: as `rotation_signs` returns them, on the device.
            first_token: number of the first token, in reports.
            shifts: of wrong partners, on the device; None for none of them.
        """
        draws = len(signs) - COMMON_ROUNDS
        stream = place.stream(self._device)
        tokens, neurons = a.shape
        if a.shape != b.shape or a.dtype != b.dtype or neurons != self._moments.shape[2]:
            raise ValueError(f"native: got {a.dtype} {tuple(a.shape)}, {b.dtype} {tuple(b.shape)}")
        device = self._device
        views = matrix(a, device), matrix(b, device)
        # None are never read, so that they need not be brought to the device.
        shifted = shifts_view(Shifts.none()) if shifts is None else shifts_view(shifts, device)
        size = _native.cuda.paired_update_workspace(*views, draws, shifted, stream[0])
        owner, room = workspace(size, self._device)
        now, after = self._now, 1 - self._now
        wrong = 0 if shifts is None else shifts.total
        if self._moments.shape[1] != 5 + 2 * draws + wrong:
            raise ValueError(f"native: got {draws} draws and {wrong} shifts, expected as at first")
        _native.cuda.paired_update(
            a=views[0],
            b=views[1],
            keep=0 if keep is None else pointer(keep, torch.bool, (tokens,), device),
            first_token=first_token,
            signs=signs_view(signs, neurons, device),
            shifts=shifted,
            before=self._at(now),
            after=self._at(after),
            workspace=room,
            stream=stream,
        )
        del owner  # alive until here
        self._now = after

    def _at(self, number: int) -> tuple[int, int]:
        shape = tuple(self._moments.shape[1:])
        return (
            pointer(self._moments[number], torch.float64, shape, self._device),
            pointer(self._counters[number], torch.int64, (5,), self._device),
        )

    @property
    def moments(self) -> Tensor:
        """Float64 ``[5 + 2 * draws + shifts, neurons]``, not copied, until the next update."""
        return self._moments[self._now]

    def read(self) -> tuple[int, BadValue | None]:
        """Waits: how many tokens there are, and the first bad value since `forget_bad`."""
        counters = self._counters[self._now].cpu()
        tokens, token, in_b, neuron = counters[:4].tolist()
        if token < 0:
            return tokens, None
        return tokens, BadValue(bool(in_b), token, neuron, counters[4:].view(torch.float64).item())

    def forget_bad(self) -> None:
        self._counters[self._now, 1] = -1

    def load(self, moments: Tensor, tokens: int) -> None:
        """Replaces the state by another."""
        self._moments[self._now].copy_(moments)
        self._counters[self._now, 0] = tokens
        self.forget_bad()


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    view = matrix(x, x.device)
    stream = place.stream(x.device)
    shape = (len(signs) - COMMON_ROUNDS, *x.shape)
    output = torch.empty(shape, dtype=x.dtype, device=x.device)
    owner, room = workspace(_native.cuda.rotate_workspace(view, stream[0]), x.device)
    _native.cuda.rotate(
        x=view,
        signs=signs_view(signs, x.shape[1], x.device),
        output=pointer(output, x.dtype, shape, x.device),
        workspace=room,
        stream=stream,
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
    """As on the CPU; waits for the device."""
    del threads
    if rows is not None:
        a, b = a[rows], b[rows]
    dtype = torch.promote_types(a.dtype, b.dtype)
    wrong = 0 if shifts is None else shifts.total
    state = PairedState(a.shape[1], len(signs) - COMMON_ROUNDS, a.device, wrong)
    state.update(a.to(dtype), b.to(dtype), None, signs, shifts=shifts)
    _, bad = state.read()
    return state.moments if bad is None else bad


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    """As on the CPU; waits for the device."""
    shape = (COMMON_ROUNDS, SIGN_STAGES, x.shape[1])
    none = torch.empty(shape, dtype=torch.float32, device=x.device)  # of no draw: never read
    moments = paired_moments(x, x, None, none, threads)
    return moments if isinstance(moments, BadValue) else moments[:4:2]


def standardise(x: Tensor, mean: Tensor, scale: Tensor, output: Tensor, threads: int) -> None:
    del threads
    output.copy_((x - mean).mul_(scale))  # in float64, which the mean is


def add_product(
    c: Tensor,
    product: Tensor,
    scales: tuple[Tensor, Tensor],
    deltas: tuple[Tensor, Tensor],
    threads: int,
) -> None:
    """As on the CPU; deltas may be two of each side: ``[2, rows]`` and ``[2, columns]``."""
    del threads
    if product.shape != c.shape or product.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"native: got a product {product.dtype} {tuple(product.shape)}")
    _native.cuda.add_product(
        c=co_moments(c, c.device),
        product=matrix(product, c.device),
        **terms(c, scales, deltas),
        stream=place.stream(c.device),
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
    (height, width), device, count = c.shape, c.device, rows.place.shape[1]
    _native.cuda.best_pairs(
        tile=tile_view(c, inverse[0], skip, threads, device),
        column_inverse=pointer(inverse[1], torch.float64, (width,), device),
        first=first,
        count=count,
        best=rows.pointers((height, count), device),
        column_best=(0, 0) if columns is None else columns.pointers((width,), device),
        stream=place.stream(c.device),
    )


def rotated_best(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    signs: Tensor,
    best: Tensor,
    skip: Tensor | None,
    threads: int,
    single: tuple[Tensor, Tensor] | None = None,
) -> None:
    (height, width), device, draws = c.shape, c.device, len(signs) - COMMON_ROUNDS
    view = co_moments(c, device)
    stream = place.stream(device)
    owner, room = workspace(_native.cuda.rotated_best_workspace(view, stream[0]), device)
    _native.cuda.rotated_best(
        tile=tile_view(c, inverse[0], skip, threads, device),
        signs=signs_view(signs, width, device),
        column_inverse=pointer(inverse[1], torch.float64, (draws, width), device),
        best=strided(best, (torch.float64,), (draws, height), device),
        **single_view(single, (draws, height, width), device),
        workspace=room,
        stream=stream,
    )
    del owner  # alive until here


def rotated_variance(c: Tensor, signs: Tensor, threads: int) -> Tensor:
    del threads
    draws, neurons = len(signs) - COMMON_ROUNDS, len(c)
    variance = torch.zeros(draws, neurons, dtype=torch.float64, device=c.device)
    unit = torch.eye(neurons, dtype=torch.float64, device=c.device)
    step = max(1, _VARIANCE_VALUES // (draws * neurons))
    # R c R^T at (j, j) is the sum over k of R[j, k] (R c)[j, k], and c is symmetric: both are
    # element j of a rotated row, of unit vector k and of row k of c.
    for first in range(0, neurons, step):
        part = slice(first, first + step)
        variance += (rotate(unit[part], signs) * rotate(c[part], signs)).sum(dim=1)
    return variance.clamp_(min=0)


# ---- details of matched pairs: torch's own operations --------------------------------------------


def pair_details(
    frame: Tensor,
    layers: tuple[Sequence[Tensor], Sequence[Tensor]],
    match: Tensor,
    used: UsedTokens,
    sums: PairSums,
    threads: int,
) -> None:
    """As on the CPU, in float64 whatever the dtype of ``frame``."""
    del threads
    pivot, scale = frame.double()
    step = max(1, _DETAILS_VALUES // len(match))
    top, match_top = sums.top, sums.match_top
    for block, begin, end in _parts(used, step):
        rows = numbers(begin, end, device=match.device)
        rows = rows if used.rows is None else used.rows[begin:end]
        a, b = (torch.cat([x[rows] for x in side], dim=1).double() for side in layers)
        b = b[:, match]
        x, y = (a - pivot[0]) * scale[0], (b - pivot[1]) * scale[1]
        xx, yy = x * x, y * y
        sums.pairs[block] += torch.stack([each.sum(dim=0) for each in (x, y, xx, yy, x * y)])
        powers = xx * y, x * yy, xx * yy, xx * x, xx * xx, yy * y, yy * yy, a > 0, b > 0
        sums.powers.add_(torch.stack([each.sum(dim=0) for each in powers]))
        tokens = rows + used.first_token
        top, match_top = _raised(top, a, b, tokens), _raised(match_top, b, a, tokens)
    for own, found in ((sums.top, top), (sums.match_top, match_top)):
        for x, y in zip(own, found, strict=True):
            x.copy_(y)


def _parts(used: UsedTokens, step: int) -> Iterator[tuple[int, int, int]]:
    """Of each block its number, first and last token + 1, at most ``step`` at a time."""
    for block, (begin, end) in enumerate(pairwise([0, *used.ends.tolist()])):
        for first in range(begin, end, step):
            yield block, first, min(first + step, end)


def _raised(top: Contexts, values: Tensor, partners: Tensor, tokens: Tensor) -> Contexts:
    """``top`` with what is higher of ``values`` ``[tokens, neurons]``, at increasing ``tokens``."""
    count = min(top.value.shape[1], len(tokens))
    hot = (values.amax(dim=0) >= top.value[:, -1]).nonzero()[:, 0]
    order = values[:, hot].sort(dim=0, descending=True, stable=True).indices[:count]
    found = values[order, hot].T, tokens[order].T, partners[order, hot].T
    raised = Contexts(*(x[hot] for x in top)).merged(Contexts(*found))
    return Contexts(*(x.index_copy(0, hot, y) for x, y in zip(top, raised, strict=True)))


def group_sums(
    x: Tensor, rows: Tensor, groups: Tensor, pivot: Tensor, sums: Tensor, threads: int
) -> None:
    """As on the CPU; in an order that is always the same."""
    del threads
    step = max(1, _DETAILS_VALUES // x.shape[1])
    for part in (slice(first, first + step) for first in range(0, len(rows), step)):
        found, lengths = torch.unique_consecutive(groups[part], return_counts=True)
        deviations = x[rows[part]].double() - pivot
        sums[found] += torch.segment_reduce(deviations, "sum", lengths=lengths, axis=0)
