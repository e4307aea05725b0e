"""Directories that are refused: gaps, misfits, and what cannot be read in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from support.activation_files import random, refused
from support.shards import opened, save


def test_empty_directories(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, ".pt, .pth, .npy, .npz, .safetensors")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "sub").mkdir()
    refused(tmp_path, tmp_path, "no activations", "check the path")
    save(tmp_path / "empty" / "a.pt", {})
    refused(tmp_path / "empty", tmp_path / "empty", "holds no layers")
    refused(tmp_path, tmp_path, "holds no layers")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["x-000", "x-001", "x-003"], ["x-003.npy", "shard 2 of layer 'x' is missing"]),
        (["x-0000", "x-4096", "x-12288"], ["x-12288.npy", "shard 8192 of layer 'x' is missing"]),
        (["0", "2", "4", "5"], ["2.npy", "shard 1 of layer 'activations' is missing"]),
        (["1", "2", "4"], ["4.npy", "shard 3 of layer 'activations'"]),
        (["x-1-of-3", "x-2-of-3"], ["2 of 3", "'x-1-of-3.npy'", "number 3 is missing"]),
        (["x-0-of-3", "x-2-of-3"], ["2 of 3", "number 1 is missing"]),
        (["x-2-of-3", "x-3-of-3"], ["number 1 is missing"]),
        (["x-1-of-2", "x-2-of-3"], ["x-1-of-2.npy", "x-2-of-3.npy", "of 2 and of 3"]),
        (["x-001", "x-0001"], ["x-001.npy", "x-0001.npy", "both shard 1"]),
        (["x", "x-001"], ["x.npy", "x-001.npy", "both layer 'x'", "has no number"]),
        (["x-002", "x_001"], ["x_001.npy", "shard 3", "number them alike"]),
        (
            ["mlp_0", "mlp_1"],
            [
                "shard 0 of layer 'mlp', or layer 'mlp_0'",
                "files='mlp_{shard}.npy', or files='{layer}.npy'",
            ],
        ),
        (["h-10", "x"], ["shard 10 of layer 'h'", "layer 'h-10'"]),
    ],
)
def test_numbers_that_do_not_count(tmp_path: Path, files: list[str], parts: list[str]) -> None:
    for file in files:
        save(tmp_path / f"{file}.npy", random(5, 3))
    refused(tmp_path, tmp_path, *parts)


def test_a_gap_in_a_layer_by_name(tmp_path: Path) -> None:
    for i in range(3):
        layers = {"x": random(5, 3), "y": random(5, 3)}
        save(tmp_path / f"s-{i}.pt", layers if i != 1 else {"x": random(5, 3)})
    refused(tmp_path, tmp_path / "s-2.pt", "shard 1 of layer 'y' is missing")


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (random(5, 4), ["float32 [5, 3]", "float32 [5, 4]"]),
        (random(5, 3, dtype=torch.float64), ["float32 [5, 3]", "float64 [5, 3]"]),
    ],
)
def test_shards_that_do_not_fit(tmp_path: Path, other: torch.Tensor, parts: list[str]) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    save(tmp_path / "1.npy", random(5, 3))
    save(tmp_path / "2.npy", other)
    refused(tmp_path, tmp_path / "0.npy", tmp_path / "2.npy", "one width and dtype", *parts)


def test_shards_that_are_no_activations(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    save(tmp_path / "1.npy", random(5))
    refused(tmp_path, tmp_path / "1.npy", "[5]", "at least 2 axes")
    save(tmp_path / "1.npy", random(0, 3))
    refused(tmp_path, tmp_path / "1.npy", "no tokens")
    (tmp_path / "1.npy").write_bytes(b"")
    refused(tmp_path, tmp_path / "1.npy", "is empty")
    (tmp_path / "1.npy").unlink()
    (tmp_path / "1.npy").symlink_to(tmp_path / "gone.npy")
    refused(tmp_path, tmp_path / "1.npy", "no such file")


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=random(5, 3).numpy())
    refused(tmp_path, tmp_path / "a.npz", "'x'", "compressed", "numpy.savez")
    (tmp_path / "a.npz").unlink()
    torch.save(random(5, 3), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path, tmp_path / "a.pt", "old format", "torch.save")


def test_what_is_no_directory_of_activations(tmp_path: Path) -> None:
    save(tmp_path / "0.safetensors", {"x": random(5, 3)})
    torch.save({"format": "univfast-checkpoint"}, tmp_path / "a.pt")
    refused(tmp_path, tmp_path / "a.pt", "model file of `univfast train`")
    (tmp_path / "a.pt").unlink()
    for config in ('{"model_type": "gpt2"}', '{"architectures": ["GPT2Model"]}'):
        (tmp_path / "config.json").write_text(config)
        refused(
            tmp_path,
            tmp_path,
            "Hugging Face model",
            "run it on a text by univfast.correlate_models",
        )
    for other in ("{}", '{"layers": 2}', "[1]", "no JSON"):
        (tmp_path / "config.json").write_text(other)
        assert list(opened(tmp_path)) == ["x"]


@pytest.mark.parametrize(
    "name", ["top_acts.npy", "top_acts_0.npy", "layer_0/top_acts-000.npy", "r0/topk_values.npy"]
)
def test_ranks_are_no_neurons(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.save(tmp_path / name, np.ones((5, 3), np.float32))
    refused(tmp_path, "a column is a rank and no neuron", "top_indices")
