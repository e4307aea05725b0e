"""The random matrices of a baseline that can be chosen: what each is, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # Called with a generator of a draw and the neurons of a layer; gives R, ``[neurons, neurons]``.
    MatrixMaker = Callable[[np.random.Generator, int], NDArray[np.float64]]

__all__ = ["MIN_STRUCTURED", "ROTATIONS", "Rotation", "RotationKind"]

MIN_STRUCTURED = 16
"""Neurons from which on a layer has structured rotations, and not uniform ones in their place: the
choices of narrower ones are too few (one in four of four neurons is a mere permutation)."""

Rotation = Literal["hadamard", "haar", "gaussian", "none"]


@dataclass(frozen=True)
class RotationKind:
    """A kind of random matrix R that each layer of B is multiplied by.

    Attributes:
        name: as users give it.
        help: what it is, for the command line.
        meaning: what it is, for a report: sentences.
        maker: makes R; ``"module:name"`` or a function. None where there are no draws.
        structured: R is never made for layers of at least `MIN_STRUCTURED` neurons, but applied in
            O(N log N) by the native core.
        draw_matrices: matrices as large as R that are alive while one draw is made.
    """

    name: str
    help: str
    meaning: str
    maker: str | MatrixMaker | None
    structured: bool = False
    draw_matrices: int = 0

    @property
    def random(self) -> bool:
        """Whether there is anything to draw."""
        return self.maker is not None

    def make(self, generator: np.random.Generator, neurons: int) -> NDArray[np.float64]:
        """R of one draw, float64 ``[neurons, neurons]``: rotated neuron i is ``R[i] @ b``."""
        maker: MatrixMaker = resolve(self.maker)
        return maker(generator, neurons)


ROTATIONS: Registry[RotationKind] = Registry(
    "rotation",
    [
        RotationKind(
            "hadamard",
            help="structured and fast",
            meaning="R is a structured orthogonal matrix: rounds of random signs, each followed by "
            "a fast orthonormal transform.",
            maker="univfast.nulls.matrices:haar",
            structured=True,
        ),
        RotationKind(
            "haar",
            help="uniform",
            meaning="R is drawn uniformly from all orthogonal matrices.",
            maker="univfast.nulls.matrices:haar",
            # The Gaussian, the copy that NumPy's QR works in, Q, and what LAPACK takes for both
            # (measured).
            draw_matrices=5,
        ),
        RotationKind(
            "gaussian",
            help="that of Gurnee et al. 2024",
            meaning="R is a Gaussian matrix whose rows are scaled to norm 1; it is not orthogonal.",
            maker="univfast.nulls.matrices:gaussian",
            draw_matrices=1,
        ),
        RotationKind(
            "none",
            help="no baseline",
            meaning="No rotation was asked for, so this result has no baseline, no excess and no "
            "universal neurons.",
            maker=None,
        ),
    ],
)
