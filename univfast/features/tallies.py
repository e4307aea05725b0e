"""Sums of neurons by the groups of tokens and by columns, and what they are about the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.errors import InputError

__all__ = ["LEAST", "ColumnTally", "GroupTally", "Tallies", "Whole"]

LEAST = 5
"""What fewer tokens have, or have not, says nothing of a neuron."""


@dataclass(frozen=True)
class GroupTally:
    """Of each group of one grouping.

    Attributes:
        counts: tokens, int64 ``[groups]``.
        neurons: sums of the neurons about their pivot, float64 ``[groups, neurons]``.
        columns: sums of the columns about theirs, float64 ``[groups, columns]``.
    """

    counts: Tensor
    neurons: Tensor
    columns: Tensor

    @staticmethod
    def zero(groups: int, neurons: int, columns: int) -> GroupTally:
        return GroupTally(
            torch.zeros(groups, dtype=torch.int64, device="cpu"),
            torch.zeros(groups, neurons, dtype=torch.float64, device="cpu"),
            torch.zeros(groups, columns, dtype=torch.float64, device="cpu"),
        )


class ColumnTally:
    """Of the columns.

    Attributes:
        pivot: what sums are taken about, float64 ``[columns]``.
        neurons: products with the neurons, float64 ``[columns, neurons]``.
        columns: products with each other, float64 ``[columns, columns]``.
    """

    def __init__(self, columns: int, neurons: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device="cpu")

        self.pivot, self.sum = zeros(columns), zeros(columns)
        self.neurons, self.columns = zeros(columns, neurons), zeros(columns, columns)
        self._lowest, self._highest = self.sum + torch.inf, self.sum - torch.inf
        self._zeros, self._ones = zeros(columns), zeros(columns)

    def set_pivot(self, columns: Tensor) -> None:
        """Takes sums about the mean of the first tokens, ``[tokens, columns]``."""
        self.pivot = columns.mean(dim=0)

    def add(self, columns: Tensor, neurons: Tensor) -> None:
        """Takes in tokens: ``[tokens, columns]``, and ``[tokens, neurons]`` about their pivot."""
        self._lowest = torch.minimum(self._lowest, columns.amin(dim=0))
        self._highest = torch.maximum(self._highest, columns.amax(dim=0))
        self._zeros += (columns == 0).sum(dim=0)
        self._ones += (columns == 1).sum(dim=0)
        centred = columns - self.pivot
        self.sum += centred.sum(dim=0)
        self.neurons.addmm_(centred.T, neurons)
        self.columns.addmm_(centred.T, centred)

    def varied(self, tokens: int) -> Tensor:
        """Bool ``[columns]``: those that say something of so many tokens."""
        is_binary = self._zeros + self._ones == tokens
        rare = torch.minimum(self._zeros, self._ones) < LEAST
        return (self._lowest < self._highest) & ~(is_binary & rare)


@dataclass(frozen=True)
class Whole:
    """All groups of a grouping together, as one column a neuron: its mean over a token's group.

    Attributes:
        column: its value in each group, about the mean of all; 0 for tokens of no group:
            float64 ``[groups, neurons]``.
        spread: sum of its squares over the tokens, ``[neurons]``.
        degrees: groups beyond the first.
    """

    column: Tensor
    spread: Tensor
    degrees: int


@dataclass(frozen=True)
class Tallies:
    """All sums over the tokens so far, as they are about the mean of all of them.

    Attributes:
        tokens: how many.
        shift: float64 ``[neurons]``: the neurons' means, from their pivots.
        m2: float64 ``[neurons]``: sums of squares about the mean; 0 of a constant neuron.
        groups: by grouping.
        co: of columns and neurons, float64 ``[columns, neurons]``.
        gram: of columns, float64 ``[columns, columns]``.
        varied: bool ``[columns]``: those that say something.
    """

    tokens: int
    shift: Tensor
    m2: Tensor
    groups: Sequence[GroupTally]
    co: Tensor
    gram: Tensor
    varied: Tensor
    _column_shift: Tensor

    @staticmethod
    def of(
        tokens: int,
        neurons: tuple[Tensor, Tensor],
        groups: Sequence[GroupTally],
        columns: ColumnTally,
        names: Sequence[str],
    ) -> Tallies:
        """From sums about pivots: ``neurons`` has their sums and ``m2``.

        Raises:
            InputError: a column's squares are infinite; it is one of ``names``.
        """
        total, m2 = neurons
        shift = columns.sum / tokens
        gram = columns.columns - torch.outer(columns.sum, shift)
        for name, square in zip(names, gram.diagonal().tolist(), strict=True):
            if not square < torch.inf:
                raise InputError(
                    f"feature {name!r}: its values are so large that the sum of their squares is"
                    " infinite; scale them"
                )
        varied = columns.varied(tokens) & (gram.diagonal() > 0)
        co = columns.neurons - torch.outer(columns.sum, total / tokens)
        return Tallies(tokens, total / tokens, m2, groups, co, gram, varied, shift)

    def of_groups(self, grouping: int, part: slice | Tensor) -> Tensor:
        """Sums of some neurons in each group about their mean, ``[groups, neurons]``."""
        own = self.groups[grouping]
        return own.neurons[:, part] - own.counts.double()[:, None] * self.shift[part]

    def whole(self, grouping: int, part: slice | Tensor) -> Whole:
        """All groups together, of some neurons; those of fewer than `LEAST` tokens are one."""
        counts, sums = self.groups[grouping].counts.double(), self.of_groups(grouping, part)
        means = sums / counts[:, None]
        rare = counts < LEAST
        of_rare = counts[rare].sum()
        means[rare] = sums[rare].sum(dim=0) / of_rare
        among = sums.sum(dim=0) / counts.sum()
        column = torch.where(counts[:, None] > 0, means - among, 0.0)
        spread = (counts @ column.square()).clamp(min=0)
        degrees = int((~rare).sum()) + int(of_rare > 0) - 1
        return Whole(column, spread, max(degrees, 0))

    def columns_of_groups(self, grouping: int) -> Tensor:
        """Sums of the columns in each group about their mean, ``[groups, columns]``."""
        own = self.groups[grouping]
        return own.columns - own.counts.double()[:, None] * self._column_shift
