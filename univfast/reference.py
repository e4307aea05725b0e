"""The slow, plain definitions, in float64 NumPy: what every fast path is tested against.

Nothing here streams or saves memory: all tokens are held at once, every rotation is a dense matrix
and is applied to the activations themselves. The names are those of the fast versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from univfast.nulls.kinds import MIN_STRUCTURED, ROTATIONS
from univfast.nulls.matrices import dense_matrix, layer_seed
from univfast.registry import resolve
from univfast.search.matchings import MATCHINGS

__all__ = [
    "KINDS",
    "AllPairsCorrelation",
    "PairedCorrelation",
    "Statistics",
    "best",
    "correlate",
    "layer_seed",
    "one_to_one",
    "pearson",
    "pearson_matrix",
    "rotation_matrix",
    "rotation_signs",
    "statistics",
]

KINDS = ROTATIONS

Array = NDArray[np.float64]

# As csrc/rotation.h has them, in neurons.
_STAGES = 2
_COMMON_ROUNDS = 2
_MIN_BLOCK = 64
_GROUP = 16
_MIN_GROUPED = 512
_MIN_SHARE = 128
_TURN = 5


# ---- rotations ----------------------------------------------------------------------------------


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def rotation_signs(neurons: int, number: int, seed: int) -> Array:
    """Signs of a round of the structured rotation, ``[stages, neurons]``, each +1 or -1.

    Round 0 is the first and 1 the middle one, which all draws share; ``2 + draw`` is a draw's own.
    """
    word = np.arange(-(-neurons // 64), dtype=np.uint64)
    rows = []
    for stage in range(_STAGES):
        key = _mix64(np.asarray([seed], dtype=np.uint64)) ^ np.uint64(number)
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


def _deal(neurons: int, group: int) -> NDArray[np.intp]:
    """Where the permutation between the two rounds takes each neuron from."""
    groups = neurons // group
    stride = groups * 181 // 256
    while np.gcd(stride, groups) != 1:
        stride += 1
    i = np.arange(neurons)
    return np.asarray((i // group * stride * group + i % group + _TURN) % neurons)


def _structured_matrix(neurons: int, draw: int, seed: int) -> Array:
    """Rounds of random signs and Walsh-Hadamard transforms, and a permutation between them.

    ``csrc/rotation.h`` says why it is built so.
    """
    block = neurons & -neurons
    if block < _MIN_BLOCK and block != neurons:
        block = 1
    blocks = neurons // block
    window = 1 << (blocks.bit_length() - 1)
    grouped = block >= _MIN_BLOCK and neurons >= _MIN_GROUPED

    across = blocks > 1 and block < _MIN_SHARE * blocks
    rest = neurons - window * block if across else neurons

    def mix(x: Array, signs: Array) -> Array:
        x = (_hadamard(block) @ (signs[0][:, None] * x).reshape(blocks, block, -1)).reshape(x.shape)
        if across:
            for part in (slice(0, neurons - rest), slice(rest, neurons)):
                flips = signs[1, part, None] if part.start == rest else 1.0
                own = (flips * x[part]).reshape(window, -1)
                x[part] = (_hadamard(window) @ own).reshape(-1, x.shape[1])
        return x

    common = range(_COMMON_ROUNDS) if neurons < _MIN_BLOCK else [0]
    dealt = _deal(neurons, _GROUP if grouped else 1)
    r = mix(np.eye(neurons), rotation_signs(neurons, 0, seed))
    for number in (*common[1:], _COMMON_ROUNDS + draw):
        r = mix(r[dealt], rotation_signs(neurons, number, seed))
    return r


def rotation_matrix(kind: str, neurons: int, draw: int, seed: int, layer: str) -> Array:
    """The matrix R ``[neurons, neurons]`` of one draw: neuron i of the rotation is ``R[i] @ b``.

    ``hadamard`` and ``haar`` are orthogonal, and the same for fewer than 16 neurons; the others
    are as `univfast.nulls.matrices` has them.

    Raises:
        ValueError: ``kind`` is none that has a matrix.
    """
    if kind not in ROTATIONS or not ROTATIONS[kind].random:
        raise ValueError(f"rotation: {kind!r} has no matrix")
    if ROTATIONS[kind].structured and neurons >= MIN_STRUCTURED:
        return _structured_matrix(neurons, draw, layer_seed(seed, layer))
    return dense_matrix(kind, neurons, draw, seed, layer)


# ---- correlation --------------------------------------------------------------------------------


def pearson(a: ArrayLike, b: ArrayLike) -> Array:
    """Pearson's r of column i of ``a`` with column i of ``b``, ``[tokens, neurons]`` each.

    NaN where either column is constant.
    """
    x, y = _standardised(a), _standardised(b)
    return np.asarray(np.clip((x * y).sum(axis=0), -1.0, 1.0))


def pearson_matrix(a: ArrayLike, b: ArrayLike) -> Array:
    """Pearson's r of every column of ``a`` with every column of ``b``, ``[columns_a, columns_b]``.

    NaN where either column is constant.
    """
    return np.asarray(np.clip(_standardised(a).T @ _standardised(b), -1.0, 1.0))


def _standardised(x: ArrayLike) -> Array:
    """Columns with mean 0 and norm 1; NaN where constant."""
    values = np.asarray(x, dtype=np.float64)
    # The first token is subtracted first, so that a constant column has deviations of exactly zero.
    values = values - values[:1]
    values = values - values.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(values / np.sqrt((values * values).sum(axis=0)))


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


class AllPairsCorrelation:
    """Keeps every token; `compute` correlates all neurons of A with all of B and its rotations."""

    def __init__(
        self,
        layers_a: Mapping[str, int],
        layers_b: Mapping[str, int],
        *,
        draws: int = 5,
        rotation: str = "hadamard",
        seed: int = 0,
    ) -> None:
        self._names_a, self._names_b = list(layers_a), list(layers_b)
        self._rotations = [
            [rotation_matrix(rotation, n, d, seed, name) for name, n in layers_b.items()]
            for d in range(0 if rotation == "none" else draws)
        ]
        self._a: list[list[Array]] = []
        self._b: list[list[Array]] = []

    def update(
        self,
        a: Mapping[str, ArrayLike],
        b: Mapping[str, ArrayLike],
        mask: ArrayLike | None = None,
    ) -> None:
        """Adds tokens: ``[..., neurons]`` of each layer, and a mask ``[...]`` of those to use."""
        keep = slice(None) if mask is None else np.asarray(mask, dtype=bool).reshape(-1)

        def rows(values: ArrayLike) -> Array:
            x = np.asarray(values, dtype=np.float64)
            return np.asarray(x.reshape(-1, x.shape[-1])[keep])

        self._a.append([rows(a[name]) for name in self._names_a])
        self._b.append([rows(b[name]) for name in self._names_b])

    def compute(self) -> tuple[Array, list[Array]]:
        """r ``[neurons_a, neurons_b]``, layer after layer, and r with each rotation of B."""
        a = np.concatenate([np.concatenate(batch, axis=1) for batch in self._a])
        layers = [np.concatenate(parts) for parts in zip(*self._b, strict=True)]
        centred = [x - x[:1] for x in layers]
        rotated = [
            pearson_matrix(
                a, np.concatenate([x @ r.T for x, r in zip(centred, draw, strict=True)], 1)
            )
            for draw in self._rotations
        ]
        return pearson_matrix(a, np.concatenate(layers, axis=1)), rotated


# ---- matching -----------------------------------------------------------------------------------


def best(r: Array) -> tuple[NDArray[np.int64], Array]:
    """For each row of r, the column of the highest value and that value; -1 and NaN for none."""
    live = ~np.isnan(r).all(axis=1)
    match = np.where(live, np.argmax(np.where(np.isnan(r), -np.inf, r), axis=1), -1)
    return match, _taken(r, match)


def one_to_one(r: Array) -> tuple[NDArray[np.int64], Array]:
    """The assignment of columns to rows that maximises the sum of r; -1 and NaN where left over.

    Needs SciPy (``scipy.optimize.linear_sum_assignment``).
    """
    from scipy.optimize import linear_sum_assignment

    rows = np.flatnonzero(~np.isnan(r).all(axis=1))
    columns = np.flatnonzero(~np.isnan(r).all(axis=0))
    match = np.full(len(r), -1)
    i, j = linear_sum_assignment(r[rows][:, columns], maximize=True)
    match[rows[i]] = columns[j]
    return match, _taken(r, match)


def _taken(r: Array, match: NDArray[np.int64]) -> Array:
    return np.where(match >= 0, r[np.arange(len(r)), match], np.nan)


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

    A neuron that has a match but none in any draw (or, where a draw plays the model, in any other)
    takes for its baseline the mean of its layer's matched neurons over those draws; the mean of
    all layers' where its layer has none.

    Args:
        correlation: ``[neurons]``, NaN where there is none.
        rotated: ``[draws, neurons]``, NaN where there is none.
        layer: ``[neurons]``, the layer's number; null excesses are pooled within a layer.
        threshold: of the excess.
    """
    draws, neurons = rotated.shape
    nan = np.full(neurons, np.nan)
    baseline, std, null = nan.copy(), nan.copy(), np.full((draws, neurons), np.nan)

    def mean_of(others: Array, i: int) -> float:
        for values in (others[:, i], others[:, layer == layer[i]], others):
            there = values[~np.isnan(values)]
            if there.size:
                return float(there.mean())
        return float("nan")

    for i in range(neurons):
        there = np.flatnonzero(~np.isnan(rotated[:, i])).tolist()
        for d in there:
            null[d, i] = rotated[d, i] - mean_of(np.delete(rotated, d, axis=0), i)
        if not np.isnan(correlation[i]):
            baseline[i] = mean_of(rotated, i)
            if len(there) > 1:
                std[i] = rotated[there, i].std(ddof=1)
    excess = correlation - baseline
    universal = excess > threshold
    if draws < 2:
        return Statistics(baseline, nan, excess, nan, nan, universal, np.nan, np.nan)

    by_chance = float(np.mean([(row[~np.isnan(row)] > threshold).sum() for row in null]))
    p = nan.copy()
    for i in np.flatnonzero(~np.isnan(excess)).tolist():
        pool = null[:, layer == layer[i]]
        pool = pool[~np.isnan(pool)]
        p[i] = (1 + (pool >= excess[i]).sum()) / (1 + pool.size)
    q = nan.copy()
    alive = np.flatnonzero(~np.isnan(p))
    order = alive[np.argsort(p[alive], kind="stable")]
    smallest = 1.0
    for rank in range(len(order), 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * len(order) / rank)
        q[order[rank - 1]] = smallest
    flagged = int(universal.sum())
    fdr = by_chance / flagged if flagged else np.nan
    return Statistics(baseline, std, excess, p, q, universal, by_chance, fdr)


