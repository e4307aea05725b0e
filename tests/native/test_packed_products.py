"""Products of bfloat16 by the core, where the processor has instructions for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.processes import printed, python
from univfast import native

needs_instructions = pytest.mark.skipif(
    not native.multiplies_bfloat16(), reason="this processor has no instructions for bfloat16"
)


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Of which every sum is exact in float32."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=g).bfloat16()


def packed(x: Tensor, scale: float = 1.0, cut: int = 0) -> native.Packed:
    """All neurons, in two parts that meet at ``cut``; the memory held something before."""
    tokens, neurons = x.shape
    data = torch.full((native.packed_size(tokens, neurons),), -1, dtype=torch.int32)
    whole = native.Packed(data, tokens, neurons)
    for first, part in ((0, x[:, :cut]), (cut, x[:, cut:])):
        if part.shape[1]:
            scales = torch.full((part.shape[1],), scale)
            native.pack(part, scales, whole.at(first), threads=2)
    return whole


def added(x: native.Packed, y: native.Packed, shape: tuple[int, int], threads: int = 1) -> Tensor:
    c = torch.zeros(shape, dtype=torch.float64)
    ones = torch.ones(shape[0]).double(), torch.ones(shape[1]).double()
    nothing = torch.zeros(shape[0]).double(), torch.zeros(shape[1]).double()
    native.add_packed_product(c, x, y, ones, nothing, threads)
    return c


@needs_instructions
@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "first", "cut"),
    [
        (1, 1, 1, (0, 0), 0),
        (2, 1, 5, (0, 0), 1),
        (255, 48, 49, (0, 0), 20),
        (256, 96, 48, (48, 96), 48),
        (257, 97, 1537, (3, 50), 30),
        (1030, 20, 3100, (47, 1), 47),
    ],
)
def test_products_are_exact(
    tokens: int, rows: int, columns: int, first: tuple[int, int], cut: int
) -> None:
    x = whole_numbers(tokens, first[0] + rows)
    y = whole_numbers(tokens, first[1] + columns, seed=1)
    exact = x[:, first[0] :].double().T @ y[:, first[1] :].double()
    for threads in (1, 3):
        c = added(packed(x, cut=cut).at(first[0]), packed(y).at(first[1]), (rows, columns), threads)
        assert torch.equal(c, exact)


@needs_instructions
def test_scales_and_deltas() -> None:
    x, y = whole_numbers(70, 60), whole_numbers(70, 100, seed=1)
    g = torch.Generator().manual_seed(2)
    c, scales, deltas = (
        torch.randn(60, 100, generator=g).double(),
        [torch.randn(n, generator=g).double() for n in (60, 100)],
        [torch.randn(2, n, generator=g).double() for n in (60, 100)],
    )
    product = x.double().T @ y.double() * 2.0
    expected = c + product * scales[0][:, None] * scales[1] + deltas[0].T @ deltas[1]
    native.add_packed_product(
        c, packed(x, scale=2.0), packed(y), (scales[0], scales[1]), (deltas[0], deltas[1]), 1
    )
    torch.testing.assert_close(c, expected, rtol=1e-13, atol=1e-12)


@needs_instructions
def test_scales_round_nothing() -> None:
    x = torch.tensor([[1.0078125e-30, -3.0], [2.0, 1.5e30]]).bfloat16()
    scales = torch.tensor([2.0**100, 2.0**-100])
    whole = native.Packed(torch.empty(native.packed_size(2, 2), dtype=torch.int32), 2, 2)
    native.pack(x, scales, whole, threads=1)
    bits = whole.data[:2]
    low = (bits << 16).view(torch.float32)
    high = (bits & -65536).view(torch.float32)
    assert torch.equal(torch.stack([low, high]), x.float() * scales)


@needs_instructions
def test_what_is_not_there_is_refused() -> None:
    x = packed(whole_numbers(10, 50))
    with pytest.raises(ValueError, match="not there"):
        added(x.at(3), x, (48, 50))
    with pytest.raises(ValueError, match="10 and 9 tokens"):
        added(x, packed(whole_numbers(9, 50)), (50, 50))
    with pytest.raises(ValueError, match="9 tokens, expected 10"):
        native.pack(whole_numbers(9, 50), torch.ones(50), x, threads=1)


LESS = """
import torch
from univfast import native
assert not native.multiplies_bfloat16()
whole = native.Packed(torch.empty(native.packed_size(2, 2), dtype=torch.int32), 2, 2)
try:
    native.pack(torch.ones(2, 2).bfloat16(), torch.ones(2), whole, 1)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_level_without_the_instructions_says_so() -> None:
    level = native.simd_levels()[0]
    assert "no products" in printed(python(LESS, UNIVFAST_SIMD=level))
