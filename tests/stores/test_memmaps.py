"""Raw arrays with a JSON file beside them, and activation caches in the layout of their writer."""

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

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def raw(path: Path, x: torch.Tensor, **said: Any) -> Path:
    bits = x.view(torch.int16) if x.dtype == torch.bfloat16 else x
    bits.numpy().tofile(path)
    described = {"shape": list(x.shape), "dtype": str(x.dtype), **said}
    path.with_suffix(".json").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".memmap", ".bin", ".dat", ".raw"])
def test_a_lone_file(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    x = random(4, 5, 6, dtype=dtype)
    (layer,) = open_activations(raw(tmp_path / f"a{suffix}", x), "a").layers.values()
    assert (layer.shape, layer.dtype) == ((4, 5, 6), dtype)
    assert torch.equal(layer.read(3, 17), x.view(20, 6)[3:17])


@pytest.mark.parametrize("name", ["float32", "torch.float32", "<f4", "f4", "=f4"])
@pytest.mark.parametrize("ending", ["a.json", "a.meta", "a.bin.json", "a.bin.meta"])
def test_names_of_the_file_beside(tmp_path: Path, name: str, ending: str) -> None:
    x = random(20, 6)
    x.numpy().tofile(tmp_path / "a.bin")
    (tmp_path / ending).write_text(json.dumps({"shape": [20, 6], "dtype": name}))
    (layer,) = open_activations(tmp_path / "a.bin", "a").layers.values()
    assert torch.equal(layer.read(0, 20), x)


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f2"])
def test_byte_order_and_columns_first(tmp_path: Path, dtype: str) -> None:
    x = random(20, 6).numpy().astype(dtype)
    x.T.tofile(tmp_path / "a.raw")
    said = {"shape": [20, 6], "dtype": dtype, "order": "F"}
    (tmp_path / "a.json").write_text(json.dumps(said))
    (layer,) = open_activations(tmp_path / "a.raw", "a").layers.values()
    assert np.array_equal(layer.read(2, 9).numpy(), x[2:9])


def test_a_directory_of_raw_shards(tmp_path: Path) -> None:
    x = random(30, 6)
    for i in range(3):
        raw(tmp_path / f"shard_{i}.memmap", x[10 * i : 10 * i + 10])
    (layer,) = open_activations(tmp_path, "a").layers.values()
    assert torch.equal(layer.read(5, 25), x[5:25])


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (None, "nothing says what is in it; write a file of the same name that ends in .json"),
        ({"dtype": "float32"}, "says no shape"),
        ({"shape": [20, 6.0], "dtype": "float32"}, "says no shape"),
        ({"shape": [20, -6], "dtype": "float32"}, "says no shape"),
        ({"shape": [20, 6]}, "dtype is None"),
        ({"shape": [20, 6], "dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn'"),
        ({"shape": [20, 6], "dtype": "object"}, "dtype is 'object'"),
        ({"shape": [20, 6], "dtype": "float16"}, "of float16 has 240"),
        ({"shape": [2**62, 6], "dtype": "float32"}, "has 480 bytes"),
        ({"shape": [20, 6], "dtype": "float32", "order": "K"}, "order is 'K'"),
        ({"shape": [20, 6], "dtype": "float32", "scale": 1.0}, "is given for float32"),
        ({"shape": [20, 6], "dtype": "int32"}, "has dtype int32"),
        ({"shape": [20, 6], "dtype": "float32", "fortran_order": True}, "fortran_order true"),
        ({"shape": [20, 6], "dtype": "float32", "byteorder": "big"}, 'byteorder "big"'),
        ({"shape": [20, 6], "dtype": "float32", "axes": ["neuron", "token"]}, "says axes"),
        ({"shape": [10, 6], "dtype": "float64", "offset": 8}, "says offset 8, which is not read"),
        ({"shape": [80, 6], "dtype": "int8", "scale": 1, "zero": 3}, "says zero 3"),
    ],
)
def test_refused(tmp_path: Path, said: Any, match: str) -> None:
    random(20, 6).numpy().tofile(tmp_path / "a.memmap")
    if said is not None:
        (tmp_path / "a.json").write_text(json.dumps(said))
    refused(tmp_path / "a.memmap", match)


