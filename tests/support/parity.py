"""What the numerical tests share: hard cases, the exact answer, and the check against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from math import gcd
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import univfast as uf
from support.dtypes import F32, F64, name_of
from univfast import reference

Array = NDArray[np.float64]

LAYER = "activations"
SHIFTS = 20  # by default

# The dense matrices of the reference cost neurons^3; wider layers are rotated step by step.
_DENSE_NEURONS = 300


@dataclass(frozen=True)
class Case:
    """Activations ``[tokens, neurons]`` of two models, and how they arrive."""

    name: str
    a: Tensor
    b: Tensor
    batches: tuple[int, ...] | None = None  # tokens of each; None for one batch
    rotation: str = "hadamard"
    draws: int = 2
    seed: int = 0

    def to(self, a: torch.dtype, b: torch.dtype) -> Case:
        """The same values in other dtypes, rounded to them."""
        return Case(
            self.name,
            self.a.to(a),
            self.b.to(b),
            self.batches,
            self.rotation,
            self.draws,
            self.seed,
        )

    def split(self) -> Iterator[tuple[Tensor, Tensor]]:
        sizes = list(self.batches or (len(self.a),))
        assert sum(sizes) == len(self.a)
        yield from zip(self.a.split(sizes), self.b.split(sizes), strict=True)


class Measured(Protocol):
    @property
    def correlation(self) -> Tensor: ...

    @property
    def rotated(self) -> Tensor: ...

    @property
    def shifted(self) -> Tensor: ...


class Accumulator(Protocol):
    def update(self, a: Tensor, b: Tensor) -> None: ...

    def correlations(self) -> Measured: ...


# Called with neurons, and draws, rotation and seed by keyword.
Factory = Callable[..., Accumulator]


# ---- the exact answer ---------------------------------------------------------------------------


@lru_cache(maxsize=64)
def dense_rotation(kind: str, neurons: int, draw: int, seed: int) -> Array:
    return reference.rotation_matrix(kind, neurons, draw, seed, LAYER)


def hadamard_transform(x: Array) -> Array:
    """The orthonormal Walsh-Hadamard transform of the last axis, a power of two."""
    n = x.shape[-1]
    stride = 1
    while stride < n:
        pairs = x.reshape(*x.shape[:-1], -1, 2, stride)
        x = np.stack((pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]), -2)
        x = x.reshape(*x.shape[:-3], n)
        stride *= 2
    return np.asarray(x / np.sqrt(n))


def structured_rotation(
    x: Array, draw: int, seed: int, *, fresh_signs: bool = True, dealt: bool = True
) -> Array:
    """Rows of ``x`` rotated as ``csrc/rotation.h`` says: written again, with no matrices.

    Without ``fresh_signs`` the second window of a round gets no signs of its own, and if not
    ``dealt`` the rounds follow each other directly, as a careless implementation would have it.
    """
    n = x.shape[-1]
    block = n & -n
    if block < 64 and block != n:
        block = 1
    blocks = n // block
    window = 2 ** int(np.log2(blocks)) if blocks > 1 and block < 128 * blocks else 1
    rest = (blocks - window) * block
    group = 16 if block >= 64 and n >= 512 else 1
    stride = next(s for s in count(n // group * 181 // 256) if gcd(s, n // group) == 1)
    numbers = (0, 1, 2 + draw) if n < 64 else (0, 2 + draw)
    layer = reference.layer_seed(seed, LAYER)
    rounds = [reference.rotation_signs(n, number, layer) for number in numbers]
    y = np.array(x, dtype=np.float64)
    for i, signs in enumerate(rounds):
        if i > 0 and dealt:
            groups = np.roll(y, -5, axis=-1).reshape(len(y), -1, group)
            y = groups[:, np.arange(n // group) * stride % (n // group)].reshape(len(y), n)
        y = hadamard_transform((y * signs[0]).reshape(len(y), -1, block)).reshape(len(y), n)
        if window == 1:
            continue
        for part, flips in ((slice(0, n - rest), 1.0), (slice(rest, n), signs[1, rest:])):
            own = y[:, part] * (flips if fresh_signs else 1.0)
            across = own.reshape(len(y), window, block).swapaxes(1, 2)
            y[:, part] = hadamard_transform(across).swapaxes(1, 2).reshape(len(y), -1)
    return y


def rotate_exactly(x: Array, kind: str, draw: int, seed: int) -> Array:
    """Each row of ``x`` rotated, in float64."""
    if kind == "hadamard" and x.shape[1] > _DENSE_NEURONS:
        return structured_rotation(x, draw, seed)
    return np.asarray(x @ dense_rotation(kind, x.shape[1], draw, seed).T)


def exact(case: Case) -> tuple[Array, Array]:
    """r ``[neurons]`` and rotated r ``[draws, neurons]`` of the values as stored."""
    a, b = case.a.double().numpy(), case.b.double().numpy()
    r = reference.pearson(a, b)
    draws = 0 if case.rotation == "none" else case.draws
    centred = b - b[:1]
    rotated = np.full((draws, a.shape[1]), np.nan)
    for draw in range(draws):
        turned = rotate_exactly(centred, case.rotation, draw, case.seed)
        # A neuron that is dead in B has no correlation, so no baseline either.
        rotated[draw] = np.where(np.isnan(r), np.nan, reference.pearson(a, turned))
    return r, rotated


def exact_shifted(case: Case) -> Array:
    """r with wrong partners ``[shifts, neurons]``, as many as there are by default."""
    a, b = case.a.double().numpy(), case.b.double().numpy()
    shifts = reference.shifts_of(a.shape[1], SHIFTS, case.seed, LAYER)
    rows = [reference.pearson(a, np.roll(b, -shift, axis=1)) for shift in shifts.tolist()]
    return np.array(rows).reshape(-1, a.shape[1])


def tolerance(*dtypes: torch.dtype) -> float:
    """Of r, as README promises. float64 with a narrower dtype is summed in float64."""
    return 1e-12 if torch.float64 in dtypes else 1e-6


# ---- the check ----------------------------------------------------------------------------------


def measure(factory: Factory, case: Case) -> Any:
    accumulator = factory(case.a.shape[1], draws=case.draws, rotation=case.rotation, seed=case.seed)
    for a, b in case.split():
        accumulator.update(a, b)
    return accumulator.correlations()


def assert_close(got: Tensor, expected: Array, limit: float, what: str) -> None:
    """|got - expected| <= limit, NaN at the same places, and never beyond 1."""
    values = got.double().numpy()
    assert values.shape == expected.shape, f"{what}: shape {values.shape}, not {expected.shape}"
    absent = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(values), absent, err_msg=f"{what}: NaN elsewhere")
    error = np.abs(values - expected)[~absent].max(initial=0.0)
    assert error <= limit, f"{what}: off by {error:.3g}, allowed {limit:.0e}"
    beyond = np.abs(values[~absent]).max(initial=0.0)
    assert beyond <= 1.0, f"{what}: |r| = {beyond!r}"


def assert_measured(got: Measured, case: Case) -> None:
    """What was measured is the exact answer, as nearly as README promises."""
    r, rotated = exact(case)
    limit = tolerance(case.a.dtype, case.b.dtype)
    assert_close(got.correlation, r, limit, f"{case.name}: r")
    assert_close(got.rotated, rotated, limit, f"{case.name}: rotated r")
    assert_close(got.shifted, exact_shifted(case), limit, f"{case.name}: r with wrong partners")


def assert_parity(factory: Factory, case: Case) -> None:
    """An accumulator that is given the case measures the exact answer."""
    assert_measured(measure(factory, case), case)


def assert_holds(accumulator: uf.PairedCorrelation, case: Case) -> None:
    """An accumulator holds the case's tokens, however they came to it."""
    assert accumulator.tokens == len(case.a)
    assert_measured(accumulator.correlations(), case)


