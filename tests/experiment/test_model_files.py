"""Model files: they come back as they were, and damaged ones are named."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.pickles import Malicious
from support.tiny_models import WEIGHT, same_state, save, write
from univfast.errors import InputError
from univfast.experiment import TrainedModel, from_dict, load_model, save_model
from univfast.experiment.sites import test_tokens as tokens_of
from univfast.inputs.activations import open_activations
from univfast.inputs.model_paths import is_model_file


def test_a_model_file_comes_back_as_it_was(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("older")
    save_model(path, trained)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
    loaded = torch.load(path, weights_only=True)
    assert (loaded["format"], loaded["version"]) == ("univfast-checkpoint", 1)
    assert is_model_file(loaded)
    back = load_model(path)
    assert same_state(trained, back)
    for name in ("config", "data", "seed", "half", "steps", "loss", "test_samples"):
        assert getattr(back, name) == getattr(trained, name)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes: as if the disk were full
    try:
        with pytest.raises(InputError, match=rf"^{path}: cannot be written"):
            save_model(path, trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
    assert path.read_text() == "older"


@pytest.mark.parametrize("name", ["folder", "absent/a.ckpt", "file/a.ckpt"])
def test_an_unwritable_model_file_is_named(
    tmp_path: Path, trained: TrainedModel, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: cannot be written"):
        save_model(tmp_path / name, trained)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_malicious_model_file_is_refused(tmp_path: Path) -> None:
    path, victim = tmp_path / "bad.ckpt", tmp_path / "victim"
    torch.save({"format": "univfast-checkpoint", "version": 1, "config": Malicious(victim)}, path)
    with pytest.raises(InputError, match=rf"^{path}: .* alone can be loaded safely"):
        load_model(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "cannot be read"),
        (write(b""), "is damaged"),
        (write(b"PK\x03\x04 garbage"), "is damaged"),
        (write(b"{'some': 'text'}\n"), "is damaged"),
        (save(torch.ones(3)), "is not a model file of univfast"),
        (save({"layer": torch.ones(3)}), "is not a model file of univfast"),
        (save({"format": torch.ones(3)}), "is not a model file of univfast"),
    ],
)
def test_files_that_are_no_model_file_are_named(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "bad.ckpt"
    make(path)
    with pytest.raises(InputError, match=rf"^{path}: {reason}.*; [^\n]+$"):
        load_model(path)


def test_a_truncated_model_file_is_named(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "cut.ckpt"
    save_model(path, trained)
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(InputError, match=rf"^{path}: is damaged"):
        load_model(path)


ABSENT = object()


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["version"], 2, "has model file version 2, this univfast reads 1; update univfast"),
        (["seed"], ABSENT, "is a model file without seed"),
        (["seed"], "1", r"is a damaged model file \(seed: expected an integer, got str\)"),
        (["half"], "third", r"is a damaged model file \(half: got 'third'"),
        (["loss"], None, r"is a damaged model file \(loss must be a float"),
        (
            ["test_samples"],
            0,
            r"is a damaged model file \(test_samples: got 0, expected at least 1",
        ),
        (["config"], [], r"is a damaged model file \(config must be a dict, not list\)"),
        (["config", "heads"], ABSENT, r"is a damaged model file \(config: must have d_mlp, "),
        (["config", "heads"], 3, r"is a damaged model file \(heads: 3 does not divide"),
        (["config", "layers"], 2, r"is a damaged model file \(state: blocks.2.\S+ is missing or"),
        (["config", "layers"], 16_000, r"is a damaged model file \(state: too few tensors"),
        (["config", "d_mlp"], 25, r"\(state: blocks.0.mlp.up.weight has shape \[24, 16\], exp"),
        (["state", WEIGHT], ABSENT, rf"\(state: {WEIGHT} is missing or unexpected\)"),
        (["state", WEIGHT], [1.0], rf"\(state: {WEIGHT} must be a torch.float32 tensor\)"),
        (["state", "more"], torch.ones(1), r"\(state: more is missing or unexpected\)"),
    ],
)
def test_damaged_model_files_are_named(
    tmp_path: Path, trained: TrainedModel, keys: list[str], value: object, reason: str
) -> None:
    save_model(tmp_path / "a.ckpt", trained)
    obj = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert same_state(from_dict(obj, "before"), trained)
    parent = obj[keys[0]] if len(keys) == 2 else obj
    if value is ABSENT:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = value
    with pytest.raises(InputError, match=rf"^model\.ckpt: .*{reason}[^\n]+$"):
        from_dict(obj, "model.ckpt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, trained: TrainedModel, kind: str
) -> None:
    """Neither as a model nor as the text that a model file names."""
    path, model = tmp_path / "x", tmp_path / "model.ckpt"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
    }
    make[kind]()
    save_model(model, replace(trained, data=str(path)))
    for read in (lambda: load_model(path), lambda: open_activations(model, "a")):
        with pytest.raises(InputError, match=rf"^{path}: [^\n]+; [^\n]+$"):
            read()


def test_weights_that_the_file_does_not_hold(tmp_path: Path, trained: TrainedModel) -> None:
    """One value for all: PyTorch would take the memory for each."""
    path = tmp_path / "model.ckpt"
    save_model(path, trained)
    content = torch.load(path, weights_only=True)
    content["state"][WEIGHT] = torch.zeros(1).expand(content["state"][WEIGHT].shape)
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"^{path}: is damaged"):
        load_model(path)


def test_a_test_set_that_no_memory_holds(trained: TrainedModel) -> None:
    config = replace(trained.config, sequence=16_384)
    huge = replace(trained, config=config, data="random", test_samples=10**6)
    with pytest.raises(InputError, match=r"^test_samples: got 1000000, expected at most 8192"):
        tokens_of(huge)
