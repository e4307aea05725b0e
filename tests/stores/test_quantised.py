"""Integers of 8 bits with what they stand for: as PyTorch quantises, and with a scale beside."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import univfast as uf
from support.activation_files import refused
from univfast.inputs.activations import open_activations


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_neuron(x: torch.Tensor) -> torch.Tensor:
    """As the caches of `universal-neurons` are quantised."""
    low, high = x.min(dim=0)[0], x.max(dim=0)[0]
    scale = (high - low) / 255
    return torch.quantize_per_channel(x, scale, torch.round(-low / scale), 1, torch.quint8)


def quantised(x: torch.Tensor) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "neurons": by_neuron(x),
            "all": torch.quantize_per_tensor(x, 0.02, -7, torch.qint8),
            "transposed": by_neuron(x.T.contiguous().T),
        }


def floats(q: torch.Tensor) -> np.ndarray[Any, Any]:
    integers = q.int_repr().numpy().astype(np.float32)
    if q.qscheme() == torch.per_tensor_affine:
        return (integers - np.float32(q.q_zero_point())) * np.float32(q.q_scale())
    scale = q.q_per_channel_scales().numpy().astype(np.float32)
    return (integers - q.q_per_channel_zero_points().numpy().astype(np.float32)) * scale


@pytest.mark.parametrize("kind", ["neurons", "all", "transposed"])
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_torch_quantised(tmp_path: Path, kind: str, legacy: bool) -> None:
    q = quantised(random(50, 6))[kind]
    torch.save({"h": q}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    layer = open_activations(tmp_path / "a.pt", "a").layers["h"]
    assert layer.dtype == torch.float32
    assert np.array_equal(layer.read(3, 40).numpy(), floats(q)[3:40])
    assert np.allclose(floats(q), q.dequantize().numpy(), atol=1e-6)


def test_a_cache_of_a_quantised_file_a_layer(tmp_path: Path) -> None:
    x, r = random(400, 6), {}
    for side, seed in (("a", 0), ("b", 1)):
        (tmp_path / side).mkdir()
        for layer in range(2):
            q = quantised(x + 0.5 * random(400, 6, seed=10 * seed + layer + 1))["neurons"]
            torch.save(q, tmp_path / side / f"{layer}.all.none.all.pt")
            r[side, layer] = floats(q)
    sides = str(tmp_path / "a"), str(tmp_path / "b")
    result = uf.correlate(*sides, match="index", files="{layer}.all.none.all.pt")
    expected = [
        np.corrcoef(r["a", layer][:, i], r["b", layer][:, i])[0, 1]
        for layer in range(2)
        for i in range(6)
    ]
    assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)


def test_tensors_quantised_otherwise_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = random(8, 6)
        ones, zeros = torch.ones(8), torch.zeros(8)
        rows = torch.quantize_per_channel(x, ones, zeros, 0, torch.qint8)
        wide = torch.quantize_per_tensor(x, 0.1, 0, torch.qint32)
    for kind in (rows, wide):
        torch.save(kind, tmp_path / "a.pt")
        refused(tmp_path / "a.pt", "is a quantized")


SHAPES: list[tuple[int, ...]] = [(), (1,), (6,), (1, 6)]


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_a_scale_beside(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    q = torch.arange(60, dtype=dtype).view(10, 6)
    scale, zero = random(*shape).abs() + 0.1, torch.full(shape, 5, dtype=torch.int32)
    arrays = {
        "h.0": q,
        "h.0.scale": scale,
        "h.0.zero_point": zero,
        "h.1": q * 2,
        "h.1_scale": scale.clone(),
    }
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(arrays, path)
    elif suffix == ".npz":
        np.savez(path, **{name: x.numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
    else:
        save_file({name: x.contiguous() for name, x in arrays.items()}, path)
    found = open_activations(path, "a")
    assert [*found.layers] == ["h.0", "h.1"]
    assert not found.unusable
    s = scale.numpy()
    for name, integers, zero_point in (("h.0", q, 5), ("h.1", q * 2, 0)):
        layer = found.layers[name]
        expected = (integers.numpy().astype(np.float32) - np.float32(zero_point)) * s
        assert layer.dtype == torch.float32
        assert np.array_equal(layer.read(2, 9).numpy(), expected[2:9])


def test_a_lone_scale_is_that_of_a_lone_array(tmp_path: Path) -> None:
    q = torch.arange(60, dtype=torch.int8).view(10, 6)
    torch.save({"acts": q, "scale": torch.tensor(0.5)}, tmp_path / "a.pt")
    layer = open_activations(tmp_path / "a.pt", "a").layers["acts"]
    assert torch.equal(layer.read(0, 10), q * 0.5)
    torch.save({"acts": q, "scale": 0.5}, tmp_path / "number.pt")
    refused(tmp_path / "number.pt", "'scale' is no tensor; save it as one")
    torch.save({"x": q, "y": q, "scale": torch.tensor(0.5)}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "int8", "scale")


def test_shards_each_with_its_own_scale(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    q = torch.arange(60, dtype=torch.int8).view(10, 6)
    for i in range(3):
        torch.save({"h": q + i, "h.scale": torch.tensor(0.5 + i)}, folder / f"part-{i:05}.pt")
    layer = open_activations(folder, "a").layers["h"]
    expected = torch.cat([(q + i).float() * (0.5 + i) for i in range(3)])
    assert torch.equal(layer.read(5, 25), expected[5:25])
    assert torch.equal(layer.read(12, 15), expected[12:15])


@pytest.mark.parametrize(
    ("beside", "match"),
    [
        ({}, "int8"),
        ({"h.scale": torch.ones(5)}, "has 5 values for 6 neurons"),
        ({"h.scale": torch.ones(10, 1)}, "one a token"),
        ({"h.scale": torch.ones(10, 6)}, "one number, or one a neuron"),
        ({"h.scale": torch.tensor(-1.0)}, "is no scale"),
        ({"h.scale": torch.tensor(float("nan"))}, "is no scale"),
        ({"h.scale": torch.ones(6), "h.offset": torch.ones(6)}, "'h.offset' may be added"),
    ],
)
def test_refused(tmp_path: Path, beside: dict[str, torch.Tensor], match: str) -> None:
    torch.save({"h": torch.zeros(10, 6, dtype=torch.int8), **beside}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", match)


def test_a_raw_file_with_a_scale(tmp_path: Path) -> None:
    q = np.arange(60, dtype=np.int8).reshape(10, 6)
    q.tofile(tmp_path / "a.raw")
    scale = [0.5, 1, 2, 4, 8, 16]
    said = {"shape": [10, 6], "dtype": "int8", "scale": scale, "zero_point": 3}
    (tmp_path / "a.json").write_text(json.dumps(said))
    (layer,) = open_activations(tmp_path / "a.raw", "a").layers.values()
    expected = (q.astype(np.float32) - 3) * np.array(scale, np.float32)
    assert np.array_equal(layer.read(0, 10).numpy(), expected)