# ---- activations --------------------------------------------------------------------------------


def activations(tokens: int, neurons: int, seed: int = 0) -> tuple[Array, Array]:
    """Two models' ``[tokens, neurons]`` of sd about 1, whose r runs from -1 to 1 over neurons.

    Neurons of a model share five factors, so that rotations of B correlate with A too.
    """
    g = np.random.default_rng([seed, tokens, neurons])
    factors = g.standard_normal((tokens, 5))
    x = factors @ g.standard_normal((5, neurons)) / 3 + g.standard_normal((tokens, neurons)) / 1.5
    y = factors @ g.standard_normal((5, neurons)) / 3 + g.standard_normal((tokens, neurons)) / 1.5
    rho = np.linspace(-1.0, 1.0, neurons)
    return x, rho * x + np.sqrt(1.0 - rho**2) * y


def make_case(name: str, a: Array, b: Array, dtype: torch.dtype, **options: Any) -> Case:
    return Case(name, torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype), **options)


@lru_cache(maxsize=4)
def hard_cases(dtype: torch.dtype) -> dict[str, Case]:
    """Where careless sums go wrong, for float64 and float32. Shared: not to be written to."""
    tokens, neurons = 2048, 96
    a, b = activations(tokens, neurons)
    g = np.random.default_rng(1)
    step = (np.arange(tokens) > 700)[:, None] * 1.0
    trend = np.linspace(0.0, 1.0, tokens)[:, None]
    start = (np.arange(tokens) % 512 < 16)[:, None] * 1.0  # of each sequence of 512 tokens
    height = g.uniform(-1, 1, neurons)
    outlier = (np.arange(tokens) % 97 == 3)[:, None] & (np.arange(neurons) % 2 == 0)
    scales = 10.0 ** g.uniform(-6, 6, neurons)
    half_dead = np.arange(neurons) % 2 == 0
    relu = [np.maximum(v + 1.0, 0.0) for v in (a, b)]
    odd = (1, 0, 511, 513, 16, 1007)
    pairs = {
        "plain": (a, b),
        "offset 1e4 sd": (a + 1e4, b - 1e4),
        "scale 1e-18": (a * 1e-18, b * 1e-18),
        "scale 1e18": (a * 1e18, b * 1e18),
        "scales 1e-18 and 1e18": (a * 1e-18, b * 1e18),
        # float64 alone: a product of two second moments leaves its range.
        "scale 1e-100": (a * 1e-100, b * 1e-100),
        "scale 1e100": (a * 1e100, b * 1e100),
        "a scale for each neuron": (a * scales, b * scales[::-1]),
        "outliers of 20 sd": (a + 20 * outlier, b + 20 * outlier),
        "regime change": (a + 300 * step * height, b - 200 * step * height),
        "trend": (a + 1000 * trend, b + 1000 * trend * height),
        "active at the start of sequences": (relu[0] * start, relu[1] * start),
        "huge at the start of sequences": (a + 300 * start, b + 300 * start * half_dead),
        # In some rotated neurons the layer cancels, and float32 rounds them all alike.
        "one neuron of 1e3 sd": (a, b * np.where(np.arange(neurons) == 5, 1e3, 1.0)),
        "nearly one factor": (a, a[:, :1] * height + 1e-3 * b),
        "constants beside scale 1e-15": (
            np.where(half_dead, 0.1, a * 1e-15),
            np.where(half_dead, 0.1, b * 1e-15),
        ),
        "identical": (a, a),
        "opposite": (a + 1e4, -a - 1e4),
    }
    if dtype != torch.float64:
        del pairs["scale 1e-100"], pairs["scale 1e100"]
    cases = {name: make_case(name, x, y, dtype, batches=odd) for name, (x, y) in pairs.items()}
    whole = [Case(f"{name}, one batch", case.a, case.b) for name, case in cases.items()]
    return cases | {case.name: case for case in whole}