def test_what_says_nothing_new_is_passed_over(tmp_path: Path) -> None:
    x = random(20, 6)
    plain = {"fortran_order": False, "offset": 0, "byteorder": "little", "strides": None}
    (layer,) = open_activations(raw(tmp_path / "a.raw", x, **plain, by="me"), "a").layers.values()
    assert torch.equal(layer.read(0, 20), x)


def test_two_files_beside_are_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.memmap", random(20, 6))
    path.with_suffix(".meta").write_text("{}")
    refused(path, "a.json and a.meta may both say what is in it")


# ---- activation caches ---------------------------------------------------------------------------


def cache(folder: Path, x: torch.Tensor, sizes: list[int], **config: Any) -> Path:
    """As `ActivationCache` and `save_shard` of `dictionary_learning` write it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(x.split(sizes)):
        bits = part.view(torch.int16) if part.dtype == torch.bfloat16 else part
        bits.contiguous().numpy().tofile(folder / f"shard_{i}.memmap")
        meta = {"shape": list(part.shape), "dtype": str(part.dtype)}
        (folder / f"shard_{i}.meta").write_text(json.dumps(meta))
    said = {
        "batch_size": 64,
        "context_len": 128,
        "shard_size": 1000,
        "d_model": x.shape[1],
        "shuffle_shards": False,
        "io": "out",
        "total_size": len(x),
        "shard_count": len(sizes),
        "store_tokens": False,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(said))
    for name in ("mean", "std"):
        torch.save(x.float().mean(0), folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_of_a_layer(tmp_path: Path, dtype: torch.dtype) -> None:
    x = random(48, 6, dtype=dtype)
    sizes = [4] * 12
    found = open_activations(cache(tmp_path / "c", x, sizes), "a")
    assert [*found.layers] == ["activations"]
    layer = found.layers["activations"]
    assert (layer.shape, layer.dtype) == ((48, 6), dtype)
    assert torch.equal(layer.read(3, 47), x[3:47])
    line = "config.json and shard_0.memmap: an activation cache of 1 layer in 12 shards"
    assert found.reading == (line,)


def test_a_directory_of_caches_with_tokens(tmp_path: Path) -> None:
    layers = {f"layer_{i}_out": random(300, 6, seed=i) for i in (2, 10)}
    for side in ("a", "b"):
        for name, x in layers.items():
            y = x if side == "a" else x + random(300, 6, seed=3)
            cache(tmp_path / side / name, y, [100, 150, 50], store_tokens=True)
        torch.save(torch.arange(300) % 17, tmp_path / side / "tokens.pt")
    found = open_activations(tmp_path / "a", "a")
    assert [*found.layers] == [*layers]
    assert found.ids is not None
    assert found.ids.tolist() == [i % 17 for i in range(300)]
    result = uf.correlate(str(tmp_path / "a"), str(tmp_path / "b"), match="index")
    noise = random(300, 6, seed=3).numpy()
    expected = [
        np.corrcoef(x[:, i], x[:, i] + noise[:, i])[0, 1]
        for x in (x.numpy() for x in layers.values())
        for i in range(6)
    ]
    assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)
    (lone,) = {open_activations(tmp_path / "a" / name, "a").ids is not None for name in layers}
    assert lone


def test_caches_without_dtype_are_of_float32(tmp_path: Path) -> None:
    folder = cache(tmp_path / "c", random(20, 6), [20])
    (folder / "shard_0.meta").write_text('{"shape": [20, 6]}')
    assert open_activations(folder, "a").layers["activations"].dtype == torch.float32


def test_shuffled_tokens_are_refused(tmp_path: Path) -> None:
    folder = cache(tmp_path / "c", random(20, 6), [20], shuffle_shards=True)
    refused(folder, "its tokens were shuffled", "shuffle_shards=False")


def test_caches_that_are_not_whole(tmp_path: Path) -> None:
    folder = cache(tmp_path / "c", random(20, 6), [10, 10])
    (folder / "shard_1.memmap").unlink()
    refused(folder, "shard_1.memmap", "config.json says 2 shards")
    refused(cache(tmp_path / "d", random(20, 6), [10, 10], total_size=30), "config.json says 30")
    refused(cache(tmp_path / "e", random(20, 6), [10, 10], shard_count=0), "says no shard_count")
    folder = cache(tmp_path / "f" / "h", random(20, 6), [20], store_tokens=True)
    torch.save(torch.arange(19), tmp_path / "f" / "tokens.pt")
    refused(folder, "tokens.pt: has 19 token ids")
