"""What the names of files say: two numbers, folders of batches, ids; and what may be two things."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import assert_one_line, random
from support.shards import assert_holds, save
from univfast.errors import InputError
from univfast.inputs.activations import open_activations

TOKENS = 40  # of a file


def write(root: Path, name: str, x: torch.Tensor) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    save(root / name, x)


def grid(root: Path, name: str, layers: int = 2, shards: int = 12) -> list[torch.Tensor]:
    """A lone array of each layer and shard, and the layers as wholes."""
    whole = [random(TOKENS * shards, 3, seed=i) for i in range(layers)]
    for i, x in enumerate(whole):
        for n, part in enumerate(x.split(TOKENS)):
            write(root, name.format(layer=i, shard=n), part.clone())
    return whole


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("batch_{shard}/layer_{layer}.npy", "layer_{}"),
        ("shard-{shard:05}/layer.{layer}.npy", "layer.{}"),
        ("rank{shard}/h.{layer}.mlp.pt", "h.{}.mlp"),
        ("part{shard}/blocks.{layer}.mlp.hook_post.npy", "blocks.{}.mlp.hook_post"),
        ("layer{layer}_batch{shard}.npy", "layer{}"),
        ("batch_{shard}_layer_{layer}.npy", "layer_{}"),
        ("layer_{layer}-batch_{shard}.pt", "layer_{}"),
        ("Batch{shard}_Layer{layer}.npy", "Layer{}"),
        ("layer{layer}batch{shard}.npy", "layer{}"),
        ("layer_{layer}_of_2/shard_{shard}.npy", "layer_{}_of_2"),
        ("layer-{layer}-of-2-batch-{shard}.npy", "layer-{}-of-2"),
        ("layer{layer}/rank{shard}/acts_0.npy", "layer{}"),
        ("acts_layer_{layer}_chunk_{shard}.npy", "acts_layer_{}"),
        ("gpt2_layer{layer}_shard{shard}_fp16.npy", "gpt2_layer{}_fp16"),
        ("mlp_{layer}_batch_{shard}.npy", "mlp_{}"),
        ("batch_{shard}_resid_{layer}.npy", "resid_{}"),
        ("h.{layer}/{shard}.npy", "h.{}"),
        ("{layer}/batch_{shard}.npy", "{}"),
        ("layer_{layer}/batch_{shard}/acts.npy", "layer_{}"),
        ("batch_{shard}/layer_{layer}/acts.npy", "layer_{}"),
        ("run/out/layer_{layer}/part-{shard:03}.npy", "layer_{}"),
        ("layer_{layer}/{shard}-of-12/x.npy", "layer_{}"),
        ("x-{layer}.post_{shard:03}.npy", None),
        ("block_{layer}.attn-{shard:05}.npy", "block_{}.attn"),
    ],
)
def test_layers_and_shards(tmp_path: Path, name: str, layer: str | None) -> None:
    if layer is None:
        grid(tmp_path, name)
        _refused(tmp_path, "may be", "files='{layer}.post_{shard}.npy'")
        return
    if "of-12" in name:
        whole = [random(TOKENS * 12, 3, seed=i) for i in range(2)]
        for i, x in enumerate(whole):
            for n, part in enumerate(x.split(TOKENS)):
                write(tmp_path, name.format(layer=i, shard=n + 1), part.clone())
    else:
        whole = grid(tmp_path, name)
    found = open_activations(tmp_path, "a").layers
    assert list(found) == [layer.format(0), layer.format(1)]
    for number, x in enumerate(whole):
        assert_holds(found[layer.format(number)], x)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["rank0.npy", "rank1.npy", "rank10.npy", "rank2.npy"], None),
        (["rank0/x.npy", "rank1/x.npy"], {"activations": [0, 1]}),
        (["file_0.npy", "file_1.npy"], {"activations": [0, 1]}),
        (["rank0/shard0.npy", "rank0/shard1.npy", "rank1/shard0.npy"], {"activations": [0, 1, 2]}),
        (["attn/layer_0.npy", "mlp/layer_0.npy"], {"attn": [0], "mlp": [1]}),
        (["attn/0.npy", "attn/1.npy", "mlp/0.npy", "mlp/1.npy"], {"attn": [0, 1], "mlp": [2, 3]}),
        (["h.0/pre.npy", "h.0/post.npy"], {"post": [1], "pre": [0]}),
        (["h.0/pre.npy", "h.1/pre.npy"], {"h.0": [0], "h.1": [1]}),
        (["layer_0/x.npy"], {"layer_0": [0]}),
        (["layer_0_step_7.npy", "layer_1_step_7.npy"],
         {"layer_0_step_7": [0], "layer_1_step_7": [1]}),
        (["h10.npy", "h2.npy"], {"h2": [1], "h10": [0]}),
    ],
)  # fmt: skip
def test_other_names(tmp_path: Path, names: list[str], layers: dict[str, list[int]] | None) -> None:
    parts = [random(TOKENS, 3, seed=i) for i in range(len(names))]
    for name, x in zip(names, parts, strict=True):
        write(tmp_path, name, x)
    if layers is None:
        _refused(tmp_path, "rank10.npy: shard 3", "is missing", "files='...{shard}...'")
        return
    found = open_activations(tmp_path, "a").layers
    assert list(found) == list(layers)
    for layer, order in layers.items():
        assert_holds(found[layer], torch.cat([parts[i] for i in order]))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["L0_B1", "L0_B2"], ["shard 1 of layer 'L0'", "files='{layer}_B{shard}.npy'"]),
        (["foo0", "foo1"], ["shard 0 of layer 'foo', or layer 'foo0'", "files='foo{shard}.npy'"]),
        (["layer0_head0", "layer0_head1"], ["head", "files='{layer}_head{shard}.npy'"]),
        (["epoch0_batch0", "epoch1_batch0"], ["files='epoch{shard}_batch{shard}.npy'"]),
        (["step_1000", "step_2000"], ["shard 1000 of layer 'step'", "layer 'step_1000'"]),
        (["step_1000/layer_0", "step_2000/layer_0"], ["files='step_{shard}/{layer}.npy'"]),
        (["layer_0_step_1000", "layer_0_step_2000"], ["files='{layer}_step_{shard}.npy'"]),
        (["0/0", "0/1", "1/0", "1/1"], ["files='{shard}/{shard}.npy', or files='{layer}/"]),
        (["0_0", "0_1", "1_0"], ["files='{shard}_{layer}.npy'"]),
        (["acts.0", "acts.1"], ["shard 0", "layer 'acts.0'"]),
        (["batch_0/0", "batch_0/1"], ["files='batch_{shard}/{shard}.npy'"]),
        (["acts_0_batch0", "acts_1_batch1"], ["files='{layer}_batch{shard}.npy'"]),
        (["rank0/acts_0", "rank1/acts_1"], ["files='rank{shard}/{layer}.npy'"]),
        (["acts_0/acts_0", "acts_1/acts_1"], ["files='{layer}/acts_{shard}.npy'"]),
        (["layer_0_of_2", "layer_1_of_2"], ["shard 0 of layer 'layer', or layer 'layer_0_of_2'"]),
        (["layer-001-of-002", "layer-002-of-002"], ["shard 001 of layer", "layer 'layer-001-of"]),
        (["h.0/any-0", "h.0/any-1"], ["files='{layer}/any-{shard}.npy'"]),
        (["batch_0/layer_0", "batch_1/layer_1"], ["shard 1 of layer 'layer_0' is missing"]),
        (["layer_0_batch_0", "layer_0_batch_1", "layer_1_batch_0"], ["shard 1 of layer 'layer_1'"]),
        (["rank0/shard0", "rank0/shard2", "rank1/shard1"], ["shard 0/1", "is missing before it"]),
        (["batch_0/a/x", "batch_1/x"], ["different depths", "files='...'"]),
    ],
)  # fmt: skip
def test_names_that_are_refused(tmp_path: Path, names: list[str], said: list[str]) -> None:
    for name in names:
        write(tmp_path, f"{name}.npy", random(5, 3))
    _refused(tmp_path, *said)


@pytest.mark.parametrize(
    "name", ["foo{0}", "layer{0}_head{1}", "{0}/{1}", "batch_{0}/{1}", "{0}_{1}"]
)
def test_each_reading_can_be_had(tmp_path: Path, name: str) -> None:
    """By the pattern that is named with it: other layers each time, of all arrays once."""
    every = {(i, j): random(5, 3, seed=3 * i + j) for i in range(2) for j in range(2)}
    for key, x in every.items():
        write(tmp_path, name.format(*key) + ".npy", x)
    with pytest.raises(InputError) as error:
        open_activations(tmp_path, "a")
    patterns = re.findall("files='(.*?)'", str(error.value))
    assert len({*patterns}) == len(patterns) >= 2
    files = len({name.format(*key) for key in every})
    found = [open_activations(tmp_path, "a", pattern).layers for pattern in patterns]
    values = [{(name, layer.fingerprint()) for name, layer in one.items()} for one in found]
    assert all(one not in values[:i] for i, one in enumerate(values))
    for layers in found:
        assert sum(layer.tokens for layer in layers.values()) == 5 * files


def _refused(root: Path, *said: str) -> None:
    with pytest.raises(InputError) as error:
        open_activations(root, "a")
    assert_one_line(error, root, *said)


def test_layers_by_name_in_folders(tmp_path: Path) -> None:
    x, y = random(30, 3), random(30, 4)
    for number in range(3):
        part = slice(10 * number, 10 * number + 10)
        (tmp_path / f"rank{number}").mkdir()
        save(
            tmp_path / f"rank{number}" / "shard-0.safetensors",
            {"h.2": x[part].clone(), "h.10": y[part].clone()},
        )
    found = open_activations(tmp_path, "a").layers
    assert list(found) == ["h.2", "h.10"]
    assert_holds(found["h.2"], x)
    assert_holds(found["h.10"], y)
    save(tmp_path / "rank0" / "shard-0.npz", {"h.2": x})
    (tmp_path / "rank0").rename(tmp_path / "layer_0")
    (tmp_path / "rank1").rename(tmp_path / "layer_1")
    _refused(tmp_path, "holds layers by name", "layer 'layer_0'")


def test_folders_that_are_read_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, "a/0.npy", random(5, 3))
    for name, content, said in (
        ("capture.json", '{"format": "univfast-capture", "shards": 1, "tokens": 5}', "a capture"),
        ("config.json", '{"model_type": "gpt2"}', "a Hugging Face model"),
    ):
        (tmp_path / "a" / name).write_text(content)
        _refused(tmp_path, tmp_path.name, f"is {said} of its own; give this directory itself")
        (tmp_path / "a" / name).unlink()


# Ids


def ids(root: Path, numbers: list[int]) -> torch.Tensor:
    whole = random(TOKENS * len(numbers), 3)
    for number, part in zip(numbers, whole.split(TOKENS), strict=True):
        write(root, f"{number:012}.npy", part.clone())
    return whole


def test_files_by_id(tmp_path: Path) -> None:
    numbers = [139, 285, 632, 724, 1000]
    whole = ids(tmp_path / "a", numbers)
    ids(tmp_path / "b", numbers)
    (layer,) = open_activations(tmp_path / "a", "a").layers.values()
    assert_holds(layer, whole)
    options: dict[str, Any] = {"match": "index", "rotation": "none"}
    found = uf.correlate(tmp_path / "a", tmp_path / "b", **options)
    assert float(found.correlation.min()) > 1 - 1e-6


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([139, 285, 632], [139, 286, 632], "285 and 286"),
        ([139, 285, 632], [139, 285, 785], "632 and 785"),
        ([139, 285], [139, 300], "285 and 300"),
        ([139, 285, 632], [0, 1, 2], "139 and 0"),
        ([0, 1, 2], [7, 8, 9], "0 and 7"),
    ],
)
def test_models_of_other_ids(tmp_path: Path, one: list[int], other: list[int], said: str) -> None:
    ids(tmp_path / "a", one)
    ids(tmp_path / "b", other)
    for match in ("index", "best"):
        options: dict[str, Any] = {"match": match}
        with pytest.raises(InputError) as error:
            uf.correlate(tmp_path / "a", tmp_path / "b", **options)
        assert_one_line(error, f"numbered otherwise ({said})")


def test_models_that_are_divided_otherwise(tmp_path: Path) -> None:
    """Counted from the start, they may be: sharding changes no result."""
    x = random(4 * TOKENS, 3)
    for name, numbers in (("a", [0, 1, 2, 3]), ("b", [1, 2]), ("c", [0, 80])):
        for number, part in zip(numbers, x.chunk(len(numbers)), strict=True):
            write(tmp_path / name, f"{number}.npy", part.clone())
    options: dict[str, Any] = {"match": "index", "rotation": "none"}
    for other in "bc":
        found = uf.correlate(tmp_path / "a", tmp_path / other, **options)
        assert float(found.correlation.min()) > 1 - 1e-6


# The right numbers


@pytest.mark.parametrize(
    "name",
    ["batch_{shard}/layer_{layer}.npy", "layer{layer}_batch{shard}.npy",
     "batch_{shard}_layer_{layer}.npy"],
)  # fmt: skip
def test_two_layers_in_three_batches(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 600, 16)).astype(np.float32)
    b = (a + 0.35 * rng.standard_normal(a.shape)).astype(np.float32)
    for model, x in (("a", a), ("b", b)):
        for layer in range(2):
            for shard in range(3):
                rows = torch.from_numpy(x[layer, 200 * shard : 200 * shard + 200].copy())
                write(tmp_path / model, name.format(layer=layer, shard=shard), rows)
    result = uf.correlate(tmp_path / "a", tmp_path / "b", match="index", rotation="none")
    expected = [np.corrcoef(a[i].T, b[i].T)[:16, 16:].diagonal() for i in range(2)]
    assert (result.summary["tokens"], result.summary["neurons"]) == (600, 32)
    np.testing.assert_allclose(
        result.correlation.numpy(), np.concatenate(expected), rtol=0, atol=1e-6
    )
    assert abs(float(result.correlation.mean()) - 0.943) < 0.003
