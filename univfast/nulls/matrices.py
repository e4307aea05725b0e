"""Random matrices that are made as a whole, in float64 NumPy."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from univfast.nulls.kinds import ROTATIONS

__all__ = ["dense_matrix", "gaussian", "haar", "layer_seed"]

Array = NDArray[np.float64]

_ROWS = 64  # whose norms are taken at a time


def layer_seed(seed: int, layer: str) -> int:
    """The 64-bit seed of a layer's rotations: layers differ, and none depends on the others."""
    return int.from_bytes(blake2b(f"{seed}/{layer}".encode(), digest_size=8).digest(), "little")


def dense_matrix(kind: str, neurons: int, draw: int, seed: int, layer: str) -> Array:
    """R ``[neurons, neurons]`` of one draw of a layer, by what the registry has for ``kind``."""
    generator = np.random.Generator(np.random.Philox(key=[layer_seed(seed, layer), draw]))
    return ROTATIONS[kind].make(generator, neurons)


def gaussian(generator: np.random.Generator, neurons: int) -> Array:
    """Rows of norm 1, not orthogonal: what the code of Gurnee et al. 2024 does."""
    matrix = generator.standard_normal((neurons, neurons))
    # In place, and the norms of some rows at a time: a second matrix may not fit the memory.
    for rows in np.array_split(matrix, 1 + neurons // _ROWS):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return matrix


def haar(generator: np.random.Generator, neurons: int) -> Array:
    """Uniform on the orthogonal group.

    Mezzadri 2007: QR of a Gaussian matrix, the signs of R's diagonal moved into Q.
    """
    q, r = np.linalg.qr(generator.standard_normal((neurons, neurons)))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.asarray(q)
