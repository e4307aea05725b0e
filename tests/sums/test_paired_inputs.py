"""Layouts, masks and bad input of the streaming accumulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.dtypes import DTYPES, F16, F32, F64
from support.layouts import LAYOUTS, NUMPY_LAYOUTS
from support.parity import accumulated, activations, assert_parity, bits, make_case, same_bits
from univfast.errors import InputError

# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_right(layout: str, dtype: torch.dtype) -> None:
    a, b = (torch.from_numpy(v).to(dtype) for v in activations(600, 67))
    acc, plain = (uf.PairedCorrelation(67, draws=2) for _ in range(2))
    arrange = LAYOUTS[layout]
    x, y = arrange(a), arrange(b)
    before = x.detach().clone(), y.detach().clone()
    acc.update(x, y)
    plain.update(x.detach().reshape(-1, 67).contiguous(), y.detach().reshape(-1, 67).contiguous())
    assert same_bits(acc, plain)
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(y.detach(), before[1])
    if "swapped" not in layout:
        other = uf.PairedCorrelation(67, draws=2)
        other.update(a, b)
        assert same_bits(acc, other)
        # Each input's layout is its own.
        mixed = uf.PairedCorrelation(67, draws=2)
        mixed.update(x.reshape(a.shape), b)
        assert same_bits(mixed, other)


@pytest.mark.parametrize("layout", NUMPY_LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_layouts_are_read_right(layout: str, dtype: type) -> None:
    a, b = (v.astype(dtype) for v in activations(600, 67))
    acc, plain = (uf.PairedCorrelation(67, draws=2) for _ in range(2))
    x, y = NUMPY_LAYOUTS[layout](a), NUMPY_LAYOUTS[layout](b)
    x.flags.writeable = y.flags.writeable = False
    acc.update(x, y)
    plain.update(torch.from_numpy(a), torch.from_numpy(b))
    assert same_bits(acc, plain)


def test_expanded_tokens() -> None:
    a, b = (torch.from_numpy(v).float() for v in activations(3, 65))
    acc, plain = (uf.PairedCorrelation(65, draws=2) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        acc.update(x.expand(40, 65), y.expand(40, 65))
        plain.update(x.expand(40, 65).contiguous(), y.expand(40, 65).contiguous())
    acc.update(a[:, :1].expand(3, 65), b)
    plain.update(a[:, :1].expand(3, 65).contiguous(), b)
    assert same_bits(acc, plain)


class OnlyDLPack:
    """An array of some other library."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_dlpack() -> None:
    a, b = (torch.from_numpy(v).float() for v in activations(50, 7))
    acc, plain = (uf.PairedCorrelation(7, draws=2) for _ in range(2))
    acc.update(OnlyDLPack(a), OnlyDLPack(b), mask=OnlyDLPack(torch.ones(50, dtype=torch.bool)))
    plain.update(a, b)
    assert same_bits(acc, plain)


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
@pytest.mark.parametrize("dtype", [F64, F32, F16])
def test_a_mask_drops_tokens(dtype: torch.dtype, rotation: str) -> None:
    a, b = activations(1200, 65)
    case = make_case("masked", a, b, dtype, rotation=rotation)
    g = np.random.default_rng(3)
    for share in (0.01, 0.5, 0.99):
        keep = torch.from_numpy(g.random(1200) < share)
        dropped = accumulated(replace(case, a=case.a[keep], b=case.b[keep]))
        assert dropped.tokens == keep.sum()
        assert same_bits(accumulated(case, mask=keep), dropped)

        shaped = uf.PairedCorrelation(65, draws=2, rotation=rotation)
        x, y = case.a.reshape(4, 300, 65), case.b.reshape(4, 300, 65)
        shaped.update(x, y, mask=keep.reshape(4, 300))
        assert same_bits(shaped, dropped)
        shaped.reset()
        shaped.update(x, y, mask=keep.reshape(4, 300).numpy())
        assert same_bits(shaped, dropped)


