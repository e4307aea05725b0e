"""Files of activations as tests write them, and what tests of inputs share."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Activations, Layer
from univfast.inputs.pairing import match_layers

MIB = 2**20


# Writers


def write_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    torch.save(layers, path)


def write_legacy_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    torch.save(layers, path, _use_new_zipfile_serialization=False)


def write_deflated_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """Compressed, and aligned all the same, so that nothing but the flag tells."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            info = zipfile.ZipInfo(member)
            if "/data/" in member:
                info.compress_type = zipfile.ZIP_DEFLATED
            padding = -(new.start_dir + 30 + len(member) + 4) % 64
            info.extra = struct.pack("<HH", 0x5046, padding) + bytes(padding)
            new.writestr(info, old.read(member))


def write_swapped_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """In the other byte order, unaligned, and with the members in another order."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    sizes = {tensor.nbytes: tensor.element_size() for tensor in layers.values()}
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in reversed(old.namelist()):
            data = old.read(member)
            if member.endswith("/byteorder"):
                data = b"big" if sys.byteorder == "little" else b"little"
            elif "/data/" in member:
                item = sizes[len(data)]
                data = np.frombuffer(data, f"u{item}").byteswap().tobytes()
            new.writestr(member, data)


def write_rezipped_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """Unaligned, and with the members in another order."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in reversed(old.namelist()):
            new.writestr(member, old.read(member))


def write_npy(path: Path, layers: dict[str, torch.Tensor]) -> None:
    (tensor,) = layers.values()
    np.save(path, tensor.numpy())


def write_npz(path: Path, layers: dict[str, torch.Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in layers.items()}
    np.savez(path, **arrays)


def write_compressed_npz(path: Path, layers: dict[str, torch.Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in layers.items()}
    np.savez_compressed(path, **arrays)


def write_safetensors(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """By hand, with a header of odd length: other writers do not align the data."""
    codes = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in layers.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": codes.get(tensor.dtype, "BF16"),
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_library_safetensors(path: Path, layers: dict[str, torch.Tensor]) -> None:
    pytest.importorskip("safetensors.torch").save_file(layers, path)


WRITERS: dict[str, Callable[[Path, dict[str, torch.Tensor]], None]] = {
    "pt": write_pt,
    "legacy.pt": write_legacy_pt,
    "deflated.pt": write_deflated_pt,
    "swapped.pt": write_swapped_pt,
    "rezipped.pt": write_rezipped_pt,
    "npy": write_npy,
    "npz": write_npz,
    "compressed.npz": write_compressed_npz,
    "safetensors": write_library_safetensors,
    "unaligned.safetensors": write_safetensors,
}


# Helpers


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def slices(layer: Layer, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, layer.tokens)) for start in range(0, layer.tokens, step)]


def read_all(layer: Layer, step: int = 7) -> torch.Tensor:
    parts = [layer.read(start, stop) for start, stop in slices(layer, step)]
    assert all(part.ndim == 2 and part.stride(1) == 1 for part in parts)
    assert all(part.data_ptr() % part.element_size() == 0 for part in parts)
    return torch.cat(parts)


def assert_holds(layer: Layer, expected: torch.Tensor) -> None:
    assert (layer.dtype, layer.shape) == (expected.dtype, tuple(expected.shape))
    assert (layer.tokens, layer.neurons) == (expected[..., 0].numel(), expected.shape[-1])
    found = read_all(layer)
    assert found.dtype == expected.dtype
    expected = expected.reshape(-1).clone(memory_format=torch.contiguous_format)
    assert torch.equal(found.reshape(-1).view(torch.uint8), expected.view(torch.uint8))


def only(source: object) -> Layer:
    (layer,) = open_activations(source, "a").layers.values()
    return layer


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert re.match(r".+: .+; .+", message) or isinstance(error.value, TypeError), message
    for part in parts:
        assert str(part) in message, message


def refused(source: object, *parts: object) -> None:
    with pytest.raises(InputError) as error:
        open_activations(source, "a")
    assert_one_line(error, *parts)


def flipped(path: Path, seed: int, times: int) -> Iterator[None]:
    """The file with other random bytes changed, time after time."""
    whole = np.fromfile(path, np.uint8)
    generator = np.random.default_rng(seed)
    for _ in range(times):
        content = whole.copy()
        content[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
        content.tofile(path)
        yield


def model(name: str, test_set: str | None = None, **shapes: tuple[int, ...]) -> Activations:
    source = {layer.replace("_", "."): torch.zeros(shape) for layer, shape in shapes.items()}
    return Activations(name, open_activations(source, name).layers, test_set)


def matched(a: Activations, b: Activations, pattern: str | None = None) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in match_layers(a, b, pattern)]
