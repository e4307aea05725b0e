"""What the tests on a CUDA device share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import univfast as uf
from support.dtypes import BF16, F16, F32, F64
from support.parity import Measured, assert_close

DEVICE = "cuda"

# Of r. float16 and bfloat16 go to the matrix units as they are, unstandardised, so that a mean of a
# few standard deviations costs a digit.
LIMITS = {F64: 1e-12, F32: 1e-5, F16: 5e-5, BF16: 5e-5}
# tf32 cuts each factor to 11 bits: at most 2 * 2^-10 of r, where all are cut the same way.
TF32_LIMIT = 2e-3

# Of the device's clock, which runs at 1 to 2 GHz: about half a second.
_SLEEP = 1_000_000_000


class OnDevice:
    """`PairedCorrelation` on the device, of batches that lie there: a `parity.Factory`."""

    def __init__(self, neurons: int, **options: Any) -> None:
        self.accumulator = uf.PairedCorrelation(neurons, device=DEVICE, **options)

    def update(self, a: Tensor, b: Tensor) -> None:
        self.accumulator.update(a.to(DEVICE), b.to(DEVICE))

    def correlations(self) -> Measured:
        return self.accumulator.correlations()


def streaming(neurons: int, **options: Any) -> uf.PairedCorrelation:
    """The same, of batches that lie on the CPU: a `parity.Factory`."""
    return uf.PairedCorrelation(neurons, device=DEVICE, **options)


def assert_as_in_float64(got: Measured, a: Tensor, b: Tensor, limit: float, **options: Any) -> None:
    """Compared with what the CPU makes of the same values in float64.

    For sizes at which the reference would take too long; other tests hold the CPU to 1e-12.
    """
    exact = uf.PairedCorrelation(a.shape[-1], **options)
    exact.update(a.cpu().double(), b.cpu().double())
    r = exact.correlations()
    assert_close(got.correlation, r.correlation.numpy(), limit, "r")
    assert_close(got.rotated, r.rotated.numpy(), limit, "rotated r")
    assert_close(got.shifted, r.shifted.numpy(), limit, "r with wrong partners")


def assert_same(got: uf.CorrelationResult, expected: uf.CorrelationResult, limit: float) -> None:
    """r with all partners, in A's rotations too, and the partners wherever r tells them apart."""
    assert got.summary["tokens"] == expected.summary["tokens"]
    assert torch.equal(got.dead, expected.dead)
    names = ["correlation", "baseline", "null_excess", "top_correlation"]
    if got.summary["match"] == "one-to-one":
        # Nearly equal sums may be those of other pairs.
        names = ["top_correlation"]
        for name in ("correlation", "baseline"):
            one, other = getattr(got, name), getattr(expected, name)
            assert torch.equal(one.isnan(), other.isnan())
            assert abs(one.nansum() - other.nansum()) <= limit * len(one)
    for name in names:
        value, wanted = getattr(got, name), getattr(expected, name)
        assert (value is None) == (wanted is None), name
        if value is not None and name == "null_excess":  # of up to 2, with the errors of two
            value, wanted = value / 2, wanted / 2
        if value is not None:
            assert_close(value, wanted.numpy(), limit, name)
    top = expected.top_correlation
    assert top is not None
    if got.summary["match"] == "best" and top.shape[1] > 1:
        clear = ((top[:, 0] - top[:, 1]) > 2 * limit).nonzero()[:, 0].tolist()
        for i in clear:
            assert got.match_layer[i] == expected.match_layer[i]
            assert int(got.match_neuron[i]) == int(expected.match_neuron[i])
    assert (got.reverse is None) == (expected.reverse is None)
    if got.reverse is not None and expected.reverse is not None:
        assert_same(got.reverse, expected.reverse, limit)


def sleep() -> None:
    """Keeps the current stream busy, so that what is queued behind has to wait."""
    torch.cuda._sleep(_SLEEP)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """torch refuses to wait for the device, and the device is busy from before until after."""
    torch.cuda.synchronize()
    sleep()
    slept = torch.cuda.Event()
    slept.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
        assert not slept.query(), "waited for the device"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
