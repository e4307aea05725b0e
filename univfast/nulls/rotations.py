"""The random rotations of one layer: the draws of a baseline.

``apply(x)`` gives each row of ``x`` rotated by each draw, ``R_d x``; the other methods do to
co-moments what rotating the activations themselves would. The matrices are those of
`univfast.reference.rotation_matrix`; the structured kind never builds them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from univfast import native
from univfast.errors import InputError
from univfast.machine.memory import machine_memory
from univfast.native import Best
from univfast.nulls.kinds import MIN_STRUCTURED, ROTATIONS, Baseline
from univfast.nulls.matrices import dense_matrix, layer_seed
from univfast.registry import resolve

__all__ = [
    "DenseRotations",
    "HadamardRotations",
    "Rotations",
    "draw_bytes",
    "draws_together",
    "is_structured",
    "make_rotations",
]


class Rotations(Protocol):
    """Some draws of a random rotation of ``neurons`` neurons."""

    @property
    def draws(self) -> int: ...

    def to(self, device: torch.device) -> Rotations:
        """The same for tensors on a device."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """``[rows, neurons]``, float32 or float64 -> ``[draws, rows, neurons]`` of that dtype."""
        ...

    def second_moments(self, within: Tensor, threads: int) -> Tensor:
        """Of the rotated neurons, ``[draws, neurons]``: the diagonal of ``R within R^T``.

        ``within`` has the co-moments of the neurons, float64 ``[neurons, neurons]``.
        """
        ...

    def raise_best(
        self,
        cross: Tensor,
        inverse: tuple[Tensor, Tensor],
        best: Tensor,
        skip: Tensor | None,
        threads: int,
        single: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Raises ``best`` to the highest correlation of each row with a rotated neuron.

        Args:
            cross: float64 ``[rows, neurons]``: co-moments of other neurons with these.
            inverse: 1 / norm of the rows, and of the rotated neurons ``[draws, neurons]``.
            best: float64 ``[draws, rows]``; updated.
            skip: int64 ``[rows]``, the rotated neuron that a row leaves out, -1 for none.
            threads: at most this many.
            single: as `native.rotated_best` has it.
        """
        ...


