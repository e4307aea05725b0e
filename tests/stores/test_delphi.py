"""Directories of latents, laid out as delphi's ``LatentCache.save_splits`` lays them out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

import univfast as uf
from univfast.inputs.activations import open_activations

SAMPLES, POSITIONS, WIDTH, SPLITS = 12, 25, 40, 3


def latents(seed: int) -> Tensor:
    """[samples, positions, latents], most of them 0, in float16."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(SAMPLES, POSITIONS, 5, generator=torch.Generator().manual_seed(0))
    dense = (shared @ torch.randn(5, WIDTH, generator=generator) - 2).relu()
    return dense.half()


def tokens(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, (SAMPLES, POSITIONS))


def save_splits(folder: Path, dense: Tensor, ids: np.ndarray | None, config: bool = True) -> None:
    folder.mkdir(parents=True)
    locations, activations = dense.nonzero().numpy(), dense[dense != 0].numpy()
    bounds = torch.linspace(0, WIDTH, steps=SPLITS + 1).long().tolist()
    for start, stop in pairwise(bounds):
        own = (locations[:, 2] >= start) & (locations[:, 2] < stop)
        place = locations[own] - [0, 0, start]
        arrays = {"locations": place.astype(np.uint16), "activations": activations[own]}
        if ids is not None:
            arrays["tokens"] = ids
        save_file(arrays, folder / f"{start}_{stop - 1}.safetensors")
    if config:
        described = {"cache_ctx_len": POSITIONS, "n_splits": SPLITS, "model_name": "some/model"}
        (folder / "config.json").write_text(json.dumps(described))


def test_hookpoints_are_layers(tmp_path: Path) -> None:
    both = {
        name: {f"layers.{i}": latents(seed + i) for i in (2, 10)}
        for name, seed in (("a", 1), ("b", 5))
    }
    for name, layers in both.items():
        for layer, dense in layers.items():
            save_splits(tmp_path / name / layer, dense, tokens())
    opened = open_activations(tmp_path / "a", "a")
    assert list(opened.layers) == ["layers.2", "layers.10"]
    for name, dense in both["a"].items():
        layer = opened.layers[name]
        assert layer.shape == dense.shape
        flat = dense.reshape(-1, WIDTH)
        for start, stop in ((0, len(flat)), (3, 77)):
            assert torch.equal(layer.read(start, stop), flat[start:stop])
    assert opened.ids is not None
    np.testing.assert_array_equal(opened.ids.numpy(), tokens().flatten())
    found, expected = uf.correlate(tmp_path / "a", tmp_path / "b"), uf.correlate(*both.values())
    for column in ("correlation", "baseline"):
        np.testing.assert_array_equal(*(getattr(x, column).numpy() for x in (found, expected)))


def test_one_hookpoint(tmp_path: Path) -> None:
    save_splits(tmp_path / "layers.3", latents(1), tokens(), config=False)
    (layer,) = open_activations(tmp_path / "layers.3", "a").layers.values()
    assert layer.name == "activations"
    assert torch.equal(layer.read(0, layer.tokens), latents(1).reshape(-1, WIDTH))


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(uf.InputError) as caught:
        open_activations(path, "a")
    for part in parts:
        assert part in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    save_splits(tmp_path / "a" / "h", latents(1), tokens())
    (tmp_path / "a" / "h" / "26_39.safetensors").unlink()
    refused(tmp_path / "a", "2 of 3 files", "n_splits")
    save_splits(tmp_path / "b" / "h", latents(1), tokens(), config=False)
    (tmp_path / "b" / "h" / "13_25.safetensors").unlink()
    refused(tmp_path / "b", "26_39.safetensors: should begin with latent 13")


def test_tokens(tmp_path: Path) -> None:
    save_splits(tmp_path / "none" / "h", latents(1), None)
    refused(tmp_path / "none", "holds no tokens", "save_tokens=True")
    save_splits(tmp_path / "two" / "h.0", latents(1), tokens())
    save_splits(tmp_path / "two" / "h.1", latents(1), tokens(1))
    refused(tmp_path / "two", "is of other tokens")
    for seed in range(2):
        save_splits(tmp_path / str(seed) / "h", latents(1), tokens(seed))
    with pytest.raises(uf.InputError, match="are of other tokens"):
        uf.correlate(tmp_path / "0", tmp_path / "1")


def test_a_width_that_it_has_not(tmp_path: Path) -> None:
    save_splits(tmp_path / "a" / "h", latents(1), tokens())
    with pytest.raises(uf.InputError, match=r"^width: is 41, and .* 40 features"):
        uf.correlate(tmp_path / "a", tmp_path / "a", width=41)


def test_dense_files_of_such_names_are_none(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    save_file({"mlp": dense}, tmp_path / "0_29.safetensors")
    assert list(open_activations(tmp_path, "a").layers) == ["mlp"]
