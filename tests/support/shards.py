"""Directories of shards: written, and read as layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Layer


def save(path: Path, content: Any) -> None:
    """A tensor or a dict of tensors, in the format that the suffix names."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, content.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **{name: x.numpy() for name, x in content.items()})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(content, path)
    else:
        torch.save(content, path)


def save_shards(folder: Path, name: str, tensor: torch.Tensor, cuts: list[int]) -> Path:
    """Splits along the first axis before each of ``cuts``; ``name`` has a place for the number."""
    for i, part in enumerate(torch.tensor_split(tensor, cuts)):
        save(folder / name.format(i), part.clone())
    return folder


def assert_holds(layer: Layer, expected: torch.Tensor) -> None:
    assert (layer.dtype, layer.tokens, layer.neurons) == (expected.dtype, *expected.shape)
    for step in (1, 7, layer.tokens):
        for start in range(0, layer.tokens, step):
            stop = min(start + step, layer.tokens)
            layer.prepare(start, stop)
            assert torch.equal(layer.read(start, stop), expected[start:stop]), (start, stop)
            layer.release(start, stop)


def opened(folder: Path) -> dict[str, Layer]:
    found = open_activations(folder, "a")
    assert found.name == str(folder)
    return found.layers
