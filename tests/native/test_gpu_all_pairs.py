"""All pairs on a CUDA device: as on the CPU.

Expected is what the CPU makes of the same values in float64, which its own tests hold to 1e-12.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, DTYPES, F16, F32, F64, name_of
from support.on_device import DEVICE, LIMITS, TF32_LIMIT, assert_same, sleep
from support.pairs import MATCHES, ROTATIONS, Layers, accumulator_of, low_rank, models
from support.parity import bits, hard_cases
from univfast.bench.data import correlated
from univfast.errors import InputError

pytestmark = pytest.mark.gpu


def cast(layers: Layers, dtype: torch.dtype | None = None, device: str | None = None) -> Layers:
    return {name: x.to(device=device, dtype=dtype) for name, x in layers.items()}


def expected_of(
    a: Layers, b: Layers, match: str = "best", mask: Tensor | None = None, **options: Any
) -> uf.CorrelationResult:
    accumulator = accumulator_of(a, b, **options)
    accumulator.update(cast(a, F64, "cpu"), cast(b, F64, "cpu"), mask=mask)
    return accumulator.compute(match)


def found_of(
    a: Layers, b: Layers, match: str = "best", mask: Tensor | None = None, **options: Any
) -> uf.CorrelationResult:
    accumulator = accumulator_of(a, b, device=DEVICE, **options)
    accumulator.update(cast(a, device=DEVICE), cast(b, device=DEVICE), mask=mask)
    return accumulator.compute(match)


# ---- against the CPU ----------------------------------------------------------------------------


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("rotation", [*ROTATIONS, "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_matching_rotation_and_dtype(match: str, rotation: str, dtype: torch.dtype) -> None:
    a, b = models(300, (40, 7), (33, 64, 5), dtype)
    options = {"rotation": rotation, "draws": 2, "seed": 3, "top_k": 12, "reverse": True}
    got, expected = (f(a, b, match, **options) for f in (found_of, expected_of))
    assert_same(got, expected, LIMITS[dtype])


@pytest.mark.parametrize(
    ("widths_a", "widths_b"),
    [((1,), (1,)), ((64,), (64,)), ((65, 63), (130,)), ((257,), (96, 9)), ((3, 4, 5), (6, 5))],
    ids=str,
)
@pytest.mark.parametrize("tokens", [3, 64, 700])
def test_shapes(widths_a: tuple[int, ...], widths_b: tuple[int, ...], tokens: int) -> None:
    a, b = models(tokens, widths_a, widths_b)
    options = {"draws": 2, "reverse": True, "top_k": 5}
    # r of three tokens is 1 within rounding for many pairs.
    limit = 1e-12 if tokens > 3 else 1e-9
    assert_same(found_of(a, b, **options), expected_of(a, b, **options), limit)


WITHIN = pytest.mark.parametrize("draws", [2, 40], ids=["rotated as they come", "within"])


@WITHIN
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_batches_across_products(dtype: torch.dtype, draws: int) -> None:
    """Of more tokens than a product takes, cut anyhow."""
    a, b = models(36_000, (256, 320), (330, 500), dtype)
    accumulator = accumulator_of(a, b, draws=draws, device=DEVICE, reverse=True)
    for first, last in pairwise((0, 1, 1, 17_000, 35_000, 36_000)):
        x, y = ({n: v[first:last].to(DEVICE) for n, v in side.items()} for side in (a, b))
        accumulator.update(x, y)
    assert accumulator.tokens == 36_000
    expected = expected_of(a, b, draws=draws, reverse=True)
    assert_same(accumulator.compute(), expected, LIMITS[dtype])


@WITHIN
@pytest.mark.parametrize("dtype", [F16, BF16], ids=name_of)
def test_half_precision_as_it_is(dtype: torch.dtype, draws: int) -> None:
    """Means within two standard deviations, as the matrix units may have them unstandardised."""
    a, b = (
        {f"{name}{i}": x.to(dtype).contiguous() for i, x in enumerate(side.split((512, 320), 1))}
        for name, side in zip("ab", correlated(20_000, 832), strict=True)
    )
    options = {"draws": draws, "reverse": True}
    assert_same(found_of(a, b, **options), expected_of(a, b, **options), LIMITS[dtype])


@pytest.mark.parametrize("dtype", [F32, BF16], ids=name_of)
def test_a_layer_of_3072(dtype: torch.dtype) -> None:
    a, b = models(5000, (3072,), (3072,), dtype)
    options = {"draws": 10, "top_k": 3}
    assert_same(found_of(a, b, **options), expected_of(a, b, **options), LIMITS[dtype])


@pytest.mark.parametrize("dtype", [F32, F64], ids=name_of)
@pytest.mark.parametrize("name", [n for n in hard_cases(F32) if "one batch" not in n])
def test_hard_cases(name: str, dtype: torch.dtype) -> None:
    case = hard_cases(dtype)[name]
    accumulator = uf.AllPairsCorrelation(
        {"x": 96}, {"y": 96}, draws=2, top_k=96, reverse=True, device=DEVICE
    )
    for x, y in case.split():
        accumulator.update(x.to(DEVICE), y.to(DEVICE))
    a, b = {"x": case.a}, {"y": case.b}
    expected = expected_of(a, b, draws=2, top_k=96, reverse=True)
    # A constant that float32 adds over and over is rounded the same way each time.
    constant = dtype == F32 and name == "active at the start of sequences"
    assert_same(accumulator.compute(), expected, 3e-5 if constant else LIMITS[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_layers_of_low_rank(rank: int, rotation: str) -> None:
    a, b = low_rank(rank)
    options = {"draws": 6, "rotation": rotation, "top_k": 300}
    assert_same(found_of(a, b, **options), expected_of(a, b, **options), 1e-5)


@pytest.mark.parametrize("dtypes", [(F32, BF16), (BF16, F16), (F64, F32), (F16, F64)], ids=name_of)
def test_dtypes_may_differ_from_layer_to_layer(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    a, b = models(600, (20, 300), (250, 15, 20))
    a["a1"], b["b0"], b["b1"] = a["a1"].to(dtypes[0]), b["b0"].to(dtypes[1]), b["b1"].to(F32)
    options = {"draws": 2, "top_k": 60}
    assert_same(found_of(a, b, **options), expected_of(a, b, **options), 5e-5)


def test_precision() -> None:
    a, b = models(5000, (512,), (768,), F32)
    expected = expected_of(a, b, draws=2)
    exact = found_of(a, b, draws=2, precision="float32")
    rounded = found_of(a, b, draws=2, precision="tf32")
    assert_same(exact, expected, 1e-5)
    assert_same(rounded, expected, TF32_LIMIT)
    assert (exact.correlation - rounded.correlation).nan_to_num().any()
    with pytest.raises(InputError, match=r"^precision: "):
        accumulator_of(a, b, device=DEVICE, precision="float8")


@pytest.mark.slow
@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("dtype", [F64, F32], ids=name_of)
def test_a_model_with_itself(dtype: torch.dtype, match: str) -> None:
    a, _ = models(600, (30, 320), (5,), dtype)
    a["a1"][:, 5] = a["a0"][:, 3] * 2 + 1  # a duplicate
    options = {"draws": 2, "exclude_self": True, "top_k": 4}
    got, expected = (f(a, a, match, **options) for f in (found_of, expected_of))
    assert_same(got, expected, LIMITS[dtype])
    assert (got.match_layer[3], int(got.match_neuron[3])) == ("a1", 5)


# ---- how batches come ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cpu", DEVICE])
def test_masks(place: str) -> None:
    a, b = models(900, (40, 320), (33, 64), F32)
    keep = torch.rand(900, generator=torch.Generator().manual_seed(0)) < 0.7
    expected = expected_of(a, b, mask=keep, draws=2)
    for layers in (a, b):
        for x in layers.values():
            x[~keep] = torch.nan
    assert_same(found_of(a, b, mask=keep.to(place), draws=2), expected, 1e-5)


def test_batches_from_the_cpu_and_in_other_layouts() -> None:
    a, b = models(9000, (40, 320), (33, 64), F32)
    expected = expected_of(a, b, draws=2)
    accumulator = accumulator_of(a, b, draws=2, device=DEVICE)
    layouts = (
        lambda x: x,
        lambda x: x.to(DEVICE),
        lambda x: x.to(DEVICE).T.contiguous().T,
        lambda x: torch.nn.functional.pad(x.to(DEVICE), (1, 2), value=torch.nan)[:, 1:-2],
        lambda x: x.view(5, -1, x.shape[1]),
    )
    for i, layout in enumerate(layouts):
        part = slice(i * 1800, (i + 1) * 1800)
        accumulator.update(*({n: layout(x[part]) for n, x in side.items()} for side in (a, b)))
    assert_same(accumulator.compute(), expected, 1e-5)


def test_batches_on_a_stream_of_their_own() -> None:
    a, b = (cast(side, F32, DEVICE) for side in models(9000, (40, 320), (33, 64)))
    x, y = ({n: torch.full_like(v, torch.nan) for n, v in side.items()} for side in (a, b))
    accumulator = accumulator_of(a, b, draws=2, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        sleep()
        for source, target in ((a, x), (b, y)):
            for name, values in source.items():
                target[name].copy_(values)
        accumulator.update(x, y)
        for values in (*x.values(), *y.values()):
            values.fill_(torch.nan)
        found = accumulator.compute()
    assert_same(found, expected_of(a, b, draws=2), 1e-5)


@pytest.mark.parametrize("tokens", [300, 6000])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=name_of)
def test_a_bad_value_is_named_and_its_batch_left_out(dtype: torch.dtype, tokens: int) -> None:
    good, more, spoilt = (models(tokens, (40, 7), (33, 64), dtype, seed) for seed in range(3))
    spoilt[1]["b1"][tokens - 2, 29] = np.inf
    spoilt[1]["b1"][tokens - 1, 3] = np.nan
    accumulator, other = (accumulator_of(*good, draws=2, device=DEVICE) for _ in range(2))
    for batch in (good, more):
        other.update(*(cast(side, device=DEVICE) for side in batch))
    where = rf"b: layer 'b1' has inf at token {tokens - 2}, neuron 29;"

    def given(batch: tuple[Layers, Layers]) -> uf.CorrelationResult:
        accumulator.update(*(cast(side, device=DEVICE) for side in batch))
        return accumulator.compute()

    with pytest.raises(InputError, match=where):
        given(spoilt)
    accumulator.reset()
    given(good)
    with pytest.raises(InputError, match="neuron 29"):
        given(spoilt)
    given(more)
    assert accumulator.tokens == 2 * tokens
    assert_same(accumulator.compute(), other.compute(), LIMITS[dtype])


def test_the_same_call_gives_the_same_bits() -> None:
    a, b = (cast(side, F32, DEVICE) for side in models(9000, (512, 320), (768, 100)))
    first, again = (found_of(a, b, draws=3) for _ in range(2))
    for name in ("correlation", "baseline", "top_correlation", "null_excess"):
        assert bits(getattr(first, name)) == bits(getattr(again, name))


# ---- merges and saved states --------------------------------------------------------------------

DEVICES = [("cpu", DEVICE), (DEVICE, "cpu"), (DEVICE, DEVICE)]


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("devices", DEVICES, ids=str)
def test_merge(devices: tuple[str, str], rotation: str) -> None:
    a, b = models(5000, (40, 320), (33, 64))
    parts = []
    for device, part in zip(devices, (slice(0, 800), slice(800, None)), strict=True):
        accumulator = accumulator_of(a, b, draws=2, rotation=rotation, device=device)
        accumulator.update(*({n: x[part].to(device) for n, x in s.items()} for s in (a, b)))
        parts.append(accumulator)
    parts[0].merge(parts[1])
    assert_same(parts[0].compute(), expected_of(a, b, draws=2, rotation=rotation), 1e-12)


@pytest.mark.parametrize("devices", DEVICES, ids=str)
def test_state_goes_through_a_file(tmp_path: Path, devices: tuple[str, str]) -> None:
    a, b = models(900, (40, 320), (33, 64))
    first, resumed = (accumulator_of(a, b, draws=2, device=device) for device in devices)
    first.update(*({n: x[:400].to(devices[0]) for n, x in side.items()} for side in (a, b)))
    state = first.state_dict()
    assert all(x.device.type == "cpu" for x in state["moments"].values())
    torch.save(state, tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.update(*({n: x[400:].to(devices[1]) for n, x in side.items()} for side in (a, b)))
    assert_same(resumed.compute(), expected_of(a, b, draws=2), 1e-12)
