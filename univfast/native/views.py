"""What the compiled core is told of tensors, and what it answers."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.place import CPU, memory

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
    "pointer",
    "rotation_signs",
    "row_numbers",
    "shifts_view",
    "signs_view",
    "single_view",
    "strided",
    "terms",
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
    def none(*shape: int, device: torch.device | None = CPU) -> Best:
        return Best(
            torch.full(shape, -torch.inf, dtype=torch.float64, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
        )

    def cpu(self) -> Best:
        return Best(self.correlation.cpu(), self.place.cpu())

    def pointers(self, shape: tuple[int, ...], device: torch.device) -> tuple[int, int]:
        return (
            pointer(self.correlation, torch.float64, shape, device),
            pointer(self.place, torch.int64, shape, device),
        )


class Shifts(NamedTuple):
    """Shift d is ``(leads[d // lags] + lags[d % lags]) % neurons``: `partners` says of what."""

    leads: Tensor  # int64, each below the number of neurons
    lags: Tensor  # int64 likewise, SHARED_LAGS or one
    total: int  # of shifts, which the last lead may have fewer of than there are lags

    @staticmethod
    def none() -> Shifts:
        return Shifts(
            torch.empty(0, dtype=torch.int64, device="cpu"),
            torch.zeros(1, dtype=torch.int64, device="cpu"),
            0,
        )

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
    def none(neurons: int, count: int, device: torch.device | None = CPU) -> Contexts:
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

    def pointers(self, shape: tuple[int, int], device: torch.device) -> tuple[int, int, int]:
        return (
            pointer(self.value, torch.float64, shape, device),
            pointer(self.token, torch.int64, shape, device),
            pointer(self.partner, torch.float64, shape, device),
        )


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
    """What the core calls a dtype. Raises KeyError for those that it does not take."""
    return {
        torch.float64: _native.DType.float64,
        torch.float32: _native.DType.float32,
        torch.float16: _native.DType.float16,
        torch.bfloat16: _native.DType.bfloat16,
    }[dtype]


# ---- what is handed over, all of it checked, as the core cannot ---------------------------------


def pointer(
    x: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device = CPU
) -> int:
    """The address of a contiguous tensor of this dtype and shape, on this device.

    Raises:
        ValueError: it is another, which the core would read or write as this one.
    """
    if x.dtype != dtype or x.shape != shape or not x.is_contiguous():
        expected = f"contiguous {dtype} {shape}"
        raise ValueError(f"native: got {_seen(x)}, expected {expected} on {device}")
    return _address(x, device)


def strided(
    x: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, int], device: torch.device = CPU
) -> tuple[int, int]:
    """The address of rows that the core writes, each contiguous, and the stride between them.

    Raises:
        ValueError: it is no such tensor, or rows share memory.
    """
    stride = x.stride(0) if x.dim() == 2 else 0
    apart = shape[0] <= 1 or stride >= shape[1]
    along = shape[1] <= 1 or (x.dim() == 2 and x.stride(1) == 1)
    if x.dtype not in dtypes or x.shape != shape or not (apart and along):
        raise ValueError(f"native: got {_seen(x)}, expected rows of {dtypes[0]} {shape}")
    return _address(x, device), stride


def row_numbers(rows: Tensor, tokens: int, device: torch.device = CPU) -> int:
    """The address of int64 numbers of rows, each below ``tokens``.

    Raises:
        ValueError: they are no such numbers.
    """
    if len(rows):
        low, high = (int(x) for x in rows.aminmax())
        if low < 0 or high >= tokens:
            raise ValueError(f"native: got rows {low} to {high} of {tokens}")
    return pointer(rows, torch.int64, (rows.numel(),), device)


def _address(x: Tensor, device: torch.device) -> int:
    needed, held = memory(x)
    if type(x) is not Tensor or x.device != device or needed > held:
        raise ValueError(f"native: got {_seen(x)} of {held} bytes, expected one on {device}")
    return x.data_ptr()


def _seen(x: Tensor) -> str:
    return f"a {type(x).__name__}, {x.dtype} {tuple(x.shape)} strides {x.stride()} on {x.device}"


def matrix(x: Tensor, device: torch.device = CPU) -> _native.Matrix:
    """Describes a tensor ``[rows, columns]`` that is read, whose columns are contiguous."""
    if x.dim() != 2 or (x.shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(f"native: got {_seen(x)}, expected a matrix with contiguous rows")
    return _native.Matrix(
        data=_address(x, device),
        dtype=dtype_code(x.dtype),
        rows=x.shape[0],
        columns=x.shape[1],
        row_stride=x.stride(0),
    )


def co_moments(c: Tensor, device: torch.device = CPU) -> _native.CoMoments:
    """Describes float64 co-moments ``[rows, columns]`` whose columns are contiguous."""
    rows, columns = c.shape
    data, stride = strided(c, (torch.float64,), (rows, columns), device)
    return _native.CoMoments(data=data, rows=rows, columns=columns, row_stride=stride)


def signs_view(signs: Tensor, neurons: int, device: torch.device = CPU) -> _native.Signs:
    """Describes what `rotation_signs` returns for so many neurons."""
    shape = (len(signs), SIGN_STAGES, neurons)
    if len(signs) < COMMON_ROUNDS:
        raise ValueError(f"native: got {_seen(signs)}, expected {COMMON_ROUNDS} rounds of signs")
    data = pointer(signs, torch.float32, shape, device)
    return _native.Signs(data=data, draws=len(signs) - COMMON_ROUNDS)


def shifts_view(shifts: Shifts, device: torch.device = CPU) -> _native.Shifts:
    """Shifts as the core takes them. Raises ValueError for what is none."""
    leads, lags = shifts.leads.numel(), shifts.lags.numel()
    if not 0 <= shifts.total <= leads * lags:
        raise ValueError(f"native: got {shifts.total} shifts of {leads} leads and {lags} lags")
    return _native.Shifts(
        leads=pointer(shifts.leads, torch.int64, (leads,), device),
        lags=pointer(shifts.lags, torch.int64, (lags,), device),
        count=shifts.total,
        lag_count=lags,
    )


def workspace(size: int, device: torch.device = CPU) -> tuple[Tensor, tuple[int, int]]:
    """The tensor that owns at least ``size`` aligned bytes, and their address and size."""
    owner = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=device)
    return owner, (owner.data_ptr() + -owner.data_ptr() % _ALIGNMENT, size)


def rotation_signs(neurons: int, draws: int, seed: int) -> Tensor:
    """Signs of the structured rotation, ``[rounds + draws, stages, neurons]``, from a 64-bit seed.

    Those of the `COMMON_ROUNDS`, which all draws share, then those of each draw's own round.
    """
    shape = (COMMON_ROUNDS + draws, SIGN_STAGES, neurons)
    signs = torch.empty(shape, dtype=torch.float32, device="cpu")
    data = pointer(signs, torch.float32, shape)
    _native.rotation_signs(signs=data, draws=draws, neurons=neurons, seed=seed)
    return signs


class Single(TypedDict):
    """A rotated neuron of each row by itself, as the core takes it."""

    single: int
    single_r: tuple[int, int]


def single_view(
    single: tuple[Tensor, Tensor] | None, shape: tuple[int, int, int], device: torch.device
) -> Single:
    """Of draws, rows and columns; None: none. Raises ValueError for numbers that are not there."""
    if single is None:
        return {"single": 0, "single_r": (0, 0)}
    number, r = single
    draws, rows, columns = shape
    if rows and not -1 <= int(number.min()) <= int(number.max()) < columns:
        raise ValueError(f"native: got numbers of rotated neurons that are not among {columns}")
    return {
        "single": pointer(number, torch.int64, (rows,), device),
        "single_r": strided(r, (torch.float64,), (draws, rows), device),
    }


class Terms(TypedDict):
    """What is added to co-moments beside a product, as the core takes it."""

    scales: tuple[int, int]
    count: int
    deltas: tuple[int, int]


def terms(c: Tensor, scales: tuple[Tensor, Tensor], deltas: tuple[Tensor, Tensor]) -> Terms:
    """Of co-moments ``c``, which the tensors are on the device of; contiguous rows of their own.

    ``scales`` are float64 ``[rows]`` and ``[columns]``; ``deltas`` the same, or ``[k, ...]``.
    Raises ValueError for what is none. The tensors must live until the core has run.
    """
    device, (rows, columns) = c.device, c.shape
    count = deltas[0].numel() // max(1, rows)
    return {
        "scales": (
            pointer(scales[0], torch.float64, (rows,), device),
            pointer(scales[1], torch.float64, (columns,), device),
        ),
        "count": count,
        "deltas": (
            pointer(deltas[0].view(-1, rows), torch.float64, (count, rows), device),
            pointer(deltas[1].view(-1, columns), torch.float64, (count, columns), device),
        ),
    }


def tile_view(
    c: Tensor,
    row_inverse: Tensor,
    skip: Tensor | None,
    threads: int,
    device: torch.device = CPU,
) -> _native.Tile:
    """A tile of co-moments as the core takes it. Raises ValueError for what is none."""
    rows = (len(c),)
    return _native.Tile(
        c=co_moments(c, device),
        row_inverse=pointer(row_inverse, torch.float64, rows, device),
        skip=0 if skip is None else pointer(skip, torch.int64, rows, device),
        threads=threads,
    )
