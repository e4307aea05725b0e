"""``.safetensors``: eight bytes of length, a header in JSON, then the arrays, little-endian.

Format: https://github.com/huggingface/safetensors#format. It is read here and not through its
library, which maps files private and writable, so that none larger than memory and swap opens.
"""

from __future__ import annotations

import json
import math

import torch

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.stored import Stored, from_bits

__all__ = ["read_safetensors"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(file: SourceFile, lone: str) -> dict[str, Stored]:
    """The arrays of the file, in place, in its order. Raises whatever a damaged header causes."""
    mapped = file.mapped
    data = 8 + int.from_bytes(mapped.bytes[:8].tobytes(), "little")
    header = json.loads(mapped.bytes[8:data].tobytes())
    header.pop("__metadata__", None)
    arrays: dict[str, Stored] = {}
    for layer, entry in header.items():
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InputError(
                f"{file.path}: layer {layer!r} has dtype {entry['dtype']}, which is not supported; "
                "convert it to float32"
            )
        shape = tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        if start < 0 or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"bytes {start} to {stop} for shape {shape}")
        span = (data + start, data + stop)
        bits = mapped.array(shape, f"<i{dtype.itemsize}", span)
        arrays[layer] = from_bits(bits, dtype, mapped)
    return arrays
