"""The random rotations of one layer: the draws of a baseline.

``apply(x)`` gives each row of ``x`` rotated by each draw, ``R_d x``. The matrices are those of
`univfast.reference.rotation_matrix`; the structured kind never builds them.
"""

from __future__ import annotations

import os
from typing import Protocol

import torch
from torch import Tensor

from univfast import native
from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.reference import KINDS, layer_seed, rotation_matrix

__all__ = ["DenseRotations", "HadamardRotations", "Rotations", "make_rotations"]


class Rotations(Protocol):
    """Some draws of a random rotation of ``neurons`` neurons."""

    @property
    def draws(self) -> int: ...

    def apply(self, x: Tensor) -> Tensor:
        """``[rows, neurons]``, float32 or float64 -> ``[draws, rows, neurons]`` of that dtype."""
        ...


class HadamardRotations:
    """Structured: O(N log N) a row, exactly orthogonal for every width (``csrc/rotation.h``)."""

    def __init__(self, neurons: int, draws: int, seed: int, layer: str) -> None:
        self.signs = native.rotation_signs(neurons, draws, layer_seed(seed, layer))

    @property
    def draws(self) -> int:
        return self.signs.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        return native.rotate(x.contiguous(), self.signs)


class DenseRotations:
    """A matrix a draw: ``8 * draws * neurons**2`` bytes, and a matrix product to apply it."""

    def __init__(self, kind: str, neurons: int, draws: int, seed: int, layer: str) -> None:
        self._matrices = [
            torch.from_numpy(rotation_matrix(kind, neurons, draw, seed, layer))
            for draw in range(draws)
        ]

    @property
    def draws(self) -> int:
        return len(self._matrices)

    def apply(self, x: Tensor) -> Tensor:
        return torch.stack([x @ matrix.T.to(x.dtype) for matrix in self._matrices])


def make_rotations(kind: str, neurons: int, draws: int, seed: int, layer: str) -> Rotations:
    """The rotations of a layer.

    Args:
        kind: ``hadamard``, ``haar``, ``gaussian`` or ``none`` (which has no draws).
        neurons: the layer's width.
        draws: how many; at least 1.
        seed: any integer. The same seed gives the same rotations on every machine.
        layer: the layer's name. Each layer has rotations of its own.

    Raises:
        InputError: an unknown kind, or fewer than 1 draw.
    """
    if kind not in KINDS:
        raise InputError(f"rotation: got {kind!r}, expected one of {', '.join(KINDS)}")
    seed = as_integer("seed", seed)
    if kind == "none":
        return HadamardRotations(neurons, 0, seed, layer)
    draws = as_integer("draws", draws)
    if draws < 1:
        raise InputError(f"draws: got {draws}, expected at least 1; rotation='none' asks for none")
    _check_memory(kind, neurons, draws)
    if kind == "hadamard":
        return HadamardRotations(neurons, draws, seed, layer)
    return DenseRotations(kind, neurons, draws, seed, layer)


def _check_memory(kind: str, neurons: int, draws: int) -> None:
    """Refuses draws whose rotations alone are larger than the machine's memory."""
    need = draws * (8 * neurons**2 if kind != "hadamard" else 4 * native.SIGN_STAGES * neurons)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on this system
        return
    if need > memory:
        raise InputError(
            f"draws: {draws} {kind} rotations of {neurons} neurons take {need / 1e9:.0f} GB, this"
            f" machine has {memory / 1e9:.0f}; use fewer draws"
        )
