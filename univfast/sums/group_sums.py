"""Sums of neurons over tokens of one group: of one id, or of one position in the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from univfast import native
from univfast.inputs.layout import Layout
from univfast.sums.token_facts import TokenFacts

__all__ = ["GroupSums", "Grouping"]


class GroupSums:
    """Sums over the tokens of each group.

    Attributes:
        counts: tokens of each, int64 ``[groups]``.
        sums: of A and of B, float64 ``[groups, neurons]``, about pivots that the caller keeps.
    """

    def __init__(self, groups: int, widths: tuple[int, int], device: torch.device | None) -> None:
        self.counts = torch.zeros(groups, dtype=torch.int64, device=device)
        self.sums = tuple(
            torch.zeros(groups, width, dtype=torch.float64, device=device) for width in widths
        )

    def shift(self, side: int, old: Tensor, new: Tensor) -> None:
        """Takes the sums of one model from another pivot ``[neurons]``."""
        self.sums[side].addr_(self.counts.double(), old - new)


class Grouping:
    """The groups of tokens that are known: by id, by position, or both.

    Args:
        a, b: the layers of both models.
        facts: of the tokens.
        device: where.
        threads: at most this many.

    Attributes:
        by_token, by_position: sums; None where that is not known.
        together: tokens of each id and position, int64 ``[groups, positions]``; None without both.
        pivots: of A and of B, float64 ``[neurons]``.
    """

    def __init__(
        self, a: Layout, b: Layout, facts: TokenFacts, device: torch.device | None, threads: int
    ) -> None:
        self._layouts, self._facts, self._threads = (a, b), facts, threads
        self._groups = None if facts.groups is None else facts.groups.to(device)
        widths = (a.neurons, b.neurons)
        tokens, positions = facts.group_count, facts.positions
        self.by_token = None if tokens is None else GroupSums(tokens, widths, device)
        self.by_position = None if positions is None else GroupSums(positions, widths, device)
        self.together: Tensor | None = None
        if tokens is not None and positions is not None:
            self.together = torch.zeros(tokens, positions, dtype=torch.int64, device=device)
        self.pivots = [torch.zeros(n, dtype=torch.float64, device=device) for n in widths]

    @property
    def known(self) -> list[GroupSums]:
        return [sums for sums in (self.by_token, self.by_position) if sums is not None]

    def add(self, layers: Sequence[Sequence[Tensor]], rows: Tensor, first_token: int) -> None:
        """Takes in ``rows`` of a batch ``[tokens, width]`` of each layer of A and of B."""
        numbers = rows + first_token
        groups = None if self._groups is None else self._groups[numbers]
        positions = None if self.by_position is None else numbers % self._facts.window
        for sums, own in ((self.by_token, groups), (self.by_position, positions)):
            if sums is not None and own is not None:
                self._add(sums, layers, rows, own)
        if self.together is not None and groups is not None and positions is not None:
            size = self.together.shape
            cells = torch.bincount(groups * size[1] + positions, minlength=size.numel())
            self.together += cells.view(size)

    def _add(
        self, sums: GroupSums, layers: Sequence[Sequence[Tensor]], rows: Tensor, groups: Tensor
    ) -> None:
        sums.counts += torch.bincount(groups, minlength=len(sums.counts))
        groups, order = groups.sort(stable=True)
        rows = rows[order]
        for layout, side, pivot, total in zip(
            self._layouts, layers, self.pivots, sums.sums, strict=True
        ):
            for part, x in zip(layout.slices, side, strict=True):
                native.group_sums(x, rows, groups, pivot[part], total[:, part], self._threads)

    def shift(self, pivots: Sequence[Tensor]) -> None:
        """Takes all sums from other pivots."""
        for side, (old, new) in enumerate(zip(self.pivots, pivots, strict=True)):
            for sums in self.known:
                sums.shift(side, old, new)
            old.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, not copied; what adds, but for the pivots."""
        found = {f"pivot_{name}": x for name, x in zip("ab", self.pivots, strict=True)}
        for kind, sums in (("token", self.by_token), ("position", self.by_position)):
            if sums is not None:
                found[f"{kind}_counts"] = sums.counts
                found.update({f"{kind}_{n}": x for n, x in zip("ab", sums.sums, strict=True)})
        if self.together is not None:
            found["together"] = self.together
        return found
