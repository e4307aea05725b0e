"""The dtypes of activations, as parameters of tests."""

from __future__ import annotations

import torch

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
DTYPES = (F64, F32, F16, BF16)
# Of A and of B.
MIXED = [(F32, BF16), (F16, F32), (BF16, F16), (F64, F32), (F16, F64)]
# What values of 16 bits are multiplied by, and still are numbers of that dtype.
HALF_SCALES = [(F16, 1e-4), (F16, 300.0), (BF16, 1e-18), (BF16, 1e18), (BF16, 1.0)]


def name_of(value: object) -> str:
    """The id of a parameter: of a dtype, or of several things."""
    parts = value if isinstance(value, tuple) else (value,)
    return " ".join(str(part).removeprefix("torch.") for part in parts)