class HadamardRotations:
    """Structured: O(N log N) a row, exactly orthogonal for every width (``csrc/rotation.h``).

    All draws of a layer share their first round, so of draws 3 and 4 alone it is made too.
    """

    def __init__(self, neurons: int, draws: range, seed: int, layer: str) -> None:
        common = native.COMMON_ROUNDS
        signs = native.rotation_signs(neurons, draws.stop, layer_seed(seed, layer))
        self.signs = torch.cat([signs[:common], signs[common + draws.start :]])

    @property
    def draws(self) -> int:
        return len(self.signs) - native.COMMON_ROUNDS

    def to(self, device: torch.device) -> HadamardRotations:
        moved = copy(self)
        moved.signs = self.signs.to(device)
        return moved

    def apply(self, x: Tensor) -> Tensor:
        return native.rotate(x.contiguous(), self.signs)

    def second_moments(self, within: Tensor, threads: int) -> Tensor:
        return native.rotated_variance(within, self.signs, threads)

    def raise_best(
        self,
        cross: Tensor,
        inverse: tuple[Tensor, Tensor],
        best: Tensor,
        skip: Tensor | None,
        threads: int,
        single: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        native.rotated_best(cross, inverse, self.signs, best, skip, threads, single)


# Rows of R whose product with the co-moments is alive at a time: more would be no faster.
_PRODUCT_ROWS = 64


class DenseRotations:
    """A matrix a draw: ``8 * draws * neurons**2`` bytes, and a matrix product to apply it."""

    def __init__(self, kind: str, neurons: int, draws: range, seed: int, layer: str) -> None:
        self._matrices = [
            torch.from_numpy(dense_matrix(kind, neurons, draw, seed, layer)) for draw in draws
        ]

    @property
    def draws(self) -> int:
        return len(self._matrices)

    def to(self, device: torch.device) -> DenseRotations:
        moved = copy(self)
        moved._matrices = [matrix.to(device) for matrix in self._matrices]
        return moved

    def apply(self, x: Tensor) -> Tensor:
        return torch.stack([x @ matrix.T.to(x.dtype) for matrix in self._matrices])

    def second_moments(self, within: Tensor, threads: int) -> Tensor:
        moments = torch.empty(self.draws, len(within), dtype=within.dtype, device=within.device)
        rows = torch.empty(_PRODUCT_ROWS, len(within), dtype=within.dtype, device=within.device)
        for matrix, draw in zip(self._matrices, moments, strict=True):
            for first in range(0, len(within), _PRODUCT_ROWS):
                part = slice(first, first + _PRODUCT_ROWS)
                product = torch.mm(matrix[part], within, out=rows[: len(matrix[part])])
                draw[part] = product.mul_(matrix[part]).sum(dim=1)
        return moments.clamp_(min=0)

    def raise_best(
        self,
        cross: Tensor,
        inverse: tuple[Tensor, Tensor],
        best: Tensor,
        skip: Tensor | None,
        threads: int,
        single: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        for draw, matrix in enumerate(self._matrices):
            place = torch.empty(len(cross), 1, dtype=torch.int64, device=cross.device)
            found = Best(best[draw, :, None], place)
            inverses, turned = (inverse[0], inverse[1][draw]), cross @ matrix.T
            native.best_pairs(turned, inverses, (0, 0), found, None, skip, threads)
            if single is not None:
                number, r = single
                row = (number >= 0).nonzero()[:, 0]
                j = number[row]
                scale = inverses[0][row] * inverses[1][j]
                r[draw, row] = (turned[row, j] * scale).clamp(-1, 1)
            del turned  # before the next one is made


def make_rotations(
    options: Baseline, neurons: int, layer: str, draws: range | None = None
) -> Rotations:
    """The rotations of a layer.

    Args:
        options: kind, draws and seed.
        neurons: the layer's width.
        layer: the layer's name. Each layer has rotations of its own.
        draws: only these; None for all.

    Raises:
        InputError: they do not fit the machine's memory.
    """
    draws = range(options.draws) if draws is None else draws
    _check_memory(options.kind, neurons, len(draws))
    kind = ROTATIONS[options.kind]
    if not kind.random:
        return HadamardRotations(neurons, range(0), options.seed, layer)
    if is_structured(options.kind, neurons):
        structured: Callable[[int, range, int, str], Rotations] = resolve(kind.structured)
        return structured(neurons, draws, options.seed, layer)
    return DenseRotations(options.kind, neurons, draws, options.seed, layer)


def draws_together(options: Baseline) -> list[range]:
    """The draws, in parts that are best made and used together: dense matrices one by one."""
    if ROTATIONS[options.kind].draw_matrices:
        return [range(draw, draw + 1) for draw in range(options.draws)]
    return [range(options.draws)]


def is_structured(kind: str, neurons: int) -> bool:
    """Whether a layer is rotated without making the matrix."""
    return ROTATIONS[kind].structured is not None and neurons >= MIN_STRUCTURED


def draw_bytes(options: Baseline, neurons: int) -> int:
    """That making and using one dense draw takes; 0 for others, which need next to nothing."""
    return 8 * neurons**2 * ROTATIONS[options.kind].draw_matrices


def _check_memory(kind: str, neurons: int, draws: int) -> None:
    """Refuses draws whose rotations alone are larger than the machine's memory."""
    structured = ROTATIONS[kind].structured is not None
    need = draws * (4 * native.SIGN_STAGES * neurons if structured else 8 * neurons**2)
    memory = machine_memory()
    if memory is not None and need > memory:
        raise InputError(
            f"draws: {draws} {kind} rotations of {neurons} neurons take {need / 1e9:.0f} GB, this"
            f" machine has {memory / 1e9:.0f}; use fewer draws"
        )
