"""HDF5, written by h5py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import refused
from univfast.inputs.activations import open_activations
from univfast.stores import chunked

h5py = pytest.importorskip("h5py")


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def write(path: Path, arrays: dict[str, Any], **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file.create_dataset(name, data=x, **(options if np.ndim(x) > 1 else {}))
    return path


STORED: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks": {"chunks": (3, 2, 4)},
    "whole samples": {"chunks": (2, 5, 6)},
    "compressed": {"chunks": (4, 5, 6), "compression": "gzip", "shuffle": True},
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ">f4"])
@pytest.mark.parametrize("options", list(STORED))
def test_slice_by_slice(tmp_path: Path, options: str, dtype: str) -> None:
    x = random(7, 5, 6, dtype=dtype)
    found = open_activations(write(tmp_path / "a.h5", {"h": x}, **STORED[options]), "a")
    layer = found.layers["h"]
    expected = torch.from_numpy(x.astype(x.dtype.newbyteorder("=")).reshape(35, 6))
    assert (layer.shape, layer.dtype) == ((7, 5, 6), expected.dtype)
    for start in range(36):
        for stop in range(start, 36):
            assert torch.equal(layer.read(start, stop), expected[start:stop])
    layer.release(0, 35)
    assert found.reading == ("HDF5: 1 of 1 arrays are layers, by path",)


@pytest.mark.parametrize("most", [0, 200])
def test_chunks_are_decoded_once_or_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(chunked, "_MOST_BLOCK", most)
    monkeypatch.setattr(chunked, "_MOST_BLOCKS", 2 * most)
    x = random(40, 6)
    path = write(tmp_path / "a.h5", {"h": x, "i": -x}, chunks=(8, 6))
    layers = open_activations(path, "a").layers
    reads: list[int] = []
    rows = chunked.ChunkedLayer._rows
    monkeypatch.setattr(
        chunked.ChunkedLayer,
        "_rows",
        lambda self, *part: (reads.append(part[1] - part[0]), rows(self, *part))[1],
    )
    for start in range(0, 40, 2):
        assert torch.equal(layers["h"].read(start, start + 2), torch.from_numpy(x[start:][:2]))
    assert reads == ([8] * 5 if most else [2] * 20)


def test_names_are_paths_in_natural_order(tmp_path: Path) -> None:
    arrays = {f"blocks/{i}/mlp": random(20, 3, seed=i) for i in (10, 2, 1)}
    found = open_activations(write(tmp_path / "a.hdf5", arrays), "a")
    assert [*found.layers] == ["blocks/1/mlp", "blocks/2/mlp", "blocks/10/mlp"]
    for name, layer in found.layers.items():
        assert np.array_equal(layer.read(0, 20).numpy(), arrays[name])


def test_bfloat16_where_an_attribute_says_so(tmp_path: Path) -> None:
    x = torch.randn(20, 6, dtype=torch.bfloat16)
    path = write(tmp_path / "a.h5", {"h": x.view(torch.uint16).numpy()})
    refused(path, "'h' has dtype uint16", "set its attribute dtype to 'bfloat16'")
    with h5py.File(path, "a") as file:
        file["h"].attrs["dtype"] = "bfloat16"
    layer = open_activations(path, "a").layers["h"]
    assert layer.dtype == torch.bfloat16
    assert torch.equal(layer.read(2, 11), x[2:11])


def test_mask_ids_and_what_is_passed_over(tmp_path: Path) -> None:
    a = random(20, 10, 4)
    b = a + random(20, 10, 4, seed=1)
    mask, ids = np.arange(200).reshape(20, 10) % 3 > 0, np.arange(200).reshape(20, 10) % 7
    arrays = {"h": a, "attention_mask": mask.astype(np.int8), "tokens": ids, "loss": random(200)}
    one = write(tmp_path / "a.h5", arrays | {"about": "gpt2"})
    other = write(tmp_path / "b.h5", {"h": b})
    found = open_activations(one, "a")
    assert found.reading == (
        "HDF5: 1 of 5 arrays are layers, by path",
        "'attention_mask': the tokens that count, 133 of 200",
        "'tokens': token ids",
        "passed over: 'about', 'loss'",
    )
    assert found.ids is not None
    assert found.ids.tolist() == ids.ravel().tolist()
    result = uf.correlate(str(one), str(other), match="index")
    keep = mask.ravel()
    x, y = a.reshape(200, 4)[keep], b.reshape(200, 4)[keep]
    expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(4)]
    assert result.summary["tokens"] == 133
    assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)


def test_models_of_other_tokens_are_refused(tmp_path: Path) -> None:
    ids = np.arange(30)
    a = write(tmp_path / "a.h5", {"h": random(30, 4), "tokens": ids})
    b = write(tmp_path / "b.h5", {"h": random(30, 4), "tokens": np.where(ids == 7, 99, ids)})
    with pytest.raises(uf.InputError, match="the ids of token 7 are 7 and 99"):
        uf.correlate(str(a), str(b))


def test_datasets_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "x.bin"
    raw.write_bytes(bytes(480))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("h", (20, 6), "f4", external=[(str(raw), 0, 480)])
    refused(tmp_path / "a.h5", "'h': lies in other files")
    write(tmp_path / "c.h5", {"h": random(20, 6)})
    with h5py.File(tmp_path / "b.h5", "w") as file:
        layout = h5py.VirtualLayout((20, 6), "f4")
        layout[:] = h5py.VirtualSource("c.h5", "h", shape=(20, 6))
        file.create_virtual_dataset("h", layout)
    refused(tmp_path / "b.h5", "'h': lies in other files")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["h"] = h5py.ExternalLink("c.h5", "h")
    refused(tmp_path / "d.h5", "holds no arrays")


def test_a_dataset_that_was_not_written_whole(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("h", (20, 6), "f4", chunks=(5, 6))[:15] = 1
    refused(tmp_path / "a.h5", "'h': was not written whole")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("h", (20, 6), "f4")
    refused(tmp_path / "b.h5", "'h': was not written whole")


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, "holds no arrays"),
        ({"h": np.zeros(9, np.float32)}, "holds no arrays"),
        ({"h": np.zeros((3, 4), np.int8)}, "'h' has dtype int8"),
        ({"h": np.zeros((3, 4), np.longdouble)}, "'h' has dtype float128"),
        ({"h": np.zeros((0, 4), np.float32)}, "no tokens"),
        ({"h": np.zeros((3, 4)), "mask": np.zeros(4, bool)}, "the mask has 4 values"),
        ({"h": np.zeros((3, 4)), "mask": np.ones(3), "x/mask": np.ones(3)}, "keep one"),
    ],
)
def test_refused(tmp_path: Path, arrays: dict[str, Any], match: str) -> None:
    refused(write(tmp_path / "a.h5", arrays), match)


def test_damaged_and_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"h": random(500, 6)}, chunks=(50, 6), compression="gzip")
    layer = open_activations(path, "a").layers["h"]
    os.utime(path, ns=(1, 1))
    with pytest.raises(uf.InputError, match="changed while it was read"):
        layer.read(0, 10)
    content, other = path.read_bytes(), tmp_path / "b.h5"
    other.write_bytes(content[:-1])
    refused(other, "is damaged or incomplete")
    at = content.rindex(b"\x78\x5e") + 20
    other.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    with pytest.raises(uf.InputError, match="is damaged or incomplete"):
        open_activations(other, "a").layers["h"].read(0, 500)
