"""Wrong partners by index, number by number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from univfast.nulls.matrices import layer_seed

__all__ = ["shifts_of"]

_LAGS = 5


def shifts_of(neurons: int, shifts: int, seed: int, layer: str) -> NDArray[np.int64]:
    """Distinct numbers in ``1 .. neurons - 1``: as many as asked for, or all that there are.

    Where they can be, they are the sums of five random lags with each of some random leads, of
    which the first is 0; else random numbers.
    """
    count = min(shifts, neurons - 1)

    def shuffled(word: int) -> list[int]:
        key = np.array([layer_seed(seed, layer), (1 << 63) + word], dtype=np.uint64)
        bits = np.random.Philox(key=key).random_raw(neurons)
        return sorted(range(neurons), key=lambda i: (int(bits[i]), i))

    numbers = [number for number in shuffled(0) if number > 0]
    if count < _LAGS:
        return np.array(numbers[:count], dtype=np.int64)
    found = numbers[:_LAGS]
    for lead in shuffled(1):
        moved = [(lead + lag) % neurons for lag in numbers[:_LAGS]]
        if len(found) < count and not {0, *found} & set(moved):
            found += moved
    return np.array((found if len(found) >= count else numbers)[:count], dtype=np.int64)
