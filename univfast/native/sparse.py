"""The operations of the core on sparse features, on the CPU.

Their contracts stand in ``csrc/sparse.h``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from univfast.native.extension import _native
from univfast.native.views import co_moments, dtype_code, pointer

__all__ = [
    "EntryList",
    "Grouped",
    "add_entry_moments",
    "add_entry_products",
    "group_entries",
    "repeated_entry",
]


class EntryList(NamedTuple):
    """What is there of a sparse matrix ``[tokens, features]``; all else is 0.

    Attributes:
        token: int32 ``[entries]``.
        feature: int32 ``[entries]``.
        value: ``[entries]``; float32 or float64 for what the core computes.
    """

    token: Tensor
    feature: Tensor
    value: Tensor

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return self.value.numel()

    @staticmethod
    def joined(lists: list[EntryList]) -> EntryList:
        """Some after others; of one dtype."""
        return lists[0] if len(lists) == 1 else EntryList(*map(torch.cat, zip(*lists, strict=True)))

    def where(self, kept: Tensor) -> EntryList:
        """Those for which ``kept``, bool ``[entries]``, is true."""
        # By number: that takes a third of the time.
        places = kept.nonzero()[:, 0]
        return EntryList(*(x.index_select(0, places) for x in self))

    def view(self, width: int) -> _native.Entries:
        """As the core takes them, of so many features. Raises ValueError for what are none."""
        shape = (self.entries,)
        return _native.Entries(
            tokens=pointer(self.token, torch.int32, shape),
            features=pointer(self.feature, torch.int32, shape),
            values=pointer(self.value, self.value.dtype, shape),
            dtype=dtype_code(self.value.dtype),
            count=self.entries,
            width=width,
        )


class Grouped(NamedTuple):
    """Entries in groups, each of one token or of one feature.

    Attributes:
        starts: where each group begins, and the last one ends: int64 ``[groups + 1]``.
        number: of the feature, or of the token: int32 ``[entries]``.
        value: float32 or float64 ``[entries]``.
    """

    starts: Tensor
    number: Tensor
    value: Tensor

    @property
    def groups(self) -> int:
        """How many there are."""
        return self.starts.numel() - 1

    def part(self, groups: slice) -> Grouped:
        """Neighbouring groups; entries are not copied."""
        starts = self.starts[groups.start : groups.stop + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        return Grouped(starts - starts[0], self.number[own], self.value[own])

    def view(self) -> _native.Grouped:
        """As the core takes them. Raises ValueError for what are none."""
        shape = self.value.shape
        return _native.Grouped(
            starts=pointer(self.starts, torch.int64, (self.groups + 1,)),
            numbers=pointer(self.number, torch.int32, shape),
            values=pointer(self.value, self.value.dtype, shape),
            groups=self.groups,
        )


def group_entries(
    keys: Tensor, numbers: Tensor, values: Tensor, groups: int, threads: int
) -> Grouped:
    """Puts entries into groups by their keys; those of a group stay in order.

    Args:
        keys: of each entry its group, int32 ``[entries]``.
        numbers: int32 ``[entries]``.
        values: float32 or float64 ``[entries]``.
        groups: how many there are.
        threads: at most this many; they change no bit.
    """
    shape, dtype = values.shape, values.dtype
    grouped = Grouped(
        torch.empty(groups + 1, dtype=torch.int64, device="cpu"),
        torch.empty(shape, dtype=torch.int32, device="cpu"),
        torch.empty(shape, dtype=dtype, device="cpu"),
    )
    _native.group_entries(
        keys=pointer(keys, torch.int32, shape),
        entries=_native.Grouped(
            starts=0,
            numbers=pointer(numbers, torch.int32, shape),
            values=pointer(values, dtype, shape),
            groups=0,
        ),
        dtype=dtype_code(dtype),
        count=len(values),
        grouped=grouped.view(),
        threads=threads,
    )
    return grouped


def repeated_entry(entries: EntryList, width: int) -> int | None:
    """Number of the first entry whose feature the same token has before; None for none.

    Tokens must not decrease; features are below ``width``. Values may be of any dtype.
    """
    seen = torch.empty(width, dtype=torch.int64, device="cpu")
    return _native.repeated_entry(
        entries=entries.view(width), seen=pointer(seen, torch.int64, (width,))
    )


def add_entry_moments(entries: EntryList, sums: Tensor, squares: Tensor) -> None:
    """Adds each value to the sum of its feature, and its square: float64 ``[features]`` both."""
    shape = (sums.numel(),)
    _native.add_entry_moments(
        entries=entries.view(sums.numel()),
        sums=pointer(sums, torch.float64, shape),
        squares=pointer(squares, torch.float64, shape),
    )


def add_entry_products(c: Tensor, rows: Grouped, columns: Grouped, threads: int) -> None:
    """``c[i, j]`` takes in a b, for each entry a of row i and b of column j of the same token.

    Args:
        c: float64 ``[rows, columns]``, columns contiguous.
        rows: the entries of each row of ``c``; their numbers are tokens.
        columns: the entries of each token; their numbers are columns of ``c``. Of the same dtype.
        threads: at most this many; they change no bit.
    """
    if rows.value.dtype != columns.value.dtype:
        raise ValueError(f"native: got {rows.value.dtype} and {columns.value.dtype}")
    for grouped in (rows, columns):
        if int(grouped.starts[-1]) != len(grouped.value):
            raise ValueError(f"native: got groups of {int(grouped.starts[-1])} entries")
    _native.add_entry_products(
        c=co_moments(c),
        rows=rows.view(),
        columns=columns.view(),
        dtype=dtype_code(rows.value.dtype),
        threads=threads,
    )
