"""What every benchmark needs: activations with their exact answer, and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from univfast import reference
from univfast.bench.data import Activations, Array, spread

__all__ = ["Activations", "Array", "Data", "Layers", "Measure"]

Answer = TypeVar("Answer")

# Tokens that the exact answer converts to float64 at a time, to bound its memory.
_TOKENS = 4096
# A line is measured for about so many seconds as --seconds says, within these numbers of rounds;
# for 0, once.
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
            best = a.new_full((len(self.checked),), -torch.inf)
            for name, layer in self.b.items():
                if kind == "none":
                    turn = torch.eye(layer.shape[1]).double()
                else:
                    turn = torch.from_numpy(
                        reference.rotation_matrix(kind, layer.shape[1], 0, 0, name)
                    )
                turn = turn.to(a.device)
                centre = layer.double().mean(dim=0)
                cross = a.new_zeros(len(self.checked), layer.shape[1])
                norm = a.new_zeros(layer.shape[1])
                for x, y in zip(a.split(_TOKENS), layer.split(_TOKENS), strict=True):
                    rotated = (y.double() - centre) @ turn.T
                    cross += x.T @ rotated
                    norm += rotated.square().sum(dim=0)
                r = cross / (a.norm(dim=0)[:, None] * norm.sqrt())
                best = best.maximum(r.max(dim=1).values)
            self._exact[kind] = best.cpu().numpy()
        return self._exact[kind]


class Measure:
    """Times one line of a table, and checks the answer of what was timed."""

    def __init__(
        self, benchmark: BenchmarkFixture, records: list[dict[str, Any]], seconds: float
    ) -> None:
        self._benchmark, self._records, self._seconds = benchmark, records, seconds

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
        """Runs once to warm up, then for about ``seconds``.

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
            rounds = max(least, min(most, int(self._seconds / seconds))) if self._seconds else 1
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
