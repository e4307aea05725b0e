"""What the core is handed is what it is told: another buffer is an error, and never read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from univfast import native
from univfast.native import Best, Contexts, PairSums, Shifts, UsedTokens
from univfast.native.views import matrix, pointer, strided

N, TOKENS = 6, 10
F32, F64 = torch.float32, torch.float64


def one(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.ones(shape, dtype=dtype)


def whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def other_dtype(x: Tensor) -> Tensor:
    return x.float() if x.dtype == F64 else x.double()


def shorter(x: Tensor) -> Tensor:
    return x[..., :-1].contiguous()


def apart(x: Tensor) -> Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]


def elsewhere(x: Tensor) -> Tensor:
    return x.to("meta")


def freed(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


Arguments = dict[str, Any]


def paired() -> Arguments:
    signs = native.rotation_signs(N, 2, 0)
    return {"a": one(TOKENS, N), "b": one(TOKENS, N), "rows": whole(3), "signs": signs}


def standardise() -> Arguments:
    return {"x": one(TOKENS, N), "mean": one(N), "scale": one(N), "output": one(TOKENS, N)}


def transposed() -> Arguments:
    return {**standardise(), "output": one(N, TOKENS)}


def candidates() -> Arguments:
    x = {"x": one(4, TOKENS), "y": one(N, TOKENS), "starts": torch.tensor([0, 2, 2, 3, 5])}
    x |= {"places": torch.tensor([0, 5, 1, 2, 3]), "scale": one(4), "scale_2": one(N)}
    return x | {"delta": one(4), "delta_2": one(N), "sums": one(5)}


def candidate_products(x: Tensor, y: Tensor, starts: Tensor, places: Tensor, *z: Tensor) -> None:
    scales, deltas = (z[0], z[1]), (z[2], z[3])
    native.candidate_products(x, y, (starts, places), scales, deltas, z[4], 1)


def product() -> Arguments:
    x = {"c": one(4, N), "product": one(4, N), "scale": one(4), "scale_2": one(N)}
    return x | {"delta": one(4), "delta_2": one(N)}


def add_product(c: Tensor, product: Tensor, *sides: Tensor) -> None:
    native.add_product(c, product, sides[:2], sides[2:], 1)  # type: ignore[arg-type]


def best() -> Arguments:
    x = {"c": one(4, N), "rows": one(4), "columns": one(N), "skip": whole(4)}
    x |= {"r": one(4, 2), "place": whole(4, 2), "back": one(N), "back_place": whole(N)}
    return x


def best_pairs(c: Tensor, skip: Tensor, rows: Tensor, columns: Tensor, **x: Tensor) -> None:
    found, back = Best(x["r"], x["place"]), Best(x["back"], x["back_place"])
    native.best_pairs(c, (rows, columns), (0, 0), found, back, skip, 1)


def turned() -> Arguments:
    signs = native.rotation_signs(N, 2, 0)
    x = {"c": one(4, N), "rows": one(4), "columns": one(2, N), "signs": signs}
    return x | {"best": one(2, 4), "skip": whole(4), "single": whole(4), "single_r": one(2, 4)}


def rotated_best(
    c: Tensor, rows: Tensor, columns: Tensor, single: Tensor, single_r: Tensor, **x: Tensor
) -> None:
    native.rotated_best(c, (rows, columns), **x, threads=1, single=(single, single_r))


def groups() -> Arguments:
    x = {"x": one(TOKENS, N), "rows": whole(3), "groups": whole(3), "pivot": one(N)}
    return x | {"sums": one(4, N)}


def extremes() -> Arguments:
    x: Arguments = {"x": one(TOKENS, N).float(), "tokens": torch.arange(TOKENS)}
    for side in ("high", "low"):
        x |= {side: one(N, 3).float(), f"{side}_tokens": whole(N, 3)}
    return x


def extreme_tokens(x: Tensor, tokens: Tensor, *lists: Tensor) -> None:
    native.extreme_tokens(x, tokens, lists[:2], lists[2:], 1)  # type: ignore[arg-type]


def details() -> Arguments:
    x: Arguments = {"frame": one(2, 2, N), "x": one(TOKENS, N), "match": whole(N)}
    x |= {"rows": torch.arange(3), "ends": torch.tensor([1, 3]), "pairs": one(2, 5, N)}
    x |= {"powers": one(9, N), "value": one(N, 3), "token": whole(N, 3), "partner": one(N, 3)}
    return x


def pair_details(frame: Tensor, x: Tensor, match: Tensor, **y: Tensor) -> None:
    top = Contexts(y["value"], y["token"], y["partner"])
    sums = PairSums(y["pairs"], y["powers"], top, Contexts.none(N, 3))
    used = UsedTokens(y["rows"], y["ends"], 0)
    native.pair_details(frame, ([x], [one(TOKENS, N)]), match, used, sums, 1)


OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[[], Arguments]]] = {
    "paired_moments": (lambda **x: native.paired_moments(*x.values(), 1), paired),
    "standardise": (lambda **x: native.standardise(*x.values(), 1), standardise),
    "standardise_transposed": (
        lambda **x: native.standardise_transposed(*x.values(), 1),
        transposed,
    ),
    "candidate_products": (lambda **x: candidate_products(*x.values()), candidates),
    "add_product": (lambda **x: add_product(*x.values()), product),
    "best_pairs": (best_pairs, best),
    "rotated_best": (rotated_best, turned),
    "group_sums": (lambda **x: native.group_sums(*x.values(), 1), groups),
    "extreme_tokens": (lambda **x: extreme_tokens(*x.values()), extremes),
    "pair_details": (pair_details, details),
}
# Of what is read, any dtype will do, and any stride between rows.
READ = {"a", "b", "x", "product", "frame"}
CASES = [
    (operation, argument, spoil)
    for operation, (_, make) in OPERATIONS.items()
    for argument in make()
    for spoil in (other_dtype, shorter, apart, elsewhere, freed)
    if not (spoil is other_dtype and argument in READ)
    # Fewer rows may be used than there are.
    and not (operation == "paired_moments" and argument == "rows" and spoil is shorter)
]


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_what_fits_is_taken(operation: str) -> None:
    call, make = OPERATIONS[operation]
    call(**make())


@pytest.mark.parametrize(
    ("operation", "argument", "spoil"), CASES, ids=lambda x: getattr(x, "__name__", x)
)
def test_what_does_not_fit_is_refused(
    operation: str, argument: str, spoil: Callable[[Tensor], Tensor]
) -> None:
    call, make = OPERATIONS[operation]
    given = make()
    given[argument] = spoil(given[argument])
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        call(**given)


@pytest.mark.parametrize(
    ("operation", "argument", "low", "high"),
    [
        ("paired_moments", "rows", -1, TOKENS),
        ("group_sums", "rows", -1, TOKENS),
        ("group_sums", "groups", -1, 4),
        ("pair_details", "rows", -1, TOKENS),
        ("pair_details", "match", -1, N),
    ],
)
def test_numbers_of_rows_are_within(operation: str, argument: str, low: int, high: int) -> None:
    call, make = OPERATIONS[operation]
    for number in (low, high):
        given = make()
        given[argument][-1] = number
        with pytest.raises(ValueError, match=f"native: got rows .*{number}"):
            call(**given)


def test_tokens_of_extremes_increase() -> None:
    given = extremes()
    given["tokens"][1] = 0
    with pytest.raises(ValueError, match="tokens: they do not increase"):
        extreme_tokens(*given.values())


@pytest.mark.parametrize(
    ("argument", "at", "number"),
    [("places", 4, 6), ("places", 0, -1), ("starts", 4, 6), ("starts", 1, 3), ("starts", 0, -1)],
)
def test_candidates_are_within(argument: str, at: int, number: int) -> None:
    call, make = OPERATIONS["candidate_products"]
    given = make()
    given[argument][at] = number
    with pytest.raises(ValueError, match=r"candidate_products: starts must not decrease"):
        call(**given)


@pytest.mark.parametrize("ends", [[2, 1], [1, 4], [-1, 3]])
def test_blocks_end_within_the_tokens(ends: list[int]) -> None:
    call, make = OPERATIONS["pair_details"]
    with pytest.raises(ValueError, match="native: got 6 pairs"):
        call(**{**make(), "ends": torch.tensor(ends)})


def test_shifts_are_as_many_as_leads_and_lags() -> None:
    given = paired()
    with pytest.raises(ValueError, match="native: got 5 shifts of 2 leads and 2 lags"):
        native.paired_moments(*given.values(), 1, Shifts(whole(2), whole(2), 5))


def test_rows_that_are_written_do_not_overlap() -> None:
    with pytest.raises(ValueError, match=r"expected rows of torch\.float64"):
        strided(one(1, N).expand(3, N), (F64,), (3, N))
    address, stride = strided(one(3, 2 * N)[:, :N], (F64,), (3, N))
    assert address
    assert stride == 2 * N


def test_subclasses_are_not_handed_over() -> None:
    x = torch.nn.Parameter(one(3, N))
    with pytest.raises(ValueError, match="native: got a Parameter"):
        matrix(x)
    with pytest.raises(ValueError, match="native: got a Parameter"):
        pointer(x, F64, (3, N))
