"""Rotations as matrices, step by step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from univfast.nulls.kinds import MIN_STRUCTURED, ROTATIONS
from univfast.nulls.matrices import dense_matrix, layer_seed
from univfast.registry import resolve

__all__ = ["rotation_matrix", "rotation_signs", "structured_matrix"]

Array = NDArray[np.float64]

# As csrc/rotation.h has them, in neurons.
_STAGES = 2
_COMMON_ROUNDS = 2
_MIN_BLOCK = 64
_GROUP = 16
_MIN_GROUPED = 512
_MIN_SHARE = 128
_TURN = 5


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


def structured_matrix(neurons: int, draw: int, seed: int) -> Array:
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
    if not isinstance(kind, str) or kind not in ROTATIONS or not ROTATIONS[kind].random:
        raise ValueError(f"rotation: {kind!r} has no matrix")
    stepwise = resolve(ROTATIONS[kind].structured_matrix)
    if stepwise is not None and neurons >= MIN_STRUCTURED:
        return np.asarray(stepwise(neurons, draw, layer_seed(seed, layer)))
    return dense_matrix(kind, neurons, draw, seed, layer)
