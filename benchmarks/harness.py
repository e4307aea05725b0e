"""What every benchmark needs: activations with their exact answer, and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, TypeVar

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


class Data(Protocol):
    """What is correlated, as a measurement sees it."""

    @property
    def tokens(self) -> int: ...

    @property
    def neurons(self) -> int:
        """Of one model."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def size(self) -> str:
        """In words."""
        ...

    @property
    def checked(self) -> Tensor:
        """Numbers of the neurons whose exact r is known, ``[checked]``."""
        ...


class Activations:
    """Two models' activations on the same tokens, and the exact r of some of their neurons.

    Attributes:
        a: ``[tokens, neurons]``.
        b: the same shape and dtype.
        checked: numbers of the neurons whose exact r is known, ``[checked]``.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.tokens, self.neurons = a.shape
        self.dtype = a.dtype
        self.size = f"{self.tokens:,} tokens x {self.neurons:,} neurons"
        self.checked = spread(self.neurons)

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


class Layers:
    """Two models of some layers, and the highest r that some of A's neurons have in B.

    Attributes:
        a: activations by layer, ``[tokens, width]`` each.
        b: the same names, shapes and dtype.
        checked: numbers of the neurons of A whose exact answer is known, ``[checked]``.
    """

    def __init__(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
        self.a, self.b = a, b
        first = next(iter(a.values()))
        self.tokens, width = first.shape
        self.neurons = width * len(a)
        self.dtype = first.dtype
        self.size = f"{self.tokens:,} tokens x {len(a)} layers of {width:,} neurons"
        self.checked = spread(self.neurons)
        self._exact: dict[str, Array] = {}

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of each layer by name."""
        return {name: x.shape[1] for name, x in self.a.items()}

    def exact(self, *rotations: str) -> Array:
        """The highest r, then the highest after draw 0 of rotations, ``[1 + kinds, checked]``.

        Args:
            rotations: kinds of rotation of each layer of B, with seed 0.
        """
        return np.stack([self._highest(kind) for kind in ("none", *rotations)])

    def _highest(self, kind: str) -> Array:
        if kind not in self._exact:
            a = torch.cat(list(self.a.values()), dim=1)[:, self.checked].double()
            a -= a.mean(dim=0)
            best = torch.full((len(self.checked),), -torch.inf).double()
            for name, layer in self.b.items():
                if kind == "none":
                    turn = torch.eye(layer.shape[1]).double()
                else:
                    turn = torch.from_numpy(
                        reference.rotation_matrix(kind, layer.shape[1], 0, 0, name)
                    )
                centre = layer.double().mean(dim=0)
                cross = torch.zeros(len(self.checked), layer.shape[1]).double()
                norm = torch.zeros(layer.shape[1]).double()
                for x, y in zip(a.split(_TOKENS), layer.split(_TOKENS), strict=True):
                    rotated = (y.double() - centre) @ turn.T
                    cross += x.T @ rotated
                    norm += rotated.square().sum(dim=0)
                r = cross / (a.norm(dim=0)[:, None] * norm.sqrt())
                best = best.maximum(r.max(dim=1).values)
            self._exact[kind] = best.numpy()
        return self._exact[kind]


def spread(neurons: int) -> Tensor:
    """Numbers of the neurons that are checked."""
    numbers = np.linspace(0, neurons - 1, min(_CHECKED, neurons))
    return torch.from_numpy(numbers.round().astype(np.int64))


class Measure:
    """Times one line of a table, and checks the answer of what was timed."""

    def __init__(self, benchmark: BenchmarkFixture, records: list[dict[str, Any]]) -> None:
        self._benchmark, self._records = benchmark, records

    def __call__(
        self,
        line: str,
        run: Callable[[], Answer],
        data: Data,
        *,
        floor: str = "read floor",
        against: str = "univfast",
        once: bool = False,
        **extra: object,
    ) -> Answer:
        """Runs once to warm up, then for about `_SECONDS`.

        Args:
            line: its name in the table.
            run: what is timed.
            data: what it reads.
            floor: the line that is the floor of this one.
            against: the line of univfast that does the same job.
            once: time one run, the first: for what takes minutes.
            extra: for ``extra_info`` of the saved JSON.

        Returns:
            The last answer.
        """
        rounds = 1
        if not once:
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            least, most = _ROUNDS
            rounds = max(least, min(most, int(_SECONDS / seconds)))
        answer: Answer = self._benchmark.pedantic(run, rounds=rounds)
        self._benchmark.extra_info.update(
            line=line,
            floor=floor,
            against=against,
            dtype=str(data.dtype).removeprefix("torch."),
            size=data.size,
            **extra,
        )
        if self._benchmark.stats is not None:  # None with --benchmark-disable
            self._records.append(self._benchmark.stats.as_dict(include_data=False))
        return answer

    def median(self, line: str, data: Data) -> float | None:
        """Seconds that a line took which was measured before, if it was."""
        found = [
            record["stats"]["median"]
            for record in self._records
            if (record["extra_info"]["line"], record["extra_info"]["size"]) == (line, data.size)
        ]
        return found[-1] if found else None

    def check(self, answer: Tensor, data: Data, exact: Array, limit: float) -> None:
        """Asserts that r is right, and notes its largest error.

        Args:
            answer: ``[rows, neurons]`` or ``[neurons]``: r, then r with each rotation.
            data: what it was computed from.
            exact: ``[rows, checked]``.
            limit: of the absolute error.
        """
        got = answer.reshape(-1, data.neurons)[:, data.checked].double().numpy()
        assert got.shape == exact.shape
        error = float(np.abs(got - exact).max())
        self._benchmark.extra_info.update(max_error=error, limit=limit)
        assert error <= limit, f"r is off by {error:.2g}, allowed {limit:g}"
