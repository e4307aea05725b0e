"""PyTorch's dtypes, by the names that its files have for them."""

from __future__ import annotations

import torch

__all__ = ["DTYPE_NAMES", "INTEGERS_OF", "STORAGES"]

STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in (
        ("Double", torch.float64),
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
        ("ComplexFloat", torch.complex64),
        ("ComplexDouble", torch.complex128),
        ("QInt8", torch.qint8),
        ("QUInt8", torch.quint8),
        ("QInt32", torch.qint32),
        ("Untyped", torch.uint8),
    )
}
DTYPE_NAMES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
INTEGERS_OF = {torch.qint8: torch.int8, torch.quint8: torch.uint8}
