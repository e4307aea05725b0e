"""Files with more beside their layers: passed over where layers are chosen, and else named."""

from __future__ import annotations

import argparse
import collections
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import assert_holds, random, refused
from univfast.errors import InputError
from univfast.inputs.activations import open_activations

A = random(300, 8)

BESIDE: dict[str, tuple[Callable[[], Any], str]] = {
    "dict": (lambda: {"model": "gpt2"}, "is a dict, not a tensor"),
    "text": (lambda: "gpt2", "is a str, not a tensor"),
    "int": (lambda: 3, "is a int, not a tensor"),
    "list": (lambda: [torch.ones(2, 2)], "is a list, not a tensor"),
    "None": (lambda: None, "is a NoneType, not a tensor"),
    "dtype": (lambda: torch.float32, "is a torch.float32, not a tensor"),
    "array": (lambda: np.ones(3), "it asks for numpy._core.multiarray._reconstruct"),
    "number": (lambda: np.float64(1), "it asks for numpy._core.multiarray.scalar"),
    "object": (lambda: argparse.Namespace(x=1), "it asks for argparse.Namespace"),
    "module": (lambda: torch.nn.Linear(2, 2), "it asks for torch.nn.modules.linear.Linear"),
    "sparse": (lambda: torch.ones(2, 2).to_sparse_csc(), "is a sparse_csc tensor"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint32),
        "is a quantized tensor",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        "is a nested tensor",
    ),
    "fp8": (lambda: torch.ones(2, 2).to(torch.float8_e4m3fn), "has dtype float8_e4m3fn"),
    "ids": (lambda: torch.zeros(300, 8, dtype=torch.int64), "has dtype int64"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_stands_beside_in_a_torch_file(tmp_path: Path, kind: str, legacy: bool) -> None:
    make, said = BESIDE[kind]
    path = tmp_path / "a.pt"
    torch.save({"acts": A, "meta": make()}, path, _use_new_zipfile_serialization=not legacy)
    _check(path, "meta", said)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_lone_tensor_of_another_kind_is_called_so(tmp_path: Path) -> None:
    for kind in ("sparse", "quantized", "nested"):
        torch.save(BESIDE[kind][0](), tmp_path / "a.pt")
        refused(tmp_path / "a.pt", tmp_path / "a.pt", BESIDE[kind][1], "pass a dense one")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    torch.save({"acts": A, 3: A}, tmp_path / "a.pt")
    _check(tmp_path / "a.pt", "[3]", "layer names must be text, found 3")


def test_fp8_beside_in_safetensors(tmp_path: Path) -> None:
    header = {
        "acts": {"dtype": "F32", "shape": [300, 8], "data_offsets": [0, 9600]},
        "f": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [9600, 9604]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + A.numpy().tobytes() + bytes(4))
    _check(path, "f", "has dtype F8_E4M3")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_texts_and_objects_beside_in_npz(tmp_path: Path, save: Callable[..., Any]) -> None:
    save(tmp_path / "a.npz", acts=A.numpy(), model=np.array("gpt2"))
    _check(tmp_path / "a.npz", "model", "has dtype <U4")
    save(tmp_path / "a.npz", acts=A.numpy(), more=np.array([None, {}]))
    _check(tmp_path / "a.npz", "more", "holds pickled Python objects")


def _check(path: Path, beside: str, said: str) -> None:
    """The layer alone where it is chosen, or an error that says how, also of a directory."""
    found = open_activations(path, "a")
    assert list(found.layers) == ["acts"]
    assert list(found.unusable) == [beside]
    assert_holds(found.layers["acts"], A)
    for source in (path, path.parent) if path.suffix == ".pt" else (path,):
        with pytest.raises(InputError) as error:
            uf.correlate(source, source)
        if source == path or "old format" not in str(error.value):
            assert said in str(error.value)
            assert "leave it out with layers='acts'" in str(error.value)
    r = uf.correlate(path, path, layers="acts", match="index", rotation="none").correlation
    assert float(r.min()) > 1 - 1e-6


def test_dicts_of_all_kinds_keep_their_order(tmp_path: Path) -> None:
    layers = {"h10": A, "h2": A + 1}
    dicts = (
        collections.defaultdict(list, layers),
        collections.OrderedDict(layers),
        torch.nn.ParameterDict(layers),
        layers,
    )
    for number, content in enumerate(dicts):
        torch.save(content, path := tmp_path / f"{number}.pt")
        found = open_activations(path, "a")
        assert list(found.layers) == list(content)
        for name, x in layers.items():
            assert_holds(found.layers[name], x)


def test_safetensors_are_in_natural_order(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    names = [f"h.{i}" for i in (0, 2, 10, 11)]
    save_file({name: A[i:].clone() for i, name in enumerate(names)}, tmp_path / "a.safetensors")
    found = open_activations(tmp_path / "a.safetensors", "a").layers
    assert list(found) == names
    for i, name in enumerate(names):
        assert_holds(found[name], A[i:])
