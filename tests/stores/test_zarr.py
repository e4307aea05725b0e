"""zarr, written by zarr itself, in both versions of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import refused
from univfast.inputs.activations import open_activations

zarr = pytest.importorskip("zarr")

VERSIONS = [2, 3]


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def write(path: Path, arrays: dict[str, Any], version: int, **options: Any) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, x in arrays.items():
        chunks = tuple(-(-n // 3) for n in x.shape)
        made = group.create_array(
            name, shape=x.shape, dtype=x.dtype, **({"chunks": chunks} | options)
        )
        made[:] = x
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_slice_by_slice(tmp_path: Path, version: int, dtype: str) -> None:
    x = random(5, 4, 6, dtype=dtype)
    path = write(tmp_path / "a.zarr", {"h.2/x": x, "h.10/x": x[:, ::-1]}, version)
    found = open_activations(path, "a")
    assert [*found.layers] == ["h.2/x", "h.10/x"]
    for name, values in (("h.2/x", x), ("h.10/x", x[:, ::-1])):
        layer, expected = found.layers[name], torch.from_numpy(values.reshape(20, 6).copy())
        assert (layer.shape, layer.dtype) == ((5, 4, 6), expected.dtype)
        for start, stop in ((0, 20), (3, 5), (5, 17), (19, 20)):
            assert torch.equal(layer.read(start, stop), expected[start:stop])
    assert found.reading == ("zarr: 2 of 2 arrays are layers, by path",)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_array_alone(tmp_path: Path, version: int) -> None:
    x = random(20, 6)
    made = zarr.create_array(
        tmp_path / "a.zarr", shape=x.shape, dtype=x.dtype, chunks=(8, 6), zarr_format=version
    )
    made[:] = x
    found = open_activations(tmp_path / "a.zarr", "a")
    assert torch.equal(found.layers["activations"].read(2, 19), torch.from_numpy(x[2:19]))


def test_shards_of_chunks(tmp_path: Path) -> None:
    x = random(20, 6)
    made = zarr.create_array(
        tmp_path / "a.zarr", shape=x.shape, dtype=x.dtype, chunks=(4, 3), shards=(8, 6)
    )
    made[:] = x
    layer = open_activations(tmp_path / "a.zarr", "a").layers["activations"]
    assert torch.equal(layer.read(2, 19), torch.from_numpy(x[2:19]))


@pytest.mark.parametrize("version", VERSIONS)
def test_mask_and_ids_and_bfloat16(tmp_path: Path, version: int) -> None:
    x = torch.randn(300, 4, dtype=torch.bfloat16)
    keep = np.arange(300) % 4 > 0
    sides = []
    for side, y in (("a", x), ("b", x + torch.randn(300, 4, dtype=torch.bfloat16))):
        arrays = {"h": y.view(torch.uint16).numpy(), "mask": keep, "tokens": np.arange(300) % 9}
        path = write(tmp_path / side, arrays, version)
        refused(path, "'h' has dtype uint16")
        zarr.open_group(path, mode="a")["h"].attrs["dtype"] = "torch.bfloat16"
        sides.append((str(path), y.double().numpy()[keep]))
    found = open_activations(sides[0][0], "a")
    assert found.ids is not None
    assert found.layers["h"].dtype == torch.bfloat16
    result = uf.correlate(sides[0][0], sides[1][0], match="index")
    (_, a), (_, b) = sides
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)]
    assert result.summary["tokens"] == 225
    assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_chunks_that_are_not_there_are_told(tmp_path: Path, version: int) -> None:
    x = random(9, 6)
    x[3:6] = 0
    path = write(tmp_path / "a", {"h": x}, version, chunks=(3, 6))
    found = open_activations(path, "a")
    assert "'h': 1 of 3 chunks are not there, and read as its fill value, 0.0" in found.reading
    assert np.array_equal(found.layers["h"].read(0, 9).numpy(), x)


@pytest.mark.parametrize("version", VERSIONS)
def test_codecs_that_call_what_they_read_are_refused(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "a", {"h": random(9, 6)}, version)
    file = path / "h" / ("zarr.json" if version == 3 else ".zarray")
    said = json.loads(file.read_text())
    if version == 3:
        said["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    else:
        said["filters"] = [{"id": "pickle", "protocol": 5}]
    file.write_text(json.dumps(said))
    refused(path, "is encoded by", "pickle'")


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "a", {"h": random(90, 6)}, version)
    chunk = next(x for x in path.rglob("*") if x.is_file() and x.name[0] not in ".z")
    chunk.write_bytes(b"\xff" * 7)
    with pytest.raises(uf.InputError, match="is damaged or incomplete"):
        open_activations(path, "a").layers["h"].read(0, 90)
    (path / "h" / ("zarr.json" if version == 3 else ".zarray")).write_text("{")
    refused(path, "is damaged or incomplete")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, "holds no arrays"),
        ({"h": np.zeros(9, np.float32)}, "holds no arrays"),
        ({"h": np.zeros((9, 3), np.int8)}, "'h' has dtype int8"),
    ],
)
def test_refused(tmp_path: Path, version: int, arrays: dict[str, Any], match: str) -> None:
    refused(write(tmp_path / "a", arrays, version), match)
