"""Wrong partners by index: how far each draw shifts the neurons of B.

Draw d pairs neuron i of A with neuron ``(i + s_d) % neurons`` of B. Where the number of a neuron
means nothing, its own partner is no other than these, whatever the activations are like.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univfast import native
from univfast.native.place import numbers
from univfast.nulls.matrices import layer_seed

__all__ = ["make_shifts", "partners", "shifts_of"]

# Words of a Philox key beside the layer's seed; those of dense rotations are the numbers of draws.
_LAGS, _LEADS = 1 << 63, (1 << 63) + 1


def make_shifts(neurons: int, shifts: int, seed: int, layer: str) -> native.Shifts:
    """The shifts of a layer: distinct numbers in ``1 .. neurons - 1``, the same on every machine.

    Each is as likely as any other. They are sums of leads and of lags, five of which serve all
    leads: a quarter of the memory traffic that as many numbers by themselves take. Layers too
    narrow for such sums to differ have each shift as a lead, and no lag.

    Args:
        neurons: the layer's width.
        shifts: how many; all ``neurons - 1`` where there are no more.
        seed: any integer.
        layer: the layer's name. Each layer has shifts of its own.
    """
    count = min(shifts, neurons - 1)
    own = layer_seed(seed, layer)
    lags = [each for each in _shuffled(neurons, own, _LAGS) if each][: native.SHARED_LAGS]
    leads, taken = [0], set(lags)
    if count >= native.SHARED_LAGS:
        for lead in _shuffled(neurons, own, _LEADS):
            if len(taken) >= count:
                break
            moved = {(lead + lag) % neurons for lag in lags}
            if 0 not in moved and not moved & taken:
                leads.append(lead)
                taken |= moved
    if len(taken) < count or count < native.SHARED_LAGS:
        leads, lags = [each for each in _shuffled(neurons, own, _LAGS) if each][:count], [0]
    return native.Shifts(
        torch.tensor(leads, dtype=torch.int64, device="cpu"),
        torch.tensor(lags, dtype=torch.int64, device="cpu"),
        count,
    )


def shifts_of(neurons: int, shifts: int, seed: int, layer: str) -> Tensor:
    """What `make_shifts` gives as numbers, int64 ``[min(shifts, neurons - 1)]``."""
    return make_shifts(neurons, shifts, seed, layer).each(neurons)


def partners(shifts: Tensor, neurons: int) -> Tensor:
    """The neuron of B that each shift pairs each neuron of A with, int64 ``[shifts, neurons]``."""
    return (numbers(neurons, device=shifts.device) + shifts[:, None]) % neurons


def _shuffled(neurons: int, seed: int, word: int) -> list[int]:
    """All numbers below ``neurons``, in an order of raw random bits (which no release changes)."""
    key = np.array([seed, word], dtype=np.uint64)
    bits: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(neurons)
    return [int(each) for each in np.argsort(bits, kind="stable")]
