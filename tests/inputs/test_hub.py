"""Names on the hub, against a stand-in that answers as it does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import univfast as uf
from support.hub import Hub, asked_instead
from univfast.inputs.hub import fetch

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with asked_instead(monkeypatch, tmp_path / "cache") as found:
        yield found


def repository(there: Hub, folder: Path, name: str, *files: str) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    there.repos[name] = folder
    return folder


def refused(name: str, *parts: str) -> None:
    with pytest.raises(uf.InputError) as caught:
        fetch(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_only_what_a_model_needs(there: Hub, tmp_path: Path) -> None:
    needed = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "merges.txt",
        "1_Pooling/config.json",
    )
    more = ("pytorch_model.bin", "README.md", "onnx/model.onnx", "onnx/config.json", "code.py")
    repository(there, tmp_path / "m", "models/some/model", *needed, *more)
    found = fetch("hf://some/model@v1")
    files = {str(x.relative_to(found.path)) for x in Path(found.path).rglob("*") if x.is_file()}
    assert files == {*needed}
    assert found.revision == there.commit("models/some/model")


def test_pickled_weights_where_there_are_no_others(there: Hub, tmp_path: Path) -> None:
    repository(there, tmp_path / "m", "models/some/old", "config.json", "pytorch_model.bin")
    found = Path(fetch("hf://some/old@main").path)
    assert (found / "pytorch_model.bin").is_file()


def test_without_a_revision_the_commit_is_said(there: Hub, tmp_path: Path) -> None:
    repository(there, tmp_path / "m", "models/some/model", "config.json")
    with pytest.warns(UserWarning, match=there.commit("models/some/model")):
        fetch("hf://some/model")


def test_activations(there: Hub, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 20, generator=generator) for _ in range(2))
    for name, x in (("a", a), ("b", b)):
        folder = repository(there, tmp_path / name, f"datasets/some/{name}", "README.md")
        (folder / "acts").mkdir()
        save_file({"mlp": x}, folder / "acts" / "shard-00000.safetensors")
        np.save(folder / "other.npy", x.numpy())
    names = [f"hf://datasets/some/{name}@v1/acts" for name in "ab"]
    found, expected = uf.correlate(*names), uf.correlate({"mlp": a}, {"mlp": b})
    np.testing.assert_array_equal(found.correlation.numpy(), expected.correlation.numpy())
    assert found.summary["models"] == names
    assert found.summary["sources"] == {
        name: {"hub": name, "revision": there.commit(f"datasets/some/{letter}")}
        for name, letter in zip(names, "ab", strict=True)
    }
    assert not any("other.npy" in path and "resolve" in path for path in there.asked)


def test_from_the_cache_where_the_hub_is_not_reached(there: Hub, tmp_path: Path) -> None:
    repository(there, tmp_path / "m", "models/some/model", "config.json", "model.safetensors")
    first = fetch("hf://some/model@v1")
    there.broken = True
    fetch.cache_clear()
    assert fetch("hf://some/model@v1") == first
    refused("hf://some/other@v1", "cannot be reached", "give its directory")


def test_what_is_not_there(there: Hub, tmp_path: Path) -> None:
    repository(there, tmp_path / "m", "models/some/model", "config.json")
    refused("hf://some/nothing@v1", "is not on the hub, or not for you to see", "log in")
    refused("hf://some/model@v7", "no such revision")
    refused("hf://some/model@v1/folder", "no file that could be read")
    there.gated.add("models/some/model")
    refused("hf://some/model@v1", "agreement", "log in")


def test_offline(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("hf://some/model@v1", "cannot be reached", "give its directory")
    assert there.asked == []


def test_no_one_listens(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("hf://some/model@v1", "cannot be reached")


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://model", "hf://a/b@", "hf://a/b@v1/../..", "hf://datasets/a", "hf://a b/c"],
)
def test_names_that_are_none(name: str) -> None:
    refused(name, "hf://ORG/NAME@REVISION")


def test_a_name_without_hf_is_a_path(there: Hub, tmp_path: Path) -> None:
    repository(there, tmp_path / "m", "models/some/model", "config.json")
    with pytest.raises(uf.InputError, match=r"^some/model: "):
        uf.correlate("some/model", "some/model")
    assert there.asked == []


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://some/model@v0", "pip install 'univfast[transformers]'")
