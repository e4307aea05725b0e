"""The ways in which activations lie in memory, as functions that arrange them so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from support.parity import Array

LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "gaps between rows": lambda x: torch.cat([x, x.new_full((len(x), 9), 7)], 1)[:, : x.shape[1]],
    "gaps between neurons": lambda x: torch.stack([x, 7 * x], 2)[:, :, 0],
    "every other token": lambda x: torch.stack([x, 7 * x], 1).flatten(0, 1)[::2],
    "offset": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view_as(x),
    "three axes": lambda x: x.reshape(4, -1, x.shape[1]),
    "three axes, swapped": lambda x: x.reshape(4, -1, x.shape[1]).swapaxes(0, 1).contiguous(),
    "needs grad": lambda x: x.clone().requires_grad_(),
    "negated view": lambda x: torch._neg_view(-x),
    "an op's result": lambda x: x.clone().requires_grad_() * 1,
}

NUMPY_LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "numpy": lambda x: x,
    "tokens reversed": lambda x: x[::-1].copy()[::-1],
    "neurons reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "unaligned": lambda x: (
        np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    ),
}