def dead_neurons(constant: float, dtype: torch.dtype, rotation: str) -> Case:
    """Of 67 neurons 3, 65 and 66 are dead: in A, in B and in both."""
    a, b = activations(1300, 67)
    a[:, 3] = constant
    b[:, 65] = constant
    a[:, 66] = b[:, 66] = constant
    return make_case("dead", a, b, dtype, batches=(1, 512, 700, 0, 87), rotation=rotation)


def every_value(dtype: torch.dtype) -> Iterator[Case]:
    """Every number of a dtype of 16 bits, and squares, which correlate with them a little.

    Sorted by magnitude, as one case each: small values are not hidden by large ones.
    """
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = values[values.isfinite()][:, None]
    for part in values[values[:, 0].double().abs().argsort()].split(1000):
        other = part.double() ** 2 / part.double().abs().max()
        yield Case(str(dtype), part, other, rotation="none")


each_hard_case = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for dtype in (F64, F32) for name in hard_cases(dtype)],
    ids=name_of,
)


# ---- for the tests of PairedCorrelation ----------------------------------------------------------


def accumulated(
    case: Case,
    threads: int | None = None,
    mask: Tensor | None = None,
    device: str | None = None,
) -> uf.PairedCorrelation:
    """What holds the case, whose batches lie on the device; masked, it comes as one batch."""
    acc = uf.PairedCorrelation(
        case.a.shape[1],
        draws=case.draws,
        rotation=case.rotation,
        seed=case.seed,
        threads=threads,
        device=device,
    )
    for a, b in case.split() if mask is None else [(case.a, case.b)]:
        acc.update(a.to(device or "cpu"), b.to(device or "cpu"), mask=mask)
    return acc


def same_bits(one: uf.PairedCorrelation, other: uf.PairedCorrelation) -> bool:
    p, q = one.state_dict(), other.state_dict()
    return p["tokens"] == q["tokens"] and bits(p["moments"]) == bits(q["moments"])


def bits(x: Tensor) -> bytes:
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
