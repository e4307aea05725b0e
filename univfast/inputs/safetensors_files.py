"""``.safetensors``: eight bytes of length, a header in JSON, then the arrays, little-endian.

Format: https://github.com/huggingface/safetensors#format. It is read here and not through its
library, which maps files private and writable, so that none larger than memory and swap opens.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import extent
from univfast.inputs.natural import natural_key
from univfast.inputs.sparse_names import Noted, says_width
from univfast.inputs.stored import Stored, from_bits
from univfast.machine.reading import parse_json

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
    "U16": torch.uint16,
    "U32": torch.uint32,
}
# The others that the format has.
_NOT_READ = {
    *("F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("U16", "U32", "U64", "C64"),
}
# Bytes, as the format has it.
_MOST_HEADER = 100_000_000


def read_safetensors(
    file: SourceFile, lone: str
) -> dict[str, Stored | InputError | tuple[int, ...]]:
    """The arrays of the file, in place, in natural order of their names.

    With them, how many features there are, if the file says that.

    Raises whatever a damaged header causes: ValueError where its arrays do not follow each other to
    the end of the file, as the format demands.
    """
    mapped = file.mapped
    data = 8 + int.from_bytes(mapped.bytes[:8].tobytes(), "little")
    if data > min(8 + _MOST_HEADER, len(mapped.bytes)):
        raise ValueError(f"a header of {data - 8} bytes")
    header = parse_json(mapped.bytes[8:data].tobytes(), once=True)
    metadata = header.pop("__metadata__", None)
    entries = {name: _Entry(entry) for name, entry in header.items()}
    end = 0
    for start, stop in sorted(entry.offsets for entry in entries.values()):
        if start != end:
            raise ValueError(f"arrays that overlap, or a gap between them, at byte {end}")
        end = stop
    if data + end != len(mapped.bytes):
        raise ValueError(f"{data + end} bytes by its header, {len(mapped.bytes)} are there")
    arrays: dict[str, Stored | InputError | tuple[int, ...]] = {}
    for layer in sorted(entries, key=natural_key):
        entry = entries[layer]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None and entry.dtype not in _NOT_READ:
            raise ValueError(f"dtype {entry.dtype!r}")
        if dtype is None:
            arrays[layer] = InputError(
                f"{file.path}: layer {layer!r} has dtype {entry.dtype}, which is not supported; "
                "convert it to float32"
            )
            continue
        start, stop = entry.offsets
        if stop - start != extent(entry.shape, None, dtype.itemsize):
            raise ValueError(f"bytes {start} to {stop} for shape {list(entry.shape)}")
        bits = mapped.array(entry.shape, f"<i{dtype.itemsize}", (data + start, data + stop))
        arrays[layer] = from_bits(bits, dtype, mapped)
    return {**_said(metadata), **arrays}


def _said(metadata: Any) -> dict[str, tuple[int, ...]]:
    """The integers that metadata has under names that say how many features there are."""
    found: dict[str, tuple[int, ...]] = {}
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    for name, text in pairs:
        numbers = re.fullmatch(r"\s*[\[(]?\s*(\d{1,18}(?:\s*,\s*\d{1,18})*)\s*[\])]?\s*", str(text))
        if numbers is not None and says_width(name):
            found[name] = Noted(int(x) for x in numbers[1].split(","))
    return found


class _Entry:
    """What the header says of an array. Raises ValueError where it is of another form."""

    def __init__(self, entry: Any) -> None:
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError("an entry without dtype, shape and data_offsets")
        self.dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        plain = isinstance(self.dtype, str) and isinstance(shape, list)
        if not plain or not isinstance(offsets, list) or len(offsets) != 2:
            raise ValueError(f"an entry {entry}")
        if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
            raise ValueError(f"shape {shape} at bytes {offsets}")
        self.shape: tuple[int, ...] = tuple(shape)
        self.offsets: tuple[int, int] = (offsets[0], offsets[1])
