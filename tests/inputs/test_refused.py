"""Inputs that are refused: damaged, hostile or wrong, each in one line."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from support.activation_files import (
    WRITERS,
    assert_one_line,
    flipped,
    matched,
    model,
    random,
    read_all,
    refused,
)
from support.pickles import Malicious
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.masks import open_mask
from univfast.inputs.pairing import match_layers


def opened_and_matched(source: object) -> None:
    activations = open_activations(source, "a")
    match_layers(activations, activations, None)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (torch.ones(4), ["[4]", "[..., neurons]", "at least 2 axes"]),
        (torch.tensor(1.0), ["[]", "at least 2 axes"]),
        (torch.ones(4, 0), ["[4, 0]", "no neurons"]),
        (torch.ones(0, 4), ["[0, 4]", "no tokens"]),
        (torch.ones(3, 0, 4), ["[3, 0, 4]", "no tokens"]),
        (torch.ones(4, 3, dtype=torch.int64), ["dtype int64", "bfloat16"]),
        (torch.ones(4, 3, dtype=torch.bool), ["dtype bool"]),
        (torch.ones(4, 3, dtype=torch.complex64), ["dtype complex64"]),
        (torch.ones(4, 3).to(torch.float8_e4m3fn), ["dtype float8_e4m3fn"]),
        (np.ones((4, 3), np.int32), ["dtype int32"]),
        (np.full((4, 3), "x"), ["dtype <U1"]),
        (np.full((4, 3), None), ["dtype object"]),
        (np.ma.masked_array(np.ones((4, 3)), False), ["masked array"]),
        (torch.ones(4, 3, 2).to_sparse(2), ["sparse_coo"]),
        (torch.ones(4, 3, device="meta"), ["meta tensor"]),
    ],
)
def test_unusable_arrays(source: object, parts: list[str]) -> None:
    refused(source, "a: layer 'activations'", *parts)
    with pytest.raises(InputError) as error:
        opened_and_matched({"good": torch.ones(4, 3), "bad": source})
    assert_one_line(error, "a: layer 'bad'", *parts)


def test_an_array_that_is_no_layer_can_be_left_out() -> None:
    tokens = torch.zeros(4, 3, dtype=torch.int64)
    beside = open_activations({"mlp.0": torch.ones(4, 3), "tokens": tokens}, "a")
    assert list(beside.layers) == ["mlp.0"]
    assert matched(beside, model("b", mlp_0=(4, 3)), "mlp.*") == [("mlp.0", "mlp.0")]
    with pytest.raises(InputError, match=r"^a: layer 'tokens' has dtype int64.*layers=.mlp.0."):
        match_layers(beside, model("b", mlp_0=(4, 3)), None)


def test_a_layer_name_that_is_no_text() -> None:
    refused({"mlp\udc80": torch.ones(4, 3)}, "not Unicode")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (None, ["a: ", "NoneType"]),
        ([[1.0, 2.0]], ["a: ", "list"]),
        ({"x": [[1.0]]}, ["a: layer 'x'", "list"]),
        ({"x": {"y": torch.ones(2, 2)}}, ["a: layer 'x'", "dict"]),
        ({1: torch.ones(2, 2)}, ["a: ", "int"]),
    ],
)
def test_wrong_types(source: object, parts: list[str]) -> None:
    with pytest.raises(TypeError) as error:
        open_activations(source, "a")
    assert_one_line(error, *parts)


def test_no_layers(tmp_path: Path) -> None:
    refused({}, "a: holds no layers")
    torch.save({}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", tmp_path / "a.pt", "holds no layers")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([torch.ones(2, 2)], ["holds a list"]),
        (5, ["holds a int"]),
        ({"x": {"y": torch.ones(2, 2)}}, ["layer 'x'", "dict"]),
        ({0: torch.ones(2, 2)}, ["layer names", "0"]),
        ({"x": torch.ones(2)}, ["layer 'x'", "[2]", "at least 2 axes"]),
        ({"x": torch.ones(2, 2, 2).to_sparse(2)}, ["layer 'x'", "sparse_coo"]),
        ({"x": torch.ones(2, 2, dtype=torch.complex128)}, ["layer 'x'", "complex128"]),
        ({"x": torch.ones(2, 2, dtype=torch.bool)}, ["layer 'x'", "bool"]),
        (np.ones((2, 2)), ["more than tensors", "numpy", "was not executed"]),
        (collections.deque([1]), ["more than tensors", "collections.deque"]),
    ],
)
def test_torch_files_with_other_things(
    tmp_path: Path, content: object, parts: list[str], legacy: bool
) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refused(path, path, *parts)


def write_object_array(path: Path, bomb: Malicious) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([[bomb]], object), allow_pickle=True)


def write_object_npz(path: Path, bomb: Malicious) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.array([[bomb]], object))


def write_compressed_object_npz(path: Path, bomb: Malicious) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, x=np.array([[bomb]], object))


@pytest.mark.parametrize("extension", ["pt", "npy", "npz", "safetensors", "ckpt"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, bomb: torch.save({"x": bomb}, path),
        lambda path, bomb: torch.save({"x": bomb}, path, _use_new_zipfile_serialization=False),
        lambda path, bomb: path.write_bytes(pickle.dumps(bomb)),
        lambda path, bomb: path.write_bytes(pickle.dumps(bomb, protocol=0)),
        write_object_array,
        write_object_npz,
        write_compressed_object_npz,
    ],
    ids=["pt", "legacy", "pickle", "pickle0", "npy", "npz", "compressed"],
)
def test_a_pickle_is_never_executed(
    tmp_path: Path, write: Callable[[Path, Malicious], object], extension: str
) -> None:
    path, marker = tmp_path / f"a.{extension}", tmp_path / "marker"
    write(path, Malicious(marker))
    refused(path, path)
    with pytest.raises(InputError):
        open_mask(path, (3,))
    assert not marker.exists()


def test_a_refused_pickle_is_explained(tmp_path: Path) -> None:
    torch.save({"x": Malicious(tmp_path / "marker")}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "more than tensors", "open", "not executed", "torch.save")
    write_object_array(tmp_path / "a.npy", Malicious(tmp_path / "marker"))
    refused(tmp_path / "a.npy", "pickled Python objects", "not executed")


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": random(50, 40)})
    whole = path.read_bytes()
    for length in (1, 7, 9, 40, 130, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, path)
    for garbage in (b"\0" * 999, b"garbage " * 99, b"\x80" * 999, b"PK\x03\x04" * 99, whole[::-1]):
        path.write_bytes(garbage)
        refused(path, path)
    # Right at the start, and nonsense behind.
    path.write_bytes(whole[:10] + b"\xff{[(" * 99)
    refused(path, path)
    path.write_bytes(b"")
    refused(path, path, "is empty")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", WRITERS)
def test_flipped_bytes_give_a_result_or_an_input_error(
    tmp_path: Path, kind: str, seed: int
) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": random(6, 4)})
    for _ in flipped(path, seed, 40):
        with contextlib.suppress(InputError):
            for layer in open_activations(path, "a").layers.values():
                read_all(layer)


def safetensors_with(path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 60]},
        {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
        {"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]},
        {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [4, 4]},
        {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]},
        {"dtype": "I32", "shape": [4, 4], "data_offsets": [0, 64]},
        "F32",
    ],
)
def test_safetensors_headers(tmp_path: Path, entry: object) -> None:
    safetensors_with(tmp_path / "a.safetensors", {"x": entry})
    refused(tmp_path / "a.safetensors", tmp_path / "a.safetensors")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", tmp_path / "none.pt", "no such file", "check the path")
    refused(tmp_path, tmp_path, "no activations", ".safetensors")
    with pytest.raises(InputError) as error:
        open_mask(tmp_path, (3,))
    assert_one_line(error, tmp_path, "is a directory", "one file")
    refused(f"{tmp_path}/a\0b", "null")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "not a regular file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_permission_denied(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "a.npy").chmod(0)
    refused(tmp_path / "a.npy", tmp_path / "a.npy", "permission denied")


def test_zip_that_is_neither(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    refused(tmp_path / "a.npz", "readme.txt", "not an array")
