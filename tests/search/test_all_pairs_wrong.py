"""The check of all pairs rejects the shortcuts that published code takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from support.dtypes import F16, F32
from support.pairs import accumulated, assert_matches, exact, matches_of, models
from support.parity import Array
from univfast import reference
from univfast.search.matches import Matches

Data = tuple[Array, dict[str, Array]]  # A [tokens, neurons]; layers of B
DRAWS = 3


def as_matches(r: Array, rotated_best: Array) -> Matches:
    """What a shortcut found, as the check takes it."""
    descending = torch.from_numpy(-np.sort(-r, axis=1))
    best = torch.from_numpy(reference.best(r)[1])
    nothing = torch.full((len(r),), -1)
    return Matches(
        ("b",),
        best,
        nothing,
        nothing,
        torch.from_numpy(rotated_best).double(),
        best.isnan(),
        top_correlation=descending.double(),
    )


def joined(b: dict[str, Array]) -> Array:
    return np.concatenate(list(b.values()), axis=1)


def r_of(data: Data) -> Array:
    return reference.pearson_matrix(data[0], joined(data[1]))


def exact_of(data: Data) -> tuple[Array, list[Array]]:
    a, b = data
    layers = {name: torch.from_numpy(x) for name, x in b.items()}
    return exact({"a0": torch.from_numpy(a)}, layers, "hadamard", DRAWS, 0)


def rotations(b: dict[str, Array], kind: str = "hadamard") -> list[Array]:
    """B rotated, ``[tokens, neurons]`` a draw."""
    return [
        np.concatenate(
            [
                (x - x[:1]) @ reference.rotation_matrix(kind, x.shape[1], draw, 0, name).T
                for name, x in b.items()
            ],
            axis=1,
        )
        for draw in range(DRAWS)
    ]


def by_pairs(pair: Callable[[Array, Array], Array]) -> Callable[[Data], Matches]:
    """A shortcut in the correlation alone."""

    def run(data: Data) -> Matches:
        a, b = data
        r = pair(a, joined(b))
        best = np.array([reference.best(pair(a, turned))[1] for turned in rotations(b)])
        return as_matches(r, np.where(np.isnan(reference.best(r)[1]), np.nan, best))

    return run


right = by_pairs(reference.pearson_matrix)


def raw_sums(dtype: type[np.floating]) -> Callable[[Array, Array], Array]:
    """Plain sums and sums of squares in one dtype."""

    def pair(a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            x, y = a.astype(dtype), b.astype(dtype)
            n = dtype(len(x))
            sums = [v.sum(0, dtype=dtype) for v in (x, y, x * x, y * y)]
            c = (x.T.astype(dtype) @ y).astype(dtype) - np.outer(sums[0], sums[1]) / n
            norms = [sums[2] - sums[0] ** 2 / n, sums[3] - sums[1] ** 2 / n]
            return np.asarray(c / np.sqrt(np.outer(*norms)), dtype=np.float64)

    return pair


def overflow_to_zero(a: Array, b: Array) -> Array:
    return np.nan_to_num(raw_sums(np.float16)(a, b), nan=0.0)


def kept_in_float16(a: Array, b: Array) -> Array:
    return reference.pearson_matrix(a, b).astype(np.float16).astype(np.float64)


def mean_of_batches(a: Array, b: Array) -> Array:
    parts = zip(np.array_split(a, 4), np.array_split(b, 4), strict=True)
    return np.asarray(np.mean([reference.pearson_matrix(x, y) for x, y in parts], axis=0))


def variance_threshold(a: Array, b: Array) -> Array:
    quiet = np.outer(a.var(0) < 3.4e-4, np.ones(b.shape[1])) + (b.var(0) < 3.4e-4)
    return np.where(quiet > 0, np.nan, reference.pearson_matrix(a, b))


def constants_are_zero(a: Array, b: Array) -> Array:
    return np.nan_to_num(reference.pearson_matrix(a, b), nan=0.0)


def gaussian_for_a_rotation(data: Data) -> Matches:
    a, b = data
    r = r_of(data)
    turned = rotations(b, "gaussian")
    return as_matches(
        r, np.array([reference.best(reference.pearson_matrix(a, x))[1] for x in turned])
    )


def averaged_before_the_maximum(data: Data) -> Matches:
    a, b = data
    r = r_of(data)
    mean = np.mean([reference.pearson_matrix(a, x) for x in rotations(b)], axis=0)
    return as_matches(r, np.tile(reference.best(mean)[1], (DRAWS, 1)))


def redrawn_every_chunk(data: Data) -> Matches:
    a, b = data
    r = r_of(data)
    draws = rotations(b)
    rows = []
    for draw in range(DRAWS):
        chunks = np.array_split(np.arange(len(a)), 5)
        mixed = np.concatenate([draws[(draw + i) % DRAWS][own] for i, own in enumerate(chunks)])
        rows.append(reference.best(reference.pearson_matrix(a, mixed))[1])
    return as_matches(r, np.array(rows))


def padded_hadamard(data: Data) -> Matches:
    a, b = data
    r = r_of(data)
    rows = []
    for draw in range(DRAWS):
        turned = []
        for name, x in b.items():
            size = 1 << (x.shape[1] - 1).bit_length()
            matrix = reference.rotation_matrix("hadamard", size, draw, 0, name)
            turned.append((x - x[:1]) @ matrix[: x.shape[1], : x.shape[1]].T)
        rows.append(reference.best(reference.pearson_matrix(a, np.concatenate(turned, 1)))[1])
    return as_matches(r, np.array(rows))


def unrotated_variances(data: Data) -> Matches:
    """Rotates the co-moments, but divides by the variances of B as it was."""
    a, b = data
    layers = [x - x.mean(0) for x in b.values()]
    centred = a - a.mean(0)
    r = reference.pearson_matrix(a, np.concatenate(layers, axis=1))
    norm_a = np.sqrt((centred**2).sum(0))[:, None]
    rows = []
    for draw in range(DRAWS):
        turned = [
            centred.T
            @ x
            @ reference.rotation_matrix("hadamard", x.shape[1], draw, 0, name).T
            / norm_a
            / np.sqrt((x**2).sum(0))
            for name, x in zip(b, layers, strict=True)
        ]
        rows.append(reference.best(np.concatenate(turned, axis=1))[1])
    return as_matches(r, np.array(rows))


def one_layer_at_a_time(data: Data) -> Matches:
    """The best of the first layer alone."""
    a, b = data
    name = next(iter(b))
    return right((a, {name: b[name]}))


def kind_of(case: str) -> Data:
    a, b = models(600, (30,), (40, 24))
    x = {name: values.numpy() for name, values in {**a, **b}.items()}
    if case == "no constants":
        x = {name: values[:, :-1] for name, values in x.items()}
    if case == "offset":
        x = {name: values + 1e5 for name, values in x.items()}
    if case == "quiet":
        x = {name: values * 1e-3 for name, values in x.items()}
    return x.pop("a0"), x


@pytest.mark.slow
@pytest.mark.parametrize("case", ["constants", "no constants", "offset", "quiet"])
def test_the_check_accepts_what_is_right(case: str) -> None:
    a, b = kind_of(case)
    found = right((a, b))
    r, rotated = exact_of((a, b))
    assert_matches(found, r, rotated, "best", 1e-11, case)


@pytest.mark.parametrize(
    ("shortcut", "case", "message"),
    [
        (by_pairs(raw_sums(np.float16)), "no constants", "NaN elsewhere|off by"),
        (by_pairs(raw_sums(np.float32)), "offset", "NaN elsewhere|off by"),
        (by_pairs(overflow_to_zero), "no constants", "highest r: off by"),
        (by_pairs(kept_in_float16), "no constants", "highest r: off by"),
        (by_pairs(mean_of_batches), "no constants", "highest r: off by"),
        (by_pairs(variance_threshold), "quiet", "NaN elsewhere"),
        (by_pairs(constants_are_zero), "constants", "NaN elsewhere"),
        (gaussian_for_a_rotation, "no constants", "rotated r: off by"),
        (averaged_before_the_maximum, "no constants", "rotated r: off by"),
        (redrawn_every_chunk, "no constants", "rotated r: off by"),
        (padded_hadamard, "no constants", "rotated r: off by"),
        (unrotated_variances, "no constants", "rotated r: off by"),
        (one_layer_at_a_time, "no constants", "highest r: off by"),
    ],
)
def test_shortcuts_are_rejected(
    shortcut: Callable[[Data], Matches], case: str, message: str
) -> None:
    a, b = kind_of(case)
    r, rotated = exact_of((a, b))
    found = shortcut((a, b))
    missing = r.shape[1] - found.top_correlation.shape[1]  # type: ignore[union-attr]
    if missing:
        r = -np.sort(-r, axis=1)[:, : r.shape[1] - missing]
    with pytest.raises(AssertionError, match=message):
        assert_matches(found, r, rotated, "best", 1e-5, case)


ONE_TO_ONE: dict[str, Callable[[Matches, list[Array]], Array]] = {
    "half": lambda found, _: found.rotated.numpy() / 2,
    "first draw for all": lambda found, _: found.rotated[:1].expand(DRAWS, -1).numpy(),
    "best": lambda _, rotated: np.array([reference.best(r)[1] for r in rotated]),
    "of the neurons matched in the models": lambda found, _: np.where(
        found.correlation.isnan(), np.nan, found.rotated
    ),
}


@pytest.mark.parametrize("name", ONE_TO_ONE)
@pytest.mark.parametrize("limit", [1e-12, 1e-5])
def test_shortcuts_of_one_to_one_are_rejected(name: str, limit: float) -> None:
    a, b = models(300, (40,), (13, 9))
    r, rotated = exact(a, b, "hadamard", DRAWS, 0)
    found = matches_of(accumulated(a, b, draws=DRAWS), "one-to-one")[0]
    assert_matches(found, r, rotated, "one-to-one", limit)
    wrong = replace(found, rotated=torch.from_numpy(ONE_TO_ONE[name](found, rotated)))
    with pytest.raises(AssertionError, match=r"rotated r: (other pairs|sum off by)"):
        assert_matches(wrong, r, rotated, "one-to-one", limit)


def test_what_overflows_float16_does_not() -> None:
    """12,288 tokens of 2.4: their sum of squares is beyond float16."""
    g = np.random.default_rng(0)
    x = 2.4 + 0.1 * g.standard_normal((12288, 6))
    y = x[:, ::-1] + 0.1 * g.standard_normal((12288, 6))
    a, b = {"x": torch.from_numpy(x).to(F16)}, {"y": torch.from_numpy(y).to(F16)}
    assert (a["x"] * a["x"]).sum(0).isinf().all()
    found = matches_of(accumulated(a, b, draws=2, top_k=6))[0]
    assert_matches(found, *exact(a, b, "hadamard", 2, 0), "best", 1e-5)
    assert found.correlation.dtype == torch.float64
    assert float(found.correlation.min()) > 0.5


def test_quiet_neurons_and_offsets_are_kept() -> None:
    for case in ("offset", "quiet", "constants"):
        a, b = kind_of(case)
        x = {"a0": torch.from_numpy(a).to(F32)}
        y = {name: torch.from_numpy(values).to(F32) for name, values in b.items()}
        found = matches_of(accumulated(x, y, draws=DRAWS, top_k=64))[0]
        assert_matches(found, *exact(x, y, "hadamard", DRAWS, 0), "best", 1e-5, case)
