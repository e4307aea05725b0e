"""The package on a CUDA device, the CPU in its place: the kernels' own source, run by a shim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, DTYPES, F16, F32, F64, name_of
from support.parity import activations, assert_parity, hard_cases, make_case
from univfast.cli import main
from univfast.machine import devices
from univfast.sums import co_moments, products

pytestmark = pytest.mark.slow

HARD = (
    "offset 1e4 sd",
    "scales 1e-18 and 1e18",
    "a scale for each neuron",
    "huge at the start of sequences",
    "one neuron of 1e3 sd",
    "nearly one factor",
    "constants beside scale 1e-15",
    "opposite",
)

# ---- by index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("neurons", [1, 2, 7, 33, 64, 100, 257, 512, 701])
def test_dtypes_and_widths(dtype: torch.dtype, neurons: int, cuda_on_cpu: None) -> None:
    for tokens in (1, 2, 17, 130) if neurons < 300 else (40,):
        a, b = activations(tokens, neurons)
        assert_parity(
            uf.PairedCorrelation, make_case(f"{tokens} tokens", a, b, F64).to(dtype, dtype)
        )


@pytest.mark.parametrize("neurons", [1344, 3072, 3073, 5120])
def test_wide_layers(neurons: int, cuda_on_cpu: None) -> None:
    a, b = activations(20, neurons)
    assert_parity(uf.PairedCorrelation, make_case("wide", a, b, F32, draws=3))


@pytest.mark.parametrize("dtypes", [(F32, BF16), (F16, BF16), (F64, F16)], ids=name_of)
def test_mixed_dtypes(dtypes: tuple[torch.dtype, torch.dtype], cuda_on_cpu: None) -> None:
    a, b = activations(50, 40)
    assert_parity(uf.PairedCorrelation, make_case("mixed", a, b, F64).to(*dtypes))


@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name: str, cuda_on_cpu: None) -> None:
    assert_parity(uf.PairedCorrelation, hard_cases(F32)[name])


@pytest.mark.parametrize("rotation", ["haar", "gaussian", "none"])
def test_other_rotations(rotation: str, cuda_on_cpu: None) -> None:
    a, b = activations(60, 40)
    assert_parity(uf.PairedCorrelation, make_case(rotation, a, b, F32, rotation=rotation))


def batches() -> tuple[Tensor, Tensor]:
    a, b = (torch.from_numpy(x).float() for x in activations(300, 70))
    return a, b


def on_the_cpu(a: Tensor, b: Tensor, mask: Tensor | None = None) -> uf.PairedCorrelation:
    accumulator = uf.PairedCorrelation(a.shape[-1], draws=2)
    accumulator.update(a, b, mask=mask)
    return accumulator


def assert_same(got: uf.PairedCorrelation, expected: uf.PairedCorrelation) -> None:
    one, other = got.correlations(), expected.correlations()
    assert one.tokens == other.tokens
    torch.testing.assert_close(one.correlation, other.correlation, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.rotated, other.rotated, atol=1e-6, rtol=0)


def test_masks_batches_and_layouts(request: pytest.FixtureRequest) -> None:
    a, b = batches()
    mask = torch.arange(300) % 7 != 0
    mask[40:60] = False
    expected = on_the_cpu(a, b, mask)
    request.getfixturevalue("cuda_on_cpu")
    wide = torch.zeros(300, 93)
    wide[:, 13:83] = b
    for x, y in ((a, b), (a.T.contiguous().T, wide[:, 13:83])):
        accumulator = uf.PairedCorrelation(70, draws=2)
        for part in (slice(0, 0), slice(0, 1), slice(1, 50), slice(50, 55), slice(55, 300)):
            accumulator.update(x[part], y[part], mask=mask[part])
        assert_same(accumulator, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_bad_values_are_raised_once_and_left_out(
    bad: float, dtype: torch.dtype, cuda_on_cpu: None
) -> None:
    a, b = (x.to(dtype) for x in batches())
    accumulator = uf.PairedCorrelation(70, draws=2)
    accumulator.update(a, b)
    before = accumulator.state_dict()["moments"]
    x, y = a.clone(), b.clone()
    y[5, 9] = x[7, 3] = bad
    accumulator.update(x[3:], y[3:])
    accumulator.update(x[7:], y[7:])  # not the first
    where = rf"b: layer 'activations' has {bad!r} at token 2, neuron 9"
    with pytest.raises(uf.InputError, match=where):
        accumulator.compute()
    assert accumulator.tokens == 300
    assert torch.equal(accumulator.state_dict()["moments"], before)
    y[5, 9] = 0
    mask = torch.arange(300) != 7
    accumulator.update(x, y, mask=mask)
    assert accumulator.compute().summary["tokens"] == 599


def test_values_that_no_square_can_hold(cuda_on_cpu: None) -> None:
    a, b = (x.double() for x in batches())
    a[4, 6] = 1e200
    accumulator = uf.PairedCorrelation(70, draws=1)
    accumulator.update(a, b)
    with pytest.raises(uf.InputError, match=r"1e\+200 at token 4, neuron 6, too large to square"):
        accumulator.correlations()


def test_states_merge_and_move(request: pytest.FixtureRequest) -> None:
    a, b = batches()
    expected, first = on_the_cpu(a, b), on_the_cpu(a[:100], b[:100])
    request.getfixturevalue("cuda_on_cpu")
    second = uf.PairedCorrelation(70, draws=2)
    second.update(a[100:], b[100:])
    merged = uf.PairedCorrelation(70, draws=2)
    merged.merge(first)
    merged.merge(second)
    assert_same(merged, expected)
    loaded = uf.PairedCorrelation(70, draws=2)
    loaded.load_state_dict(first.state_dict())
    loaded.update(a[100:], b[100:])
    assert_same(loaded, expected)
    loaded.reset()
    assert loaded.tokens == 0


def test_states_of_processes_are_added(cuda_on_cpu: None) -> None:
    a, b = batches()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        pairs = uf.PairedCorrelation(70, draws=2)
        pairs.update(a, b)
        pairs.reduce()
        all_pairs = uf.AllPairsCorrelation({"x": 70}, {"y": 70}, draws=2)
        all_pairs.update({"x": a}, {"y": b})
        expected = all_pairs.compute()
        all_pairs.all_reduce()
        assert_same(pairs, on_the_cpu(a, b))
        assert torch.equal(all_pairs.compute().correlation, expected.correlation)
        a[3, 4] = torch.nan
        pairs.update(a, b)
        with pytest.raises(uf.InputError, match=r"process 0: a: layer .* nan at token 3, neuron 4"):
            pairs.all_reduce()
    finally:
        dist.destroy_process_group()


def test_inputs_are_not_written_to(cuda_on_cpu: None) -> None:
    for dtype in DTYPES:
        a, b = (x.to(dtype) for x in batches())
        kept = a.clone(), b.clone()
        on_the_cpu(a, b)
        uf.AllPairsCorrelation({"x": 70}, {"y": 70}, draws=1).update({"x": a}, {"y": b})
        assert torch.equal(a, kept[0])
        assert torch.equal(b, kept[1])


# ---- all pairs ----------------------------------------------------------------------------------


def models(dtype: torch.dtype, offset: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(1)
    shared = torch.randn(200, 6, generator=g)

    def layer(width: int) -> Tensor:
        x = shared @ torch.randn(6, width, generator=g) + torch.randn(200, width, generator=g)
        return (x + offset).to(dtype)

    return {"a.0": layer(40), "a.1": layer(70)}, {"b.0": layer(64), "b.1": layer(33)}


@pytest.mark.parametrize("match", ["best", "one-to-one"])
@pytest.mark.parametrize("rotation", ["hadamard", "gaussian", "none"])
@pytest.mark.parametrize(("dtype", "offset"), [(F64, 1.0), (F32, 1.0), (BF16, 1.0), (F16, 9.0)])
def test_all_pairs(
    dtype: torch.dtype,
    offset: float,
    rotation: str,
    match: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    a, b = models(dtype, offset)

    def result() -> uf.CorrelationResult:
        accumulator = uf.AllPairsCorrelation(
            {name: x.shape[1] for name, x in a.items()},
            {name: x.shape[1] for name, x in b.items()},
            rotation=rotation,
            draws=3,
            top_k=4,
            reverse=True,
        )
        for part in (slice(0, 90), slice(90, 91), slice(91, 200)):
            accumulator.update(*({n: x[part] for n, x in side.items()} for side in (a, b)))
        return accumulator.compute(match)

    expected = result()
    monkeypatch.setattr(co_moments, "_CUDA_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_CUDA_TILE_BYTES", 8 * 64 * 40)
    request.getfixturevalue("cuda_on_cpu")
    got = result()
    limit = 1e-12 if dtype == F64 else 2e-6
    assert got.reverse is not None
    assert expected.reverse is not None
    for one, other in ((got, expected), (got.reverse, expected.reverse)):
        for name in ("correlation", "baseline"):  # NaN where a neuron is left over, or not rotated
            x, y = getattr(one, name), getattr(other, name)
            torch.testing.assert_close(x, y, atol=limit, rtol=0, equal_nan=True)
        assert one.match_layer == other.match_layer
        assert torch.equal(one.match_neuron, other.match_neuron)


@pytest.mark.parametrize("draws", [1, 40])
def test_a_model_with_itself(draws: int, request: pytest.FixtureRequest) -> None:
    a, _ = models(F32, 0.5)

    def result() -> uf.CorrelationResult:
        widths = {name: x.shape[1] for name, x in a.items()}
        accumulator = uf.AllPairsCorrelation(widths, widths, draws=draws, exclude_self=True)
        accumulator.update(a, a)
        return accumulator.compute()

    expected = result()
    request.getfixturevalue("cuda_on_cpu")
    got = result()
    torch.testing.assert_close(got.correlation, expected.correlation, atol=2e-6, rtol=0)
    torch.testing.assert_close(got.baseline, expected.baseline, atol=2e-6, rtol=0)


def test_layers_of_16_bits_are_multiplied_as_they_are(
    monkeypatch: pytest.MonkeyPatch, cuda_on_cpu: None
) -> None:
    multiplied: list[torch.dtype] = []
    real = products.multiply

    def spy(x: Tensor, y: Tensor, product: Tensor, precision: str) -> None:
        multiplied.append(x.dtype)
        real(x, y, product, precision)

    monkeypatch.setattr(products, "multiply", spy)
    for offset, expected in ((1.0, BF16), (9.0, F32)):
        multiplied.clear()
        a, b = models(BF16, offset)
        accumulator = uf.AllPairsCorrelation({"a.0": 40}, {"b.0": 64}, draws=1)
        accumulator.update({"a.0": a["a.0"]}, {"b.0": b["b.0"]})
        accumulator.compute()
        assert set(multiplied) == {expected}


# ---- files and the command line -----------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("match", ["index", "best"])
def test_files(match: str, masked: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    a, b = batches()
    mask = torch.arange(len(a)) % 3 > 0 if masked else None
    torch.save({"x": a}, tmp_path / "a.pt")
    torch.save({"x": b}, tmp_path / "b.pt")
    files = tmp_path / "a.pt", tmp_path / "b.pt"
    expected = uf.correlate(*files, match=match, draws=2, mask=mask)
    request.getfixturevalue("cuda_on_cpu")
    got = uf.correlate(*files, match=match, draws=2, mask=mask)
    assert got.summary["tokens"] == expected.summary["tokens"]
    torch.testing.assert_close(got.correlation, expected.correlation, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.baseline, expected.baseline, atol=1e-6, rtol=0)


@pytest.mark.skipif(not devices.unavailable(), reason="a CUDA device can be used")
def test_without_a_device_the_error_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(batches()[0], tmp_path / "a.pt")
    file = str(tmp_path / "a.pt")
    assert main(["correlate", file, file, "--device", "cuda"]) == 2
    line = capsys.readouterr().err.strip()
    assert (
        line == f"Error: --device: 'cuda' cannot be used: {devices.unavailable()}; use --device cpu"
    )
    assert main(["correlate", file, file, "--device", "auto", "--quiet"]) == 0
