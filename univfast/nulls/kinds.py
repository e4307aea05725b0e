"""The random matrices of a baseline that can be chosen: what each is, and what makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    # Called with a generator of a draw and the neurons of a layer; gives R, ``[neurons, neurons]``.
    MatrixMaker = Callable[[np.random.Generator, int], NDArray[np.float64]]

__all__ = ["MAX_DRAWS", "MIN_STRUCTURED", "ROTATIONS", "Baseline", "Rotation", "RotationKind"]

MIN_STRUCTURED = 16
"""Neurons from which on a layer has structured rotations, and not uniform ones in their place: the
choices of narrower ones are too few (one in four of four neurons is a mere permutation)."""

MAX_DRAWS = 100_000
"""More make no number better, and would take for ever."""

Rotation = Literal["hadamard", "haar", "gaussian", "none"]


@dataclass(frozen=True)
class RotationKind:
    """A kind of random matrix R that each layer of B is multiplied by.

    Attributes:
        name: as users give it.
        help: what it is, for the command line.
        meaning: what it is, for a report: sentences.
        maker: makes R; ``"module:name"`` or a function. None where there are no draws.
        structured: the class of `Rotations` of layers of at least `MIN_STRUCTURED` neurons, for
            which R is never made; ``"module:class"`` or the class. None: there is none.
        structured_matrix: the R of these, step by step, for the reference; ``"module:name"``.
        draw_matrices: matrices as large as R that are alive while one draw is made.
    """

    name: str
    help: str
    meaning: str
    maker: str | MatrixMaker | None
    structured: Any = None
    structured_matrix: str | None = None
    draw_matrices: int = 0

    def __post_init__(self) -> None:
        if self.random and self.structured is None and self.draw_matrices < 1:
            raise ValueError(f"rotation {self.name!r}: draw_matrices must say what a draw takes")

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
            structured="univfast.nulls.rotations:HadamardRotations",
            structured_matrix="univfast.reference.rotations:structured_matrix",
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


@dataclass(frozen=True)
class Baseline:
    """Which rotations a baseline is the mean over.

    Attributes:
        kind: one of the `ROTATIONS`; ``none`` has no draws.
        draws: how many, `MAX_DRAWS` at most.
        seed: any integer. The same seed gives the same rotations on every machine.

    Raises:
        InputError: an unknown kind, fewer than 1 draw, or too many.
        TypeError: draws or seed are no integers.
    """

    kind: str
    draws: int
    seed: int

    def __post_init__(self) -> None:
        kind = ROTATIONS.check(self.kind)
        draws = as_integer("draws", self.draws) if kind.random else 0
        if draws < 1 and kind.random:
            raise InputError(
                f"draws: got {draws}, expected at least 1; rotation='none' asks for none"
            )
        if draws > MAX_DRAWS:
            raise InputError(f"draws: got {draws}, expected at most {MAX_DRAWS}")
        object.__setattr__(self, "kind", kind.name)
        object.__setattr__(self, "draws", draws)
        object.__setattr__(self, "seed", as_integer("seed", self.seed))

    @staticmethod
    def of(options: Mapping[str, Any]) -> Baseline:
        """That which ``rotation``, ``draws`` and ``seed`` of some options ask for."""
        return Baseline(options["rotation"], options["draws"], options["seed"])

    def without_draws(self) -> Baseline:
        """No rotations, of the same seed."""
        return Baseline("none", 0, self.seed)

    def summary(self) -> dict[str, Any]:
        """As the summary of a result has them."""
        return {"kind": self.kind, "draws": self.draws, "seed": self.seed}
