"""What every benchmark needs: activations with their exact answer, and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from univfast import reference

Array = NDArray[np.float64]
Answer = TypeVar("Answer")

# Neurons whose answer is checked, spread over the layer: the exact answer of all would take longer
# than the benchmarks.
_CHECKED = 16
# Tokens that the exact answer converts to float64 at a time, to bound its memory.
_TOKENS = 4096
# A line is measured for about this long, within these numbers of rounds.
_SECONDS = 4.0
_ROUNDS = (3, 25)


class Activations:
    """Two models' activations on the same tokens, and the exact r of some of their neurons.

    Attributes:
        a: ``[tokens, neurons]``.
        b: the same shape and dtype.
        checked: numbers of the neurons whose exact r is known, ``[checked]``.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        spread = np.linspace(0, a.shape[1] - 1, min(_CHECKED, a.shape[1]))
        self.checked = torch.from_numpy(spread.round().astype(np.int64))

    @cached_property
    def exact(self) -> Array:
        """r of the checked neurons, ``[1, checked]``."""
        return reference.pearson(self._columns(self.a), self._columns(self.b))[None]

    def exact_rotated(self, *rotations: Array) -> Array:
        """r, and r with each rotation of B, ``[1 + draws, checked]``.

        Args:
            rotations: matrices ``[neurons, neurons]``.
        """
        a, first = self._columns(self.a), self.b[0].double()
        turn = torch.cat([torch.from_numpy(r)[self.checked] for r in rotations]).T
        rotated = torch.cat([(part.double() - first) @ turn for part in self.b.split(_TOKENS)])
        draws = rotated.split(len(self.checked), dim=1)
        return np.stack([self.exact[0], *(reference.pearson(a, d.numpy()) for d in draws)])

    def _columns(self, x: Tensor) -> Array:
        return x[:, self.checked].double().numpy()


class Measure:
    """Times one line of a table, and checks the answer of what was timed."""

    def __init__(self, benchmark: BenchmarkFixture, records: list[dict[str, Any]]) -> None:
        self._benchmark, self._records = benchmark, records

    def __call__(
        self, line: str, run: Callable[[], Answer], data: Activations, **extra: object
    ) -> Answer:
        """Runs once to warm up, then for about `_SECONDS`.

        Args:
            line: its name in the table.
            run: what is timed.
            data: what it reads.
            extra: for ``extra_info`` of the saved JSON.

        Returns:
            The last answer.
        """
        started = time.perf_counter()
        run()
        once = time.perf_counter() - started
        least, most = _ROUNDS
        rounds = max(least, min(most, int(_SECONDS / once)))
        answer: Answer = self._benchmark.pedantic(run, rounds=rounds)
        tokens, neurons = data.a.shape
        dtype = str(data.a.dtype).removeprefix("torch.")
        size = {"dtype": dtype, "tokens": tokens, "neurons": neurons}
        self._benchmark.extra_info.update(line=line, **size, **extra)
        if self._benchmark.stats is not None:  # None with --benchmark-disable
            self._records.append(self._benchmark.stats.as_dict(include_data=False))
        return answer

    def check(self, answer: Tensor, data: Activations, exact: Array, limit: float) -> None:
        """Asserts that r is right, and notes its largest error.

        Args:
            answer: ``[rows, neurons]`` or ``[neurons]``: r, then r with each rotation.
            data: what it was computed from.
            exact: ``[rows, checked]``.
            limit: of the absolute error.
        """
        got = answer.reshape(-1, data.a.shape[1])[:, data.checked].double().numpy()
        assert got.shape == exact.shape
        error = float(np.abs(got - exact).max())
        self._benchmark.extra_info.update(max_error=error, limit=limit)
        assert error <= limit, f"r is off by {error:.2g}, allowed {limit:g}"
