"""What the compiled core is told of tensors, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from univfast.native.extension import _native

__all__ = [
    "COMMON_ROUNDS",
    "SHARED_LAGS",
    "SIGN_STAGES",
    "BadValue",
    "Best",
    "Contexts",
    "PairSums",
    "Shifts",
    "UsedTokens",
    "co_moments",
    "dtype_code",
    "matrix",
    "rotation_signs",
    "shifts_view",
    "signs_view",
    "tile_view",
    "workspace",
]

_ALIGNMENT = 64  # bytes, as workspace.h asks

SIGN_STAGES = _native.SIGN_STAGES
COMMON_ROUNDS = _native.COMMON_ROUNDS
SHARED_LAGS = _native.SHARED_LAGS


class BadValue(NamedTuple):
    """The first value, by token, that no finite statistic can include."""

    in_b: bool
    token: int
    neuron: int
    value: float


class Best(NamedTuple):
    """Highest correlations and where they are, -infinity and -1 to begin with."""

    correlation: Tensor  # float64
    place: Tensor  # int64

    @staticmethod
    def none(*shape: int, device: torch.device | None = None) -> Best:
        return Best(
            torch.full(shape, -torch.inf, dtype=torch.float64, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
        )

    def cpu(self) -> Best:
        return Best(self.correlation.cpu(), self.place.cpu())

    def pointers(self) -> tuple[int, int]:
        return self.correlation.data_ptr(), self.place.data_ptr()


class Shifts(NamedTuple):
    """Shift d is ``(leads[d // lags] + lags[d % lags]) % neurons``: `partners` says of what."""

    leads: Tensor  # int64, each below the number of neurons
    lags: Tensor  # int64 likewise, SHARED_LAGS or one
    total: int  # of shifts, which the last lead may have fewer of than there are lags

    @staticmethod
    def none() -> Shifts:
        return Shifts(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 0)

    def each(self, neurons: int) -> Tensor:
        """The shifts, int64 ``[total]``."""
        return ((self.leads[:, None] + self.lags) % neurons).flatten()[: self.total]

    def to(self, device: torch.device) -> Shifts:
        return Shifts(self.leads.to(device), self.lags.to(device), self.total)


class Contexts(NamedTuple):
    """The highest values of each neuron and where they are, ``[neurons, count]``.

    Highest first, of equal ones the lower token first; -infinity and -1 where there are fewer.
    """

    value: Tensor  # float64
    token: Tensor  # int64
    partner: Tensor  # float64: the other neuron's value at the same token

    @staticmethod
    def none(neurons: int, count: int, device: torch.device | None = None) -> Contexts:
        best = Best.none(neurons, count, device=device)
        return Contexts(*best, torch.full_like(best.correlation, torch.nan))

    def merged(self, other: Contexts) -> Contexts:
        """The highest of both, as many as this has."""
        count = self.value.shape[1]
        both = [torch.cat(pair, dim=1) for pair in zip(self, other, strict=True)]
        for key, descending in ((1, False), (0, True)):
            order = both[key].sort(dim=1, descending=descending, stable=True).indices
            both = [x.gather(1, order) for x in both]
        return Contexts(*(x[:, :count].contiguous() for x in both))

    def pointers(self) -> tuple[int, int, int]:
        return self.value.data_ptr(), self.token.data_ptr(), self.partner.data_ptr()


class UsedTokens(NamedTuple):
    """The tokens of a batch that are used, and the blocks that they are of.

    Attributes:
        rows: int64 ``[tokens used]``, increasing; None for all.
        ends: int64 ``[blocks]`` on the CPU: where each block ends among them.
        first_token: number of the batch's first token.
    """

    rows: Tensor | None
    ends: Tensor
    first_token: int

    @property
    def number(self) -> int:
        """How many there are."""
        return int(self.ends[-1])


class PairSums(NamedTuple):
    """What is summed of matched pairs. ``csrc/rows.h`` names the rows.

    Attributes:
        pairs: float64 ``[blocks, 5, neurons]``: x, y, xx, yy, xy.
        powers: float64 ``[9, neurons]``: xxy, xyy, xxyy, xxx, xxxx, yyy, yyyy, and how many values
            of A and of B are above 0.
        top: contexts of A's neurons.
        match_top: of their partners.
    """

    pairs: Tensor
    powers: Tensor
    top: Contexts
    match_top: Contexts


def dtype_code(dtype: torch.dtype) -> _native.DType:
    return {
        torch.float64: _native.DType.float64,
        torch.float32: _native.DType.float32,
        torch.float16: _native.DType.float16,
        torch.bfloat16: _native.DType.bfloat16,
    }[dtype]


def matrix(x: Tensor) -> _native.Matrix:
    """Describes a tensor ``[rows, columns]`` whose columns are contiguous."""
    if x.dim() != 2 or (x.shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(f"native matrix: got {x.device} {tuple(x.shape)} strides {x.stride()}")
    return _native.Matrix(
        data=x.data_ptr(),
        dtype=dtype_code(x.dtype),
        rows=x.shape[0],
        columns=x.shape[1],
        row_stride=x.stride(0),
    )


def co_moments(c: Tensor) -> _native.CoMoments:
    """Describes float64 co-moments ``[rows, columns]`` whose columns are contiguous."""
    matrix(c)  # refuses what is no such matrix
    return _native.CoMoments(
        data=c.data_ptr(), rows=c.shape[0], columns=c.shape[1], row_stride=c.stride(0)
    )


def signs_view(signs: Tensor) -> _native.Signs:
    """Describes what `rotation_signs` returns."""
    return _native.Signs(data=signs.data_ptr(), draws=len(signs) - COMMON_ROUNDS)


def shifts_view(shifts: Shifts) -> _native.Shifts:
    return _native.Shifts(
        leads=shifts.leads.data_ptr(),
        lags=shifts.lags.data_ptr(),
        count=shifts.total,
        lag_count=len(shifts.lags),
    )


def workspace(size: int, device: torch.device | None = None) -> tuple[Tensor, tuple[int, int]]:
    """The tensor that owns at least ``size`` aligned bytes, and their address and size."""
    owner = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=device)
    return owner, (owner.data_ptr() + -owner.data_ptr() % _ALIGNMENT, size)


def rotation_signs(neurons: int, draws: int, seed: int) -> Tensor:
    """Signs of the structured rotation, ``[rounds + draws, stages, neurons]``, from a 64-bit seed.

    Those of the `COMMON_ROUNDS`, which all draws share, then those of each draw's own round.
    """
    signs = torch.empty(COMMON_ROUNDS + draws, SIGN_STAGES, neurons)
    _native.rotation_signs(signs=signs.data_ptr(), draws=draws, neurons=neurons, seed=seed)
    return signs


def tile_view(c: Tensor, row_inverse: Tensor, skip: Tensor | None, threads: int) -> _native.Tile:
    return _native.Tile(
        c=co_moments(c),
        row_inverse=row_inverse.data_ptr(),
        skip=0 if skip is None else skip.data_ptr(),
        threads=threads,
    )
