"""Directories: which files are which layer, the same numbers as from one file, and captures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import random, refused
from support.shards import assert_holds, opened, save, save_shards
from univfast.errors import InputError
from univfast.inputs.activations import open_activations

TOKENS, NEURONS = 97, 6


# Which file is which layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy", ".npz", ".safetensors"])
def test_shards_in_natural_order(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and suffix in (".npy", ".npz"):
        pytest.skip("NumPy has no bfloat16")
    x = random(TOKENS, NEURONS, dtype=dtype)
    for i, part in enumerate(x.split(8)):  # 13 files: 10 to 12 come before 2 by letters
        content = {"x": part.clone()} if suffix in (".npz", ".safetensors") else part.clone()
        save(tmp_path / f"shard{i}{suffix}", content)
    (layer,) = opened(tmp_path).values()
    assert layer.name == ("x" if suffix in (".npz", ".safetensors") else "activations")
    assert layer.shape == (TOKENS, NEURONS)
    assert_holds(layer, x)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_layers_by_name_continue_over_the_files(tmp_path: Path, suffix: str) -> None:
    layers = {"mlp.0": random(20, 4), "mlp.1": random(20, 5)}
    for i in range(2):
        part = {name: x[10 * i : 10 * i + 10].clone() for name, x in layers.items()}
        save(tmp_path / "all" / f"step{i}{suffix}", part)
    for name, x in layers.items():
        save(tmp_path / "each" / f"{name}{suffix}", {name: x})
    for folder in ("all", "each"):
        found = opened(tmp_path / folder)
        assert list(found) == list(layers)
        for name, x in layers.items():
            assert_holds(found[name], x)


@pytest.mark.parametrize(
    ("files", "layers"),
    [
        (["mlp.0-000", "mlp.0-001", "mlp.1-0-of-1"], {"mlp.0": [0, 1], "mlp.1": [2]}),
        (["mlp.0_00009", "mlp.0_00010", "x"], {"mlp.0": [0, 1], "x": [2]}),
        (["acts_0", "acts_4096", "acts_8192", "acts_12288"], {"activations": [0, 1, 2, 3]}),
        (["x-0_part-1", "x-0_part-2", "y"], {"x-0": [0, 1], "y": [2]}),
        (["mlp.0.chunk-1", "mlp.0.chunk-2", "y"], {"mlp.0": [0, 1], "y": [2]}),
        (["mlp.0.post", "mlp.10", "mlp.9"], {"mlp.0.post": [0], "mlp.9": [2], "mlp.10": [1]}),
        (["acts-00001-of-00002", "acts-00002-of-00002"], {"activations": [0, 1]}),
        (["0-of-2", "1-of-2", "mlp"], {"activations": [0, 1], "mlp": [2]}),
        (["10", "9"], {"activations": [1, 0]}),
        (["Part1", "Part2", "mlp.0"], {"activations": [0, 1], "mlp.0": [2]}),
        (["layer_0", "layer_1"], {"layer_0": [0], "layer_1": [1]}),
        (["h.blocks-0", "h.blocks-1"], {"h.blocks-0": [0], "h.blocks-1": [1]}),
        (["layer_0-000", "layer_0-001", "layer_1"], {"layer_0": [0, 1], "layer_1": [2]}),
        (["mlp-1-of-2", "mlp-2-of-2"], {"activations": [0, 1]}),
        (["mlp.0"], {"activations": [0]}),
    ],
)  # fmt: skip
def test_names_of_lone_arrays(
    tmp_path: Path, files: list[str], layers: dict[str, list[int]]
) -> None:
    parts = [random(5, 3, seed=i) for i in range(len(files))]
    for i, file in enumerate(files):
        save(tmp_path / f"{file}{'.pt' if i % 2 else '.npy'}", parts[i])
    found = opened(tmp_path)
    assert list(found) == list(layers)
    for name, places in layers.items():
        assert_holds(found[name], torch.cat([parts[i] for i in places]))


def test_a_directory_a_layer(tmp_path: Path) -> None:
    x, y = random(9, 3), random(9, 3, seed=1)
    save_shards(tmp_path / "mlp.10", "{}.npy", x, [4])
    save_shards(tmp_path / "mlp.9", "part-{}.pt", y, [7])
    (tmp_path / "logs").mkdir()
    (tmp_path / ".cache").mkdir()
    save(tmp_path / ".cache" / "1.npy", x)
    found = opened(tmp_path)
    assert list(found) == ["mlp.9", "mlp.10"]
    assert_holds(found["mlp.10"], x)
    assert_holds(found["mlp.9"], y)


def test_other_files_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    for name in (".1.npy", ".2.npy.tmp", "README.txt", "index.json", "3.npy.part"):
        (tmp_path / name).write_bytes(b"no activations")
    save(tmp_path / "old" / "1.npy", random(5, 3))
    assert_holds(opened(tmp_path)["activations"], random(5, 3))


def test_arrays_that_are_no_layers_stand_beside(tmp_path: Path) -> None:
    for i in range(2):
        tokens = torch.zeros(4 + i, 2 + i, dtype=torch.int64)
        save(tmp_path / f"{i}.safetensors", {"x": random(4, 3, seed=i), "tokens": tokens})
    found = open_activations(tmp_path, "a")
    assert list(found.layers) == ["x"]
    assert "int64" in str(found.unusable["tokens"])
    assert str(tmp_path / "0.safetensors") in str(found.unusable["tokens"])
    with pytest.raises(InputError, match="tokens"):
        uf.correlate(tmp_path, tmp_path)
    assert uf.correlate(tmp_path, tmp_path, layers="x", rotation="none").correlation.numel() == 3


# Shapes and layouts


def test_shape_is_kept_where_inner_axes_agree(tmp_path: Path) -> None:
    x = random(10, 4, 3)
    save_shards(tmp_path / "same", "{}.npy", x, [3, 8])
    (layer,) = opened(tmp_path / "same").values()
    assert layer.shape == (10, 4, 3)
    assert_holds(layer, x.view(40, 3))
    save(tmp_path / "other" / "0.npy", x[:5])
    save(tmp_path / "other" / "1.npy", x[5:].reshape(20, 3))
    (layer,) = opened(tmp_path / "other").values()
    assert layer.shape == (40, 3)
    assert_holds(layer, x.view(40, 3))


def test_every_layout_is_found_again(tmp_path: Path) -> None:
    """Columns first, other byte order, views, unaligned: as the file's reader understood them."""
    x = random(12, 3)
    np.save(tmp_path / "0.npy", np.asfortranarray(x[:3].numpy()))
    np.save(tmp_path / "1.npy", x[3:5].numpy().astype(">f4"))
    torch.save(x[5:8].T.contiguous().T, tmp_path / "2.pt")
    torch.save(x[8:10], tmp_path / "3.pt")  # with the storage of all of x
    torch.save(torch.cat([x, x], 1)[10:, 3:], tmp_path / "4.pt")
    assert_holds(opened(tmp_path)["activations"], x)