def correlate(
    a: ArrayLike | Mapping[str, ArrayLike],
    b: ArrayLike | Mapping[str, ArrayLike],
    *,
    match: str = "index",
    rotation: str = "hadamard",
    draws: int = 5,
    seed: int = 0,
    threshold: float = 0.5,
    mask: ArrayLike | None = None,
) -> tuple[Array, Statistics]:
    """r of each neuron of A with its match, layer after layer, and what follows from it.

    Args:
        a: activations of A, ``[..., neurons]``, or a dict of layer name to these.
        b: activations of B; by index, with the same layers and shapes.
        match: one of the `MATCHINGS`.
        rotation: one of the `ROTATIONS`.
        draws: rotations for the baseline.
        seed: of the rotations.
        threshold: of the excess.
        mask: ``[...]``, true for the tokens to use; None for all.
    """
    layers_a = a if isinstance(a, Mapping) else {"activations": a}
    layers_b = b if isinstance(b, Mapping) else {"activations": b}
    widths = {name: np.asarray(values).shape[-1] for name, values in layers_a.items()}
    numbers = np.repeat(np.arange(len(widths)), list(widths.values()))
    if not MATCHINGS[match].all_pairs:
        parts = []
        for name, neurons in widths.items():
            layer = PairedCorrelation(
                neurons, draws=draws, rotation=rotation, seed=seed, layer=name
            )
            layer.update(layers_a[name], layers_b[name], mask)
            parts.append(layer.compute())
        r = np.concatenate([part[0] for part in parts])
        rotated = np.concatenate([part[1] for part in parts], axis=1)
        # Dead in B alone, a neuron has an r with rotations of B.
        rotated = np.where(np.isnan(r), np.nan, rotated)
    else:
        widths_b = {name: np.asarray(values).shape[-1] for name, values in layers_b.items()}
        pairs = AllPairsCorrelation(widths, widths_b, draws=draws, rotation=rotation, seed=seed)
        pairs.update(layers_a, layers_b, mask)
        taken = resolve(MATCHINGS[match].reference)
        matrix, matrices = pairs.compute()
        if MATCHINGS[match].assign is not None:
            # Rotations have no dead neurons: as many are left over, so that as many match.
            dead = np.isnan(matrix).all(axis=0)
            matrices = [np.where(dead, np.nan, m) for m in matrices]
        r = taken(matrix)[1]
        rotated = np.array([taken(m)[1] for m in matrices]).reshape(-1, len(r))
    return r, statistics(r, rotated, numbers, threshold)