@pytest.mark.parametrize(
    ("neurons", "options", "error", "message"),
    [
        (0, {}, InputError, "neurons: got 0, expected at least 1"),
        (2**40, {}, InputError, "neurons: the sums of 1099511627776 neurons take .* GB"),
        (True, {}, TypeError, "neurons: expected an integer, got bool"),
        (4, {"layer": 3}, TypeError, "layer: expected a str, got int"),
    ],
)
def test_what_no_accumulator_can_be(
    neurons: int, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        uf.PairedCorrelation(neurons, **options)


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_masked_tokens_are_never_read(rotation: str) -> None:
    a, b = activations(1200, 9)
    case = make_case("masked", a, b, F32, rotation=rotation)
    keep = torch.arange(1200) % 3 > 0
    clean = accumulated(case, mask=keep)
    case.a[~keep], case.b[~keep] = torch.nan, torch.inf
    assert same_bits(accumulated(case, mask=keep), clean)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(20), InputError, "mask: .* float32"),
        (torch.full((20,), 2), InputError, "mask: .* 0 and 1"),
        (torch.ones(19, dtype=torch.bool), InputError, "mask: .* 19 .* 20"),
        (torch.ones(4, 5, 3, dtype=torch.bool), InputError, "mask: "),
        # As many values, but not one a token as the activations have them: misread if flattened.
        (torch.ones(5, 4, dtype=torch.bool), InputError, r"mask: .*\[5, 4\].*\[4, 5\]"),
        ([True] * 20, TypeError, "mask: expected"),
    ],
)
def test_bad_masks(mask: object, error: type[Exception], message: str) -> None:
    acc = uf.PairedCorrelation(3)
    with pytest.raises(error, match=message):
        acc.update(torch.randn(4, 5, 3), torch.randn(4, 5, 3), mask=mask)
    assert acc.tokens == 0


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.ones(4, 3), torch.ones(5, 3), InputError, r"a and b: shapes differ, \[4, 3\] and"),
        (torch.ones(4, 2), torch.ones(4, 2), InputError, r"expected \[..., 3\]"),
        (torch.ones(()), torch.ones(()), InputError, r"expected \[..., 3\]"),
        (torch.ones(4, 3).int(), torch.ones(4, 3), InputError, "a has dtype int32"),
        (
            torch.ones(4, 3),
            torch.ones(4, 3, dtype=torch.complex64),
            InputError,
            "b has dtype compl",
        ),
        (torch.ones(4, 3), "b.pt", TypeError, "b: expected"),
        ([[1.0] * 3], torch.ones(1, 3), TypeError, "a: expected"),
        (torch.ones(4, 3).to_sparse(), torch.ones(4, 3), InputError, "a: is a sparse"),
    ],
)
def test_bad_activations(a: Any, b: Any, error: type[Exception], message: str) -> None:
    acc = uf.PairedCorrelation(3)
    with pytest.raises(error, match=message):
        acc.update(a, b)
    assert acc.tokens == 0


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "gaussian", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("which", "token", "neuron"), [("a", 0, 0), ("b", 777, 66), ("b", 1400, 3)]
)
def test_bad_values_are_named(
    which: str, token: int, neuron: int, value: float, dtype: torch.dtype, rotation: str
) -> None:
    a, b = activations(1401, 67)
    case = make_case("bad", a, b, dtype, rotation=rotation)
    acc = accumulated(case)
    before = acc.state_dict()
    bad = case.a if which == "a" else case.b
    bad[token, neuron] = value
    bad[token + 1 :, 1] = value  # later ones are not named
    where = f"^{which}: layer 'activations' has {value!r} at token {token}, neuron {neuron};"
    with pytest.raises(InputError, match=where) as error:
        acc.update(case.a, case.b)
    assert "\n" not in str(error.value)
    # A mask shifts which rows are read, not the token's number.
    keep = torch.ones(1401, dtype=torch.bool)
    keep[:token:2] = False
    with pytest.raises(InputError, match=where):
        acc.update(case.a, case.b, mask=keep)
    assert acc.tokens == 1401
    assert bits(acc.state_dict()["moments"]) == bits(before["moments"])


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_the_first_bad_value_is_named_for_any_threads(rotation: str) -> None:
    a, b = activations(6000, 5)
    case = make_case("bad", a, b, F32, rotation=rotation)
    case.b[2000, 4], case.a[5999, 0] = torch.nan, torch.nan
    for threads in (1, 2, 3, 7):
        with pytest.raises(InputError, match=r"^b: .* at token 2000, neuron 4"):
            accumulated(case, threads=threads)


@pytest.mark.parametrize("rotation", ["hadamard", "haar", "none"])
def test_values_too_large_to_square(rotation: str) -> None:
    a, b = activations(600, 5)
    a[599, 3] = 1e200
    acc = uf.PairedCorrelation(5, rotation=rotation)
    with pytest.raises(InputError, match=r"a: .* has 1e\+200 at token 599, neuron 3, too large"):
        acc.update(a, b)
    assert acc.tokens == 0


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_float32_near_its_end_is_no_error(rotation: str) -> None:
    a, b = activations(700, 65)
    case = make_case("3e38", np.clip(a, -3, 3) * 1e38, np.clip(b, -3, 3) * 1e38, F32)
    assert_parity(uf.PairedCorrelation, replace(case, rotation=rotation))