def test_in_place_within_a_shard_and_copied_across(tmp_path: Path) -> None:
    layer = opened(save_shards(tmp_path, "{}.npy", random(20, 3), [10]))["activations"]
    assert layer.read(3, 10).data_ptr() == layer.read(0, 1).data_ptr() + 3 * 3 * 4
    crossing = layer.read(8, 12)
    assert crossing.untyped_storage().nbytes() == 4 * 3 * 4
    assert layer.read(10, 10).shape == (0, 3)
    for start, stop in [(-1, 2), (0, 21), (3, 2)]:
        with pytest.raises(IndexError):
            layer.read(start, stop)


def test_fingerprints(tmp_path: Path) -> None:
    x = random(40, 3)
    one = save_shards(tmp_path / "one", "{}.npy", x, [7, 30])
    two = save_shards(tmp_path / "two", "{}.npy", x, [20])
    x[39, 2] += 1
    other = save_shards(tmp_path / "other", "{}.npy", x, [20])
    prints = [opened(folder)["activations"].fingerprint() for folder in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]


# The whole way


@pytest.mark.parametrize("match", ["index", "best"])
def test_sharding_changes_no_result(tmp_path: Path, match: str) -> None:
    a, b = random(9000, 16), random(9000, 16, seed=1)
    b[:, :8] += a[:, :8]
    whole = uf.correlate({"x": a}, {"x": b}, match=match, draws=3)
    folder_a, folder_b = tmp_path / "a", tmp_path / "b"
    for i, part in enumerate(a.split(700)):
        save(folder_a / f"acts-{i}.safetensors", {"x": part.clone()})
    for i, part in enumerate(torch.tensor_split(b, [1, 4500, 4501])):
        save(folder_b / f"{i}.npz", {"x": part})
    sharded = uf.correlate(folder_a, folder_b, match=match, draws=3)
    for name in ("correlation", "baseline", "p_value"):
        assert torch.equal(getattr(sharded, name), getattr(whole, name)), name
    assert sharded.summary["tokens"] == 9000
    assert sharded.summary["models"] == [str(folder_a), str(folder_b)]


def test_tokens_in_the_wrong_order_would_show(tmp_path: Path) -> None:
    a = random(1300, 4)
    save_shards(tmp_path / "a", "{}.npy", a, list(range(100, 1300, 100)))  # 0 to 12
    options: dict[str, Any] = {"match": "index", "rotation": "none"}
    assert uf.correlate(tmp_path / "a", a, **options).correlation.min() > 1 - 1e-6
    shutil.move(tmp_path / "a" / "12.npy", tmp_path / "a" / "00.npy")
    shutil.move(tmp_path / "a" / "0.npy", tmp_path / "a" / "12.npy")
    shutil.move(tmp_path / "a" / "00.npy", tmp_path / "a" / "0.npy")
    assert uf.correlate(tmp_path / "a", a, **options).correlation.max() < 0.95


# Captures


def save_capture(folder: Path, tokens: int, **about: object) -> None:
    """Two shards of five tokens, and what is said of them."""
    known = {"format": "univfast-capture", "version": 1, "shards": 2, "tokens": tokens}
    for i in range(2):
        save(folder / f"shard-{i:05}.safetensors", {"x": random(5, 3, seed=i)})
    (folder / "capture.json").write_text(json.dumps({**known, **about}))


def test_a_capture_is_its_shards_alone(tmp_path: Path) -> None:
    save_capture(tmp_path, 10)
    for name in ("shard-00002", "shard-00001-copy", "acts"):
        save(tmp_path / f"{name}.safetensors", {"x": random(5, 3, seed=9)})
    assert_holds(opened(tmp_path)["x"], torch.cat([random(5, 3), random(5, 3, seed=1)]))


def test_an_incomplete_capture(tmp_path: Path) -> None:
    save_capture(tmp_path, 10)
    shard = tmp_path / "shard-00001.safetensors"
    shutil.copy(shard, tmp_path / "acts-00001.safetensors")
    shard.rename(tmp_path / ".shard-00001.safetensors")
    again = "same `univfast capture` command"
    refused(tmp_path, tmp_path, "incomplete, 1 of 2", "shard-00001.safetensors is not", again)
    save_capture(tmp_path, 11)
    refused(tmp_path, tmp_path, "hold 10 tokens of layer 'x', capture.json says 11", again)
    save_capture(tmp_path, 10, shards="2")
    refused(tmp_path, tmp_path, "capture.json is damaged", again)
