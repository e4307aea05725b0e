"""`univfast info PATH`: what a path would be read as, or the line by which it would be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.activation_files import random
from support.command import run
from support.made_up import made_up
from support.shards import save


def told(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert run("info", *map(str, arguments)) == status
    out, err = capsys.readouterr()
    return err if status else out


def described(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    (found,) = json.loads(told(capsys, *arguments, "--json"))
    assert isinstance(found, dict)
    return found


def batches(root: Path) -> None:
    for shard in range(3):
        (root / f"batch_{shard}").mkdir(parents=True)
        for layer in range(2):
            save(root / f"batch_{shard}" / f"layer_{layer}.npy", random(200, 16))


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("x")
    lines = told(capsys, tmp_path / "a").splitlines()
    assert lines[0] == f"{tmp_path}/a: a directory of activations"
    assert "  numbers of shards in names: from batch_0/layer_0.npy to batch_2/layer_1.npy" in lines
    assert "  passed over: 'README.md'" in lines
    assert "  layer_1  16       600     float32  [600, 16]" in lines
    assert "  3 shards of each layer: 0, 1, 2" in lines
    found = described(capsys, tmp_path / "a", "--layers", "layer_1")
    assert [layer["name"] for layer in found["layers"]] == ["layer_1"]
    assert found["left_out"] == ["layer_0"]


def test_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches(tmp_path / "a")
    save(tmp_path / "a" / "batch_0" / "mask.npy", torch.ones(3, 3))
    found = described(capsys, tmp_path / "a", "--files", "batch_{shard}/layer_{layer}.npy")
    assert [(x["name"], x["tokens"], x["neurons"]) for x in found["layers"]] == [
        ("0", 600, 16),
        ("1", 600, 16),
    ]
    assert found["shards"] == ["0", "1", "2"]
    assert found["why"] == [
        "files='batch_{shard}/layer_{layer}.npy': 6 files match",
        "passed over: 'batch_0/mask.npy', which do not match",
    ]
    assert "is for directories" in told(
        capsys, tmp_path / "a" / "batch_0" / "mask.npy", "--files", "{shard}.npy", status=2
    )


@pytest.mark.parametrize(
    ("name", "content", "kind", "why"),
    [
        ("a.pt", {"h": random(4, 3)}, "torch", "a zip file with data.pkl in it"),
        ("a.npy", random(4, 3), "npy", "begins as NumPy writes an array"),
        ("a.npz", {"h": random(4, 3)}, "npz", "a zip file, as NumPy writes arrays"),
        ("a.safetensors", {"h": random(4, 3)}, "safetensors", "a header in JSON"),
    ],
)
def test_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: Any,
    kind: str,
    why: str,
) -> None:
    save(tmp_path / name, content)
    found = described(capsys, tmp_path / name)
    assert found["kind"] == f"a file of activations ({kind})"
    assert why in found["why"][0]
    (layer,) = found["layers"]
    name = "activations" if kind == "npy" else "h"
    expected = {"name": name, "neurons": 3, "tokens": 4, "shape": [4, 3], "dtype": "float32"}
    assert layer == expected


def test_what_stands_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"acts": random(4, 3), "meta": {"model": "gpt2"}}, tmp_path / "a.pt")
    assert "beside, so that --layers must choose: " in told(capsys, tmp_path / "a.pt")
    found = described(capsys, tmp_path / "a.pt")
    assert "layer 'meta' is a dict" in found["unusable"]["meta"]
    found = described(capsys, tmp_path / "a.pt", "--layers", "acts")
    assert (found["unusable"], found["left_out"]) == ({}, ["meta"])
    assert "no layer matches 'x'" in told(capsys, tmp_path / "a.pt", "--layers", "x", status=2)
    assert "layer 'meta' is a dict" in told(capsys, tmp_path / "a.pt", "--layers", "*", status=2)


def test_what_is_no_activations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file, content, kind, why in (
        ("model", "config.json", {"architectures": ["GPT2LMHeadModel"]}, "a Hugging Face model",
         "GPT2LMHeadModel"),
        ("vit", "config.json", {"architectures": ["ViTModel"]}, "a Hugging Face model",
         "on a text, or on what else it reads"),
        ("adapter", "adapter_config.json", {"base_model_name_or_path": "gpt2"}, "an adapter",
         "of gpt2"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(content))
        found = described(capsys, tmp_path / name)
        assert found["kind"] == kind
        assert why in found["why"][0]
        assert found["layers"] == []


def test_a_saved_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up().save(tmp_path / "out")
    assert described(capsys, tmp_path / "out")["kind"] == "a saved result"
    assert run("correlate", str(tmp_path / "out"), str(tmp_path / "out")) == 2
    assert "is a saved result, not activations" in capsys.readouterr().err


def test_a_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"format": "univfast-capture", "version": 1, "shards": 1, "tokens": 5}
    (tmp_path / "capture.json").write_text(json.dumps(about))
    save(tmp_path / "shard-00000.safetensors", {"x": random(5, 3)})
    found = described(capsys, tmp_path)
    assert found["kind"] == "a capture"
    assert found["layers"][0]["tokens"] == 5


def test_what_would_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        np.save(tmp_path / f"foo{i}.npy", random(5, 3).numpy())
    said = told(capsys, tmp_path, status=2)
    assert run("correlate", str(tmp_path), str(tmp_path)) == 2
    assert said == capsys.readouterr().err
    assert said.count("\n") == 1
    assert "may be shard 0 of layer 'foo', or layer 'foo0'" in said
    assert "--layers says how a PATH is read" in told(capsys, "--layers", "x", status=2)
    assert "no such file" in told(capsys, tmp_path / "none.pt", status=2)


def test_the_installation_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(told(capsys, "--json"))["torch"] == torch.__version__


def test_two_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", random(5, 3).numpy())
    out = told(capsys, tmp_path / "a.npy", tmp_path / "b.npy")
    assert [line.rpartition("/")[2] for line in out.splitlines() if line.startswith("/")] == [
        "a.npy: a file of activations (npy)",
        "b.npy: a file of activations (npy)",
    ]


def test_sparse_features_and_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"top_indices": torch.tensor([[0, 2], [1, 3]]), "top_acts": torch.ones(2, 2)},
               tmp_path / "a.pt")  # fmt: skip
    assert "--width" in told(capsys, tmp_path / "a.pt", status=2)
    (layer,) = described(capsys, tmp_path / "a.pt", "--width", "6")["layers"]
    assert (layer["neurons"], layer["tokens"]) == (6, 2)
    torch.save({"batch_0": random(5, 3), "batch_1": random(5, 3)}, tmp_path / "b.pt")
    assert "--layers '*'" in told(capsys, tmp_path / "b.pt", status=2)
    assert len(described(capsys, tmp_path / "b.pt", "--layers", "*")["layers"]) == 2
