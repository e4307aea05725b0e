"""The slow, plain definitions, in float64 NumPy: what every fast path is tested against.

Nothing here streams or saves memory: all tokens are held at once, every rotation is a dense matrix
and is applied to the activations themselves. The names are those of the fast versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "KINDS",
    "PairedCorrelation",
    "Statistics",
    "correlate",
    "layer_seed",
    "pearson",
    "rotation_matrix",
    "rotation_signs",
    "statistics",
]

KINDS = ("hadamard", "haar", "gaussian", "none")

Array = NDArray[np.float64]

_ROUNDS = 3
_MIN_BLOCK = 64  # neurons


# ---- rotations ----------------------------------------------------------------------------------


def layer_seed(seed: int, layer: str) -> int:
    """The 64-bit seed of a layer's rotations: layers differ, and none depends on the others."""
    return int.from_bytes(blake2b(f"{seed}/{layer}".encode(), digest_size=8).digest(), "little")


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def rotation_signs(neurons: int, draw: int, seed: int) -> Array:
    """Signs of one draw of the structured rotation, ``[stages, neurons]``, each +1 or -1."""
    word = np.arange(-(-neurons // 64), dtype=np.uint64)
    rows = []
    for stage in range(2 * _ROUNDS):
        key = _mix64(np.asarray([seed], dtype=np.uint64)) ^ np.uint64(draw)
        key = _mix64(key) ^ np.uint64(stage)
        bits = _mix64(_mix64(key) ^ word)
        bit = (bits[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        rows.append(1.0 - 2.0 * bit.reshape(-1)[:neurons].astype(np.float64))
    return np.stack(rows)


def _hadamard(size: int) -> Array:
    """The orthonormal Walsh-Hadamard matrix of a power of two."""
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return np.asarray(h / np.sqrt(size))


def _structured_matrix(neurons: int, draw: int, seed: int) -> Array:
    """Rounds of random signs and Walsh-Hadamard transforms over two overlapping windows.

    ``csrc/rotation.h`` says why it is built so.
    """
    block = neurons & -neurons
    if block < _MIN_BLOCK and block != neurons:
        block = 1
    blocks = neurons // block
    window = 1 << (blocks.bit_length() - 1)
    shift = window // 2 * block if 3 * blocks > 5 * window else 0
    rest = blocks - window

    first = np.eye(neurons)
    first[: window * block, : window * block] = _hadamard(window * block)
    first[window * block :, window * block :] = np.kron(np.eye(rest), _hadamard(block))
    second = np.eye(neurons)
    second[rest * block :, rest * block :] = np.kron(_hadamard(window), np.eye(block))

    signs = rotation_signs(neurons, draw, seed)
    r = np.eye(neurons)
    for i in range(_ROUNDS):
        if i > 0:
            r = np.roll(r, -shift, axis=0)
        r = first @ (signs[2 * i][:, None] * r)
        if rest > 0:
            flips = np.where(np.arange(neurons) < rest * block, 1.0, signs[2 * i + 1])
            r = second @ (flips[:, None] * r)
    return r


def rotation_matrix(kind: str, neurons: int, draw: int, seed: int, layer: str) -> Array:
    """The matrix R ``[neurons, neurons]`` of one draw: neuron i of the rotation is ``R[i] @ b``.

    ``hadamard`` and ``haar`` are orthogonal. ``haar`` is uniform on the orthogonal group (Mezzadri
    2007: QR of a Gaussian matrix, the signs of R's diagonal moved into Q). ``gaussian`` has rows of
    norm 1 but is not orthogonal: it is what the code of Gurnee et al. 2024 does.

    Raises:
        ValueError: ``kind`` is none of the three.
    """
    seed = layer_seed(seed, layer)
    if kind == "hadamard":
        return _structured_matrix(neurons, draw, seed)
    if kind not in ("haar", "gaussian"):
        raise ValueError(f"rotation: {kind!r} has no matrix")
    generator = np.random.Generator(np.random.Philox(key=[seed, draw]))
    gaussian = generator.standard_normal((neurons, neurons))
    if kind == "gaussian":
        return np.asarray(gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True))
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0))


# ---- correlation --------------------------------------------------------------------------------


def pearson(a: ArrayLike, b: ArrayLike) -> Array:
    """Pearson's r of column i of ``a`` with column i of ``b``, ``[tokens, neurons]`` each.

    NaN where either column is constant.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (a, b))
    # The first token is subtracted first, so that a constant column has deviations of exactly zero.
    x, y = x - x[:1], y - y[:1]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x / np.sqrt((x * x).sum(axis=0))
        y = y / np.sqrt((y * y).sum(axis=0))
    return np.asarray(np.clip((x * y).sum(axis=0), -1.0, 1.0))


class PairedCorrelation:
    """Keeps every token; `compute` correlates neuron i of A with that of B and its rotations."""

    def __init__(
        self,
        neurons: int,
        *,
        draws: int = 5,
        rotation: str = "hadamard",
        seed: int = 0,
        layer: str = "activations",
    ) -> None:
        self.neurons = neurons
        self._rotations = (
            []
            if rotation == "none"
            else [rotation_matrix(rotation, neurons, d, seed, layer) for d in range(draws)]
        )
        self._a: list[Array] = []
        self._b: list[Array] = []

    def update(self, a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Adds tokens: ``[..., neurons]`` each, and a mask ``[...]`` of the tokens to use."""
        keep = slice(None) if mask is None else np.asarray(mask, dtype=bool).reshape(-1)
        self._a.append(np.asarray(a, dtype=np.float64).reshape(-1, self.neurons)[keep])
        self._b.append(np.asarray(b, dtype=np.float64).reshape(-1, self.neurons)[keep])

    def compute(self) -> tuple[Array, Array]:
        """r ``[neurons]``, and r with each rotation of B ``[draws, neurons]``."""
        a, b = np.concatenate(self._a), np.concatenate(self._b)
        centred = b - b[:1]
        rotated = [pearson(a, centred @ r.T) for r in self._rotations]
        return pearson(a, b), np.array(rotated).reshape(-1, self.neurons)


# ---- statistics ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """Per neuron ``[neurons]``, and the two counts."""

    baseline: Array
    baseline_std: Array
    excess: Array
    p_value: Array
    q_value: Array
    universal: NDArray[np.bool_]
    universal_by_chance: float
    fdr: float


def statistics(
    correlation: Array, rotated: Array, layer: NDArray[np.int64], threshold: float = 0.5
) -> Statistics:
    """Baseline, excess, chance, p and q as README defines them, neuron by neuron.

    Args:
        correlation: ``[neurons]``, NaN where dead.
        rotated: ``[draws, neurons]``.
        layer: ``[neurons]``, the layer's number; null excesses are pooled within a layer.
        threshold: of the excess.
    """
    draws, neurons = rotated.shape
    nan = np.full(neurons, np.nan)
    baseline = rotated.mean(axis=0) if draws else nan
    excess = correlation - baseline
    universal = excess > threshold
    if draws < 2:
        return Statistics(baseline, nan, excess, nan, nan, universal, np.nan, np.nan)

    alive = ~np.isnan(correlation)
    null = np.array([rotated[d] - np.delete(rotated, d, axis=0).mean(axis=0) for d in range(draws)])
    by_chance = float(np.mean([(null[d, alive] > threshold).sum() for d in range(draws)]))
    p = nan.copy()
    for i in np.flatnonzero(alive):
        pool = null[:, alive & (layer == layer[i])]
        p[i] = (1 + (pool >= excess[i]).sum()) / (1 + pool.size)
    q = nan.copy()
    order = np.flatnonzero(alive)[np.argsort(p[alive], kind="stable")]
    smallest = 1.0
    for rank in range(len(order), 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * len(order) / rank)
        q[order[rank - 1]] = smallest
    flagged = int(universal.sum())
    fdr = by_chance / flagged if flagged else np.nan
    std = rotated.std(axis=0, ddof=1)
    return Statistics(baseline, std, excess, p, q, universal, by_chance, fdr)


def correlate(
    a: ArrayLike | Mapping[str, ArrayLike],
    b: ArrayLike | Mapping[str, ArrayLike],
    *,
    rotation: str = "hadamard",
    draws: int = 5,
    seed: int = 0,
    threshold: float = 0.5,
    mask: ArrayLike | None = None,
) -> tuple[Array, Statistics]:
    """r of each neuron, layer after layer, and what follows from it; index matching.

    Args:
        a: activations of A, ``[..., neurons]``, or a dict of layer name to these.
        b: activations of B, with the same layers and shapes.
        rotation: ``hadamard``, ``haar``, ``gaussian`` or ``none``.
        draws: rotations for the baseline.
        seed: of the rotations.
        threshold: of the excess.
        mask: ``[...]``, true for the tokens to use; None for all.
    """
    layers_a = a if isinstance(a, Mapping) else {"activations": a}
    layers_b = b if isinstance(b, Mapping) else {"activations": b}
    correlations, rotations, numbers = [], [], []
    for number, (name, values) in enumerate(layers_a.items()):
        neurons = np.asarray(values).shape[-1]
        layer = PairedCorrelation(neurons, draws=draws, rotation=rotation, seed=seed, layer=name)
        layer.update(values, layers_b[name], mask)
        r, rotated = layer.compute()
        correlations.append(r)
        # A neuron that is dead in B has no r, and takes no part in the null either.
        rotations.append(np.where(np.isnan(r), np.nan, rotated))
        numbers.append(np.full(neurons, number))
    r = np.concatenate(correlations)
    return r, statistics(r, np.concatenate(rotations, axis=1), np.concatenate(numbers), threshold)
