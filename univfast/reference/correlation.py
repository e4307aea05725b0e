"""Pearson's r of all tokens at once, of one neuron with one and of all pairs, and matches in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from univfast.nulls.kinds import ROTATIONS
from univfast.reference.rotations import rotation_matrix
from univfast.reference.shifts import shifts_of
from univfast.reference.statistics import Statistics, statistics
from univfast.registry import resolve
from univfast.search.matchings import MATCHINGS

__all__ = [
    "AllPairsCorrelation",
    "PairedCorrelation",
    "best",
    "correlate",
    "one_to_one",
    "pearson",
    "pearson_matrix",
]

Array = NDArray[np.float64]


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
    """Keeps every token; `compute` correlates neuron i of A with that of B, and with its nulls."""

    def __init__(
        self,
        neurons: int,
        *,
        draws: int = 5,
        rotation: str = "hadamard",
        seed: int = 0,
        layer: str = "activations",
        shifts: int = 20,
    ) -> None:
        self.neurons = neurons
        self._shifts = shifts_of(neurons, shifts, seed, layer)
        self._rotations = (
            []
            if not ROTATIONS[rotation].random
            else [rotation_matrix(rotation, neurons, d, seed, layer) for d in range(draws)]
        )
        self._a: list[Array] = []
        self._b: list[Array] = []

    def update(self, a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Adds tokens: ``[..., neurons]`` each, and a mask ``[...]`` of the tokens to use."""
        keep = slice(None) if mask is None else np.asarray(mask, dtype=bool).reshape(-1)
        self._a.append(np.asarray(a, dtype=np.float64).reshape(-1, self.neurons)[keep])
        self._b.append(np.asarray(b, dtype=np.float64).reshape(-1, self.neurons)[keep])

    def compute(self) -> tuple[Array, Array, Array]:
        """r ``[neurons]``, r with rotations of B ``[draws, neurons]`` and with wrong partners.

        The last is ``[shifts, neurons]``: neuron i of A with neuron i + shift of B, counted round.
        """
        a, b = np.concatenate(self._a), np.concatenate(self._b)
        centred = b - b[:1]
        rotated = [pearson(a, centred @ r.T) for r in self._rotations]
        shifted = [pearson(a, np.roll(b, -shift, axis=1)) for shift in self._shifts.tolist()]
        turned, moved = (np.array(x).reshape(-1, self.neurons) for x in (rotated, shifted))
        return pearson(a, b), turned, moved


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
            for d in range(draws if ROTATIONS[rotation].random else 0)
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
    shifts: int = 20,
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
        shifts: wrong partners of each neuron, by index.
    """
    layers_a = a if isinstance(a, Mapping) else {"activations": a}
    layers_b = b if isinstance(b, Mapping) else {"activations": b}
    widths = {name: np.asarray(values).shape[-1] for name, values in layers_a.items()}
    numbers = np.repeat(np.arange(len(widths)), list(widths.values()))
    shifted = None
    if not MATCHINGS[match].all_pairs:
        parts = []
        for name, neurons in widths.items():
            layer = PairedCorrelation(
                neurons, draws=draws, rotation=rotation, seed=seed, layer=name, shifts=shifts
            )
            layer.update(layers_a[name], layers_b[name], mask)
            parts.append(layer.compute())
        r = np.concatenate([part[0] for part in parts])
        rotated = np.concatenate([part[1] for part in parts], axis=1)
        # Dead in B alone, a neuron has an r with rotations of B.
        rotated = np.where(np.isnan(r), np.nan, rotated)
        most = max(len(part[2]) for part in parts)
        wrong = [np.vstack([x, np.full((most - len(x), x.shape[1]), np.nan)]) for _, _, x in parts]
        shifted = np.where(np.isnan(r), np.nan, np.concatenate(wrong, axis=1))
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
    return r, statistics(r, rotated, numbers, threshold, shifted)
