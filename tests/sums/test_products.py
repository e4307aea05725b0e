"""What layers are multiplied as, and that r is right however that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, F16, F32, F64
from univfast.machine import matrix_units
from univfast.method import method_of
from univfast.sums import products
from univfast.sums.products import Form, forms

CPU = torch.device("cpu")
LIMIT = 1e-5
NEURONS = (300, 260)


def layers(
    make: Callable[[Tensor, torch.Generator], Tensor], dtype: torch.dtype, tokens: int = 5000
) -> list[Tensor]:
    """Two layers that share eight factors."""
    g = torch.Generator().manual_seed(0)
    factors = torch.randn(tokens, 8, generator=g)
    found = []
    for width in NEURONS:
        mixed = factors @ torch.randn(8, width, generator=g)
        x = mixed + 2 * torch.randn(tokens, width, generator=g)
        found.append(make(x / x.std(dim=0), g).to(dtype))
    return found


HARD: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "plain": lambda x, g: x,
    "means just below what is taken as it is": lambda x, g: x + 3.9,
    "means far above": lambda x, g: x + 100,
    "rarely active": lambda x, g: (x - 3).relu(),
    "rank 1": lambda x, g: x[:, :1] * torch.randn(1, x.shape[1], generator=g),
    "nearly one factor": lambda x, g: x[:, :1] * torch.rand(1, x.shape[1], generator=g) + 0.01 * x,
    "of scale 1e18": lambda x, g: x * 1e18,
    "of scale 1e-18": lambda x, g: x * 1e-18,
    "dead neurons": lambda x, g: x * (torch.arange(x.shape[1]) % 3 > 0),
}


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """In float64."""
    x, y = ((side.double() - side.double().mean(dim=0)) for side in (a, b))
    return (x / x.norm(dim=0)).T @ (y / y.norm(dim=0))


CASES = [
    (kind, dtype)
    for kind in HARD
    for dtype in (BF16, F16, F32)
    if dtype != F16 or "scale" not in kind  # which float16 has no numbers for
]


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=str)
def test_r_is_right_however_layers_are_multiplied(
    kind: str, dtype: torch.dtype, asked: str
) -> None:
    a, b = layers(HARD[kind], dtype)
    sums = uf.AllPairsCorrelation(
        {"x": NEURONS[0]}, {"x": NEURONS[1]}, draws=2, top_k=NEURONS[1], products=asked
    )
    for first in range(0, len(a), 3000):
        sums.update({"x": a[first : first + 3000]}, {"x": b[first : first + 3000]})
    result = sums.compute()
    exact = correlations(a, b)
    assert result.top_neuron is not None
    assert result.top_correlation is not None
    there = ~result.top_correlation.isnan()
    expected = exact.gather(1, result.top_neuron.clamp(min=0))
    error = (result.top_correlation - expected)[there].abs().max()
    assert float(error) < LIMIT
    assert int(there.sum()) == int((~exact.isnan()).sum())


def test_layers_of_other_dtypes_beside_each_other() -> None:
    a, b = (layers(HARD["plain"], F32, tokens=500)[i] for i in (0, 1))
    kinds = {"bf": BF16, "far": BF16, "half": F16, "whole": F32, "exact": F64}
    x = {name: (a + 50 * (name == "far")).to(dtype) for name, dtype in kinds.items()}
    y = {name: (b + 50 * (name == "far")).to(dtype) for name, dtype in reversed(kinds.items())}
    for asked in ("auto", "bfloat16"):
        sums = uf.AllPairsCorrelation(
            dict.fromkeys(x, NEURONS[0]), dict.fromkeys(y, NEURONS[1]), products=asked
        )
        sums.update(x, y)
        found = sums.compute().correlation
        exact = correlations(torch.cat([*x.values()], 1).double(), torch.cat([*y.values()], 1))
        torch.testing.assert_close(found, exact.amax(dim=1), rtol=0, atol=LIMIT)


@pytest.mark.parametrize("kinds", [(BF16, F32), (BF16, F16), (F16, F32), (F32, BF16, F16)], ids=str)
def test_neighbours_in_parts_are_each_of_as_many_as_their_dtype_asks_for(
    kinds: tuple[torch.dtype, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "matrix_units", lambda: "amx")
    a, b = layers(HARD["plain"], F64, tokens=500)
    x, y = ({str(dtype): side.to(dtype) for dtype in kinds} for side in (a, b))
    sums = uf.AllPairsCorrelation(
        dict.fromkeys(x, NEURONS[0]), dict.fromkeys(y, NEURONS[1]), rotation="none"
    )
    sums.update(x, y)
    found, exact = (
        sums.compute().correlation,
        correlations(
            torch.cat([layer.double() for layer in x.values()], 1), torch.cat([*y.values()], 1)
        ),
    )
    torch.testing.assert_close(found, exact.amax(dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mean", [0.7, 3.9])
@pytest.mark.parametrize("units", ["amx", None])
def test_rare_activity_on_a_constant(
    units: str | None, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which loses bits of long sums, all in one direction."""
    monkeypatch.setattr(products, "matrix_units", lambda: units)
    g = torch.Generator().manual_seed(0)
    active = torch.randint(4096, (16, 200), generator=g)
    x = torch.zeros(4096, 200).scatter_(0, active, 1 + torch.rand(16, 200, generator=g))
    a, b = ((side + mean * side.std(dim=0)).bfloat16() for side in (x, x * (2 + x)))
    sums = uf.AllPairsCorrelation({"x": 200}, {"x": 200}, rotation="none")
    sums.update(a, b)
    result = sums.compute()
    limit = result.summary["method"]["largest_error"]
    assert limit == 2e-5
    exact = correlations(a, b).amax(dim=1)
    torch.testing.assert_close(result.correlation, exact, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_products_with_float64_are_as_exact_as_is_said(dtype: torch.dtype) -> None:
    a, b = layers(HARD["plain"], F64, tokens=5)
    x = a.to(dtype)
    sums = uf.AllPairsCorrelation({"x": NEURONS[0]}, {"x": NEURONS[1]}, rotation="none")
    sums.update(x, b)
    result = sums.compute()
    assert result.summary["method"]["products"] == ["float64"]
    limit = result.summary["method"]["largest_error"]
    exact = correlations(x, b).amax(dim=1)
    torch.testing.assert_close(result.correlation, exact, rtol=0, atol=limit)


def made_of(dtype: torch.dtype, asked: str, **options: object) -> list[str]:
    a, b = layers(HARD["plain"], dtype, tokens=200)
    sums = uf.AllPairsCorrelation(
        {"x": NEURONS[0]},
        {"x": NEURONS[1]},
        products=asked,
        **options,  # type: ignore[arg-type]
    )
    sums.update(a, b)
    sums.co_moments()  # none that wait for more
    state = sums.state_dict()
    again = uf.AllPairsCorrelation({"x": NEURONS[0]}, {"x": NEURONS[1]}, **options)  # type: ignore[arg-type]
    again.load_state_dict(state)
    assert again.state_dict()["multiplied"] == state["multiplied"]
    found: list[str] = state["multiplied"]
    return found


def test_what_was_multiplied_is_kept() -> None:
    assert made_of(F32, "float32") == made_of(BF16, "float32") == ["float32"]
    assert made_of(F64, "auto") == ["float64"]
    assert made_of(BF16, "bfloat16") == ["bfloat16"]
    assert made_of(F32, "bfloat16") == made_of(F16, "bfloat16") == ["parts"]


def test_what_cannot_have_been_multiplied_is_refused() -> None:
    sums = uf.AllPairsCorrelation({"x": 2}, {"x": 2})
    sums.update(torch.eye(2), torch.eye(2))
    state = sums.saved_state()
    for wrong in (["float8"], "float32", [1], None):
        with pytest.raises(uf.InputError, match="multiplied"):
            sums.load_saved({**state, "multiplied": wrong})
    sums.load_saved({name: x for name, x in state.items() if name != "multiplied"})


def test_each_machine_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(units: str | None, core: bool, asked: str) -> list[Form]:
        monkeypatch.setattr(products, "matrix_units", lambda: units)
        monkeypatch.setattr(products.native, "multiplies_bfloat16", lambda: core)
        return forms(asked, CPU)

    every = (BF16, F16, F32)
    for units in ("amx", "arm", None):
        for core in (True, False):
            assert on(units, core, "float32") == []
    assert on(None, True, "auto") == [Form((BF16,), packed=True)]
    assert on(None, True, "bfloat16") == [
        Form((BF16,), packed=True),
        Form((F16, F32), parts=True),
    ]
    assert on(None, False, "auto") == []
    assert on(None, False, "bfloat16") == [Form(every, parts=True)]
    assert on("amx", True, "auto") == [Form(every, parts=True)]
    assert on("arm", False, "auto") == [Form((BF16,), parts=True)]


def test_parts_add_up_exactly() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 70, generator=g)
    for dtype, count in ((BF16, 1), (F16, 2), (F32, 3)):
        number = x.to(dtype).float()
        found = products.split(number, [torch.empty_like(x) for _ in range(count)])
        assert all(torch.equal(part.bfloat16().float(), part) for part in found)
        assert torch.equal(sum(part.double() for part in found), number.double())
        assert products.parts_of(dtype) == count


def test_units_of_other_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("cpu") / "cpuinfo"
    monkeypatch.setattr(matrix_units, "_CPU", file)
    monkeypatch.setattr(matrix_units.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for text, expected in (
        ("Features\t: fp asimd bf16 i8mm\n", "arm"),
        ("Features\t: fp asimd\nCPU part\t: bf16\n", None),
    ):
        file.write_text(text)
        assert matrix_units.matrix_units.__wrapped__() == expected
    file.unlink()
    assert matrix_units.matrix_units.__wrapped__() is None
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert matrix_units.matrix_units.__wrapped__() == "amx"


def test_how_exact_products_are_on_each_device() -> None:
    def largest_error(where: str, *names: str) -> float:
        return method_of([names], torch.device(where))["largest_error"]

    assert largest_error("cpu", "bfloat16") == largest_error("cuda", "float32") == 2e-5
    assert largest_error("cuda", "bfloat16", "float64") == largest_error("cuda", "float16") == 4e-5
    assert largest_error("cuda", "tf32", "bfloat16") == 1e-3
    assert largest_error("cpu", "float64") == 1e-7
