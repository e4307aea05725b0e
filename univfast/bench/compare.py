"""The same jobs by univfast, by what users would write, and the least that either must take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from univfast import reference
from univfast.all_pairs import AllPairsCorrelation
from univfast.bench import rivals
from univfast.bench.data import LAYER, Activations, Array, correlated, spread
from univfast.bench.rivals import READS, Read
from univfast.bench.table import ratio
from univfast.paired import PairedCorrelation

__all__ = ["Group", "compare"]

# A line runs for about this long, within these numbers of rounds; the median counts.
_SECONDS = 1.5
_ROUNDS = (2, 15)
# Largest errors of r that are no mistake: what README promises, and what float32 sums keep.
_LIMIT = 1e-6
_PAIRS_LIMIT = 1e-5
_RIVAL_LIMIT = 1e-4
_FLOAT16_LIMIT = 5e-3  # of the published method, whose r is in float16


@dataclass(frozen=True)
class Line:
    """What one way to do a job took, and how far its answer was off.

    Attributes:
        name: of the way.
        seconds: median of the rounds.
        error: the largest of r; None for floors, which have no r.
    """

    name: str
    seconds: float
    error: float | None = None


@dataclass(frozen=True)
class Group:
    """One job, done in several ways on the same activations.

    Attributes:
        title: the job and its size.
        floor: what the first line is: ``read floor`` or ``product floor``.
        lines: the floor, univfast, rivals.
    """

    title: str
    floor: str
    lines: list[Line]

    def table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """As a head, and a row a line."""
        floor, ours = self.lines[0].seconds, self.lines[1].seconds
        rows: list[Sequence[str]] = [
            (
                line.name,
                f"{line.seconds * 1e3:,.1f}",
                ratio(line.seconds, floor),
                ratio(line.seconds, ours),
                "" if line.error is None else f"{line.error:.0e}",
            )
            for line in self.lines
        ]
        return ("", "ms", f"{self.floor}s", "times univfast", "largest error of r"), rows


def compare(tokens: int, neurons: int) -> Iterator[Group]:
    """Measures group by group.

    Args:
        tokens: of the paired groups; all pairs take a quarter.
        neurons: of a layer; all pairs take two layers of a third.

    Raises:
        AssertionError: an answer is wrong.
    """
    yield from _by_index(Activations(*correlated(tokens, neurons)))
    yield _all_pairs(tokens // 4, max(1, neurons // 3))


def _by_index(data: Activations) -> Iterator[Group]:
    def least(read: Read) -> float:
        return _seconds(lambda: read(data.a, data.b))

    floor = Line("read floor", min(map(least, READS.values())))
    yield _paired(data, floor)
    yield _rotated(data, floor)


def _paired(data: Activations, floor: Line) -> Group:
    accumulator = PairedCorrelation(data.neurons, rotation="none", shifts=0)

    def ours() -> Tensor:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        return accumulator.compute().correlation

    lines = [
        floor,
        _line("univfast", ours, data.checked, data.exact, _LIMIT),
        *(
            _line(name, partial(f, data.a, data.b), data.checked, data.exact, _RIVAL_LIMIT)
            for name, f in (("NumPy", rivals.numpy_naive), ("naive torch", rivals.naive))
        ),
    ]
    return Group(f"correlation, {data.size}", "read floor", lines)


def _rotated(data: Activations, floor: Line) -> Group:
    accumulator = PairedCorrelation(data.neurons, draws=1, shifts=0)

    def ours() -> Tensor:
        accumulator.reset()
        accumulator.update(data.a, data.b)
        found = accumulator.correlations()
        return torch.cat((found.correlation[None], found.rotated))

    matrix = reference.rotation_matrix("hadamard", data.neurons, 0, 0, LAYER)
    rotation = torch.from_numpy(matrix).float()
    exact = data.exact_rotated(matrix)
    lines = [
        floor,
        _line("univfast", ours, data.checked, exact, _LIMIT),
        _line(
            "naive torch",
            lambda: rivals.naive_rotated(data.a, data.b, rotation),
            data.checked,
            exact,
            _RIVAL_LIMIT,
        ),
    ]
    return Group(f"correlation + 1 rotation, {data.size}", "read floor", lines)


def _all_pairs(tokens: int, width: int) -> Group:
    models = [
        {f"mlp.{i}": x.half() for i, x in enumerate(torch.split(model, width, dim=1))}
        for model in correlated(tokens, 2 * width)
    ]
    a, b = (list(model.values()) for model in models)
    x, y = (torch.cat([layer.float() for layer in layers], dim=1) for layers in (a, b))
    product = torch.empty(2 * width, 2 * width, dtype=torch.float32, device="cpu")
    checked = spread(2 * width)
    rows = reference.pearson_matrix(x[:, checked].double().numpy(), y.double().numpy())
    exact = rows.max(axis=1)[None]
    widths = dict.fromkeys(models[0], width)
    accumulator = AllPairsCorrelation(widths, widths, rotation="none")

    def ours() -> Tensor:
        accumulator.reset()
        accumulator.update(*models)
        return accumulator.compute().correlation

    lines = [
        Line("product floor", _seconds(lambda: torch.mm(x.T, y, out=product))),
        _line("univfast", ours, checked, exact, _PAIRS_LIMIT),
        _line("naive torch", lambda: rivals.naive_pairs(a, b), checked, exact, _PAIRS_LIMIT),
        _line("published method", lambda: rivals.published(a, b), checked, exact, _FLOAT16_LIMIT),
    ]
    size = f"{tokens:,} tokens x 2 layers of {width:,} neurons"
    return Group(f"best of all pairs, {size}", "product floor", lines)


def _line(
    name: str, run: Callable[[], Tensor], checked: Tensor, exact: Array, limit: float
) -> Line:
    answer = run()
    rows = answer.reshape(-1, answer.shape[-1])[:, checked].double().numpy()
    error = float(np.abs(rows - exact).max())
    assert error <= limit, f"{name}: r is off by {error:.2g}, allowed {limit:g}"
    return Line(name, _seconds(run), error)


def _seconds(run: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < _ROUNDS[0] or (len(times) < _ROUNDS[1] and sum(times) < _SECONDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)
