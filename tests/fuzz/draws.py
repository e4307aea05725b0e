"""Random shapes, layouts, dtypes and values for calls of the core, and how answers are compared."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast.reference.rotations import structured_matrix

Array = NDArray[np.float64]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Around the edges of vectors, of blocks of the rotation and of strips; and a few with several.
WIDTHS = (*range(1, 10), 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 100, 128, 192, 255, 257, 300, 528)
TOKENS = (1, 1, 2, 3, 7, 15, 16, 17, 33, 64, 65, 130, 300)


@dataclass
class Draw:
    """Random shapes and values; in ``wide`` calls so many values that threads share them."""

    rng: Random
    wide: bool

    def __post_init__(self) -> None:
        self._torch = torch.Generator().manual_seed(self.rng.getrandbits(40))

    @property
    def width(self) -> int:
        return self.rng.choice(WIDTHS[-8:] if self.wide else WIDTHS)

    @property
    def tokens(self) -> int:
        return 1200 if self.wide else self.rng.choice(TOKENS)

    @property
    def draws(self) -> int:
        return self.rng.choice((0, 1, 1, 2, 3))

    @property
    def threads(self) -> int:
        return self.rng.choice((1, 2, 3, 5))

    def values(self, *shape: int) -> Tensor:
        """Float64, about 1 in size."""
        return torch.randn(shape, generator=self._torch, dtype=torch.float64)

    def numbers(self, high: int, count: int) -> Tensor:
        return torch.tensor([self.rng.randrange(high) for _ in range(count)], dtype=torch.int64)

    def rows(self, tokens: int) -> Tensor | None:
        """Some tokens, increasing; or None for all."""
        if self.rng.random() < 0.5:
            return None
        kept = self.rng.sample(range(tokens), self.rng.randint(1, tokens))
        return torch.tensor(sorted(kept), dtype=torch.int64)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Columns contiguous; rows with gaps, or all the same; nothing behind the last value."""
        gap = self.rng.choice((0, 0, 0, 1, 3, 8))
        if rows > 1 and self.rng.random() < 0.05:
            return self.values(1, columns).to(dtype).expand(rows, columns)
        stride, before = columns + gap, self.rng.choice((0, 0, 1, 5))
        memory = self.values(before + max(rows - 1, 0) * stride + columns)
        scale, offset = self.rng.choice((1.0, 1.0, 1e-3, 100.0)), self.rng.choice((0.0, 0.0, 3.0))
        memory = memory * scale + offset
        return memory.to(dtype).as_strided((rows, columns), (stride, 1), before)


def close(what: str, got: Tensor, expected: Array | Tensor, limit: Array | Tensor | float) -> None:
    """Raises AssertionError unless |got - expected| <= limit, NaN at the same places."""
    one, other = got.double().numpy(), np.asarray(expected, dtype=np.float64)
    assert one.shape == other.shape, f"{what}: shape {one.shape}, not {other.shape}"
    with np.errstate(invalid="ignore"):  # of infinities
        near = np.abs(one - other) <= np.asarray(limit)
    same = near | (one == other) | (np.isnan(one) & np.isnan(other))
    assert same.all(), f"{what}: {one[~same][:5]}, not {other[~same][:5]}"


def precision(*dtypes: torch.dtype) -> float:
    """Of sums, relative to what is summed."""
    return 1e-11 if torch.float64 in dtypes else 2e-5


def turned(x: Array, draws: int, seed: int) -> list[Array]:
    """Rows rotated by each draw."""
    return [x @ structured_matrix(x.shape[1], draw, seed).T for draw in range(draws)]
