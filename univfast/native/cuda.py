"""The operations of the core on a CUDA device. Their contracts stand in ``csrc/cuda/operations.h``.

They queue work on the device's current stream and return at once. PyTorch's allocator gives memory
that is freed here only to later work on the same stream. ``threads`` is the CPU's, and does not
count here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from univfast.native import place
from univfast.native.extension import _native
from univfast.native.views import (
    COMMON_ROUNDS,
    BadValue,
    Best,
    Shifts,
    co_moments,
    matrix,
    shifts_view,
    signs_view,
    tile_view,
    workspace,
)

__all__ = [
    "PairedState",
    "add_product",
    "best_pairs",
    "neuron_moments",
    "paired_moments",
    "rotate",
    "rotated_best",
    "rotated_variance",
    "standardise",
]

# Rows of co-moments that are rotated at a time, for all draws; bounds the memory for them.
_VARIANCE_VALUES = 1 << 27


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
        views = matrix(a), matrix(b)
        shifted = shifts_view(shifts or Shifts.none())
        size = _native.cuda.paired_update_workspace(*views, draws, shifted, stream[0])
        owner, room = workspace(size, self._device)
        now, after = self._now, 1 - self._now
        _native.cuda.paired_update(
            a=views[0],
            b=views[1],
            keep=0 if keep is None else keep.data_ptr(),
            first_token=first_token,
            signs=signs_view(signs),
            shifts=shifted,
            before=(self._moments[now].data_ptr(), self._counters[now].data_ptr()),
            after=(self._moments[after].data_ptr(), self._counters[after].data_ptr()),
            workspace=room,
            stream=stream,
        )
        del owner  # alive until here
        self._now = after

    @property
    def moments(self) -> Tensor:
        """Float64 ``[5 + 2 * draws + shifts, neurons]``, not copied; good until the next update."""
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
    view = matrix(x)
    stream = place.stream(x.device)
    output = torch.empty(len(signs) - COMMON_ROUNDS, *x.shape, dtype=x.dtype, device=x.device)
    owner, room = workspace(_native.cuda.rotate_workspace(view, stream[0]), x.device)
    _native.cuda.rotate(
        x=view, signs=signs_view(signs), output=output.data_ptr(), workspace=room, stream=stream
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
    wrong = 0 if shifts is None else shifts.count
    state = PairedState(a.shape[1], len(signs) - COMMON_ROUNDS, a.device, wrong)
    state.update(a.to(dtype), b.to(dtype), None, signs, shifts=shifts)
    _, bad = state.read()
    return state.moments if bad is None else bad


def neuron_moments(x: Tensor, threads: int) -> Tensor | BadValue:
    """As on the CPU; waits for the device."""
    none = torch.empty(COMMON_ROUNDS, 0, x.shape[1], device=x.device)
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
    rows, columns = (delta.reshape(-1, delta.shape[-1]).contiguous() for delta in deltas)
    _native.cuda.add_product(
        c=co_moments(c),
        product=matrix(product),
        scales=(scales[0].data_ptr(), scales[1].data_ptr()),
        count=len(rows),
        deltas=(rows.data_ptr(), columns.data_ptr()),
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
    _native.cuda.best_pairs(
        tile=tile_view(c, inverse[0], skip, threads),
        column_inverse=inverse[1].data_ptr(),
        first=first,
        count=rows.place.shape[1],
        best=rows.pointers(),
        column_best=(0, 0) if columns is None else columns.pointers(),
        stream=place.stream(c.device),
    )


def rotated_best(
    c: Tensor,
    inverse: tuple[Tensor, Tensor],
    signs: Tensor,
    best: Tensor,
    skip: Tensor | None,
    threads: int,
) -> None:
    view = co_moments(c)
    stream = place.stream(c.device)
    owner, room = workspace(_native.cuda.rotated_best_workspace(view, stream[0]), c.device)
    _native.cuda.rotated_best(
        tile=tile_view(c, inverse[0], skip, threads),
        signs=signs_view(signs),
        column_inverse=inverse[1].data_ptr(),
        best=(best.data_ptr(), best.stride(0)),
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
