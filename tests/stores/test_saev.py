"""Shards of SAEV, in the layout of its protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.activation_files import refused
from univfast.inputs.activations import open_activations

NAMES = {
    "1.0.0": ("n_patches_per_img", "d_vit", "n_imgs", "max_patches_per_shard"),
    "2.1": ("content_tokens_per_example", "d_model", "n_examples", "max_tokens_per_shard"),
    "2.0": ("patches_per_ex", "d_model", "n_examples", "patches_per_shard"),
}
LAYERS, PATCHES, WIDTH, EXAMPLES, PER_SHARD = [13, 2, 21], 4, 6, 7, 3


def write(
    folder: Path, protocol: str = "2.1", cls_token: bool = True, last: str = "full", **more: Any
) -> np.ndarray[Any, Any]:
    """``[examples, layers, tokens, neurons]``; the last shard has room for as many or just its own.

    As its writer does, which opens each shard with all the room, and another where one is full.
    """
    tokens = PATCHES + cls_token
    shape = (EXAMPLES, len(LAYERS), tokens, WIDTH)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    patches, width, examples, budget = NAMES[protocol]
    said = {
        "layers": LAYERS,
        "cls_token": cls_token,
        patches: PATCHES,
        width: WIDTH,
        examples: EXAMPLES,
        budget: PER_SHARD * len(LAYERS) * tokens,
        "data": "...",
        "dtype": "float32",
        "protocol": protocol,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps(said))
    shards = []
    for i, start in enumerate(range(0, EXAMPLES, PER_SHARD)):
        part = x[start : start + PER_SHARD]
        room = np.zeros((PER_SHARD if last == "full" else len(part), *shape[1:]), np.float32)
        room[: len(part)] = part
        room.tofile(folder / f"acts{i:06}.bin")
        shards.append({"name": f"acts{i:06}.bin", "n_examples": len(part)})
    (folder / "shards.json").write_text(json.dumps(shards))
    (folder / "labels.bin").write_bytes(bytes(EXAMPLES * PATCHES))
    return x


@pytest.mark.parametrize("protocol", list(NAMES))
@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize("last", ["full", "short"])
def test_layers_by_example_and_position(
    tmp_path: Path, protocol: str, cls_token: bool, last: str
) -> None:
    x = write(tmp_path, protocol, cls_token, last)
    found = open_activations(tmp_path, "a")
    assert [*found.layers] == ["2", "13", "21"]
    for i, number in enumerate(LAYERS):
        layer = found.layers[str(number)]
        assert layer.shape[1:] == (PATCHES + cls_token, WIDTH)
        expected = torch.from_numpy(x[:, i].reshape(-1, WIDTH))
        assert layer.tokens == len(expected)
        for start, stop in ((0, layer.tokens), (3, 11), (17, 28), (14, 15)):
            assert torch.equal(layer.read(start, stop), expected[start:stop])
            layer.release(start, stop)
    assert f"{7} examples of {4 + cls_token} tokens" in found.reading[0]


def test_an_empty_last_shard(tmp_path: Path) -> None:
    x = write(tmp_path)
    (tmp_path / "acts000003.bin").write_bytes((tmp_path / "acts000000.bin").read_bytes())
    shards = json.loads((tmp_path / "shards.json").read_text())
    shards.append({"name": "acts000003.bin", "n_examples": 0})
    (tmp_path / "shards.json").write_text(json.dumps(shards))
    layer = open_activations(tmp_path, "a").layers["2"]
    assert torch.equal(layer.read(0, layer.tokens), torch.from_numpy(x[:, 1].reshape(-1, WIDTH)))


def test_of_before_shards_json(tmp_path: Path) -> None:
    x = write(tmp_path, "1.0.0")
    (tmp_path / "shards.json").unlink()
    layer = open_activations(tmp_path, "a").layers["21"]
    assert torch.equal(layer.read(0, layer.tokens), torch.from_numpy(x[:, 2].reshape(-1, WIDTH)))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"layers": []}, "says no layers"),
        ({"layers": [1, 1, 2]}, "names a layer twice"),
        ({"layers": ["a"]}, "says no layers"),
        ({"cls_token": None}, "does not say whether there is a cls_token"),
        ({"d_model": 0}, "says no d_model"),
        ({"d_model": 5}, "bytes are expected"),
        ({"d_model": True}, "says no d_model"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"n_examples": 8}, "its shards hold 7 examples, metadata.json says 8"),
    ],
)
def test_refused(tmp_path: Path, more: dict[str, Any], match: str) -> None:
    write(tmp_path)
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    refused(tmp_path, match)


@pytest.mark.parametrize(
    ("shards", "match"),
    [
        ({}, "no list of shards"),
        ([{"name": "acts000001.bin", "n_examples": 7}], "is not that of acts000000.bin"),
        ([{"name": "../a.bin", "n_examples": 7}], "is not that of acts000000.bin"),
        ([{"name": "acts000000.bin", "n_examples": "7"}], "is not that of acts000000.bin"),
        ([{"name": "acts000000.bin", "n_examples": 7}], "has 1080 bytes, 7 examples"),
    ],
)
def test_shards_that_lie(tmp_path: Path, shards: Any, match: str) -> None:
    write(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps(shards))
    refused(tmp_path, match)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "acts000001.bin").unlink()
    refused(tmp_path, "acts000001.bin")
