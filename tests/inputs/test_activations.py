"""Inputs: every kind of source read bit for bit, memory that stays flat, one line on errors."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.activation_files import MIB, WRITERS, assert_holds, only, random, slices
from support.dtypes import DTYPES, name_of
from support.processes import memory
from univfast.inputs.activations import open_activations

# Files


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind in WRITERS
        for dtype in DTYPES
        # NumPy has no bfloat16
        if not (dtype is torch.bfloat16 and kind.endswith(("npy", "npz")))
    ],
)
def test_file_round_trip(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    layers = {"mlp.1": random(3, 5, 7, dtype=dtype), "mlp.0": random(15, 4, dtype=dtype)}
    if kind == "npy":
        layers = {"activations": layers["mlp.1"]}
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, layers)
    found = open_activations(path, "argument")
    assert found.name == str(path)
    assert found.test_set is None
    natural = kind.endswith("safetensors")  # whose library chooses an order itself
    assert list(found.layers) == (sorted(layers) if natural else list(layers))
    for name, tensor in layers.items():
        assert found.layers[name].name == name
        assert_holds(found.layers[name], tensor)


@pytest.mark.parametrize("kind", ["pt", "legacy.pt"])
def test_lone_tensor_in_a_file(tmp_path: Path, kind: str) -> None:
    tensor = random(6, 3)
    torch.save(tensor, tmp_path / "a", _use_new_zipfile_serialization=kind == "pt")
    found = open_activations(str(tmp_path / "a"), "a")
    assert list(found.layers) == ["activations"]
    assert_holds(found.layers["activations"], tensor)


def test_pt_keeps_strides_views_and_parameters(tmp_path: Path) -> None:
    base = random(40, 12)
    layers = {
        "whole": base,
        "transposed": base.T,
        "columns": base[:, 1::3],
        "tail": base[5:],
        "expanded": base[:1].expand(9, 12),
        "parameter": torch.nn.Parameter(base[:, :2]),
    }
    torch.save(layers, tmp_path / "a.pt")
    found = open_activations(tmp_path / "a.pt", "a").layers
    for name, tensor in layers.items():
        assert_holds(found[name], tensor.detach())


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">f2"])
def test_npy_in_the_other_byte_order_and_column_order(tmp_path: Path, dtype: str) -> None:
    tensor = random(4, 6, 5, dtype=torch.float16)
    np.save(tmp_path / "a.npy", np.asfortranarray(tensor.numpy().astype(dtype)))
    assert_holds(only(tmp_path / "a.npy"), tensor.to(getattr(torch, f"float{8 * int(dtype[2])}")))


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random(4, 3).numpy())
    (tmp_path / "a.npy").rename(tmp_path / "a.pt")
    assert_holds(only(tmp_path / "a.pt"), random(4, 3))


@pytest.mark.parametrize("kind", ["pt", "npy", "safetensors"])
def test_files_are_read_in_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": random(50, 16)})
    layer = only(path)
    assert layer.read(10, 20).data_ptr() == layer.read(0, 1).data_ptr() + 10 * 16 * 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["pt", "npy", "npz", "safetensors"])
def test_resident_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": random(1, 1024).repeat(40 * 1024, 1)})  # 160 MiB
    layer = only(path)
    assert layer.read(0, 8).sum().isfinite()
    start_size, peak = memory("VmRSS"), 0
    for start, stop in slices(layer, 33):  # 132 KiB, so pages around a slice matter too
        assert layer.read(start, stop).sum().isfinite()
        peak = max(peak, memory("VmRSS"))
        layer.release(start, stop)
    assert peak - start_size < 24 * MIB
    assert memory("VmRSS") - start_size < 8 * MIB
    assert torch.equal(layer.read(7, 8), random(1, 1024))


@pytest.mark.parametrize("kind", WRITERS)
def test_release_never_changes_data(tmp_path: Path, kind: str) -> None:
    tensor = random(2, 3000, 300)
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": tensor})
    layer = only(path)
    kept = layer.read(0, 3000)
    for start, stop in [*slices(layer, 999), (0, layer.tokens), (5, 5), (0, 1)]:
        layer.release(start, stop)
    assert torch.equal(kept, tensor[0])
    assert_holds(layer, tensor)


def test_release_leaves_memory_alone() -> None:
    tensor, array = random(300, 4096), random(300, 4096).numpy()[::-1]
    expected = tensor.clone()
    for layer in (only(tensor), only(array)):
        layer.release(0, 300)
        layer.release(0, 300)
    assert torch.equal(tensor, expected)
    assert np.array_equal(array, expected.numpy()[::-1])


def test_release_of_a_transposed_file(tmp_path: Path) -> None:
    tensor = random(64, 5, 900).permute(1, 2, 0)  # its leading axes cannot be flattened in place
    torch.save(tensor, tmp_path / "a.pt")
    layer = only(tmp_path / "a.pt")
    for start, stop in slices(layer, 1000):
        layer.release(start, stop)
    assert_holds(layer, tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="the commit limit is Linux's")
def test_file_larger_than_memory_and_swap(tmp_path: Path) -> None:
    info = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    tokens = (int(info["MemTotal"]) + int(info["SwapTotal"])) * 1024 // 4096 + 10**6
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (tokens, 1024)}
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + tokens * 4096)  # a hole: takes no space
        except OSError:
            pytest.skip("no sparse files here")
    assert not only(path).read(tokens - 3, tokens).any()


def test_model_file_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"format": "univfast-checkpoint", "weights": torch.ones(3)}
    torch.save(saved, tmp_path / "a.ckpt")

    def from_dict(obj: dict[str, Any], source: str) -> dict[str, Any]:
        assert obj["weights"].tolist() == [1, 1, 1]  # values, so not only their description
        assert source == str(tmp_path / "a.ckpt")
        return obj

    experiment = types.ModuleType("univfast.experiment")
    vars(experiment).update(
        from_dict=from_dict,
        capture_mlp=lambda trained, site: {f"mlp.{site}": random(2, 3, 4)},
        test_set_name=lambda trained: "docs, 2 samples",
        test_tokens=lambda trained: torch.arange(6).view(2, 3),
    )
    monkeypatch.setitem(sys.modules, "univfast.experiment", experiment)
    found = open_activations(tmp_path / "a.ckpt", "a")
    assert found.test_set == "docs, 2 samples"
    assert found.ids is not None
    assert found.ids.tolist() == [*range(6)]
    assert_holds(found.layers["mlp.pre"], random(2, 3, 4))


# Memory


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_tensors(dtype: torch.dtype) -> None:
    base = random(6, 8, 10, dtype=dtype)
    for tensor in (base, base[:, ::2], base[..., ::3], base.transpose(0, 1), base.permute(2, 0, 1)):
        assert_holds(only(tensor), tensor)
    assert_holds(only(base[..., :1]), base[..., :1])
    assert_holds(only(random(1, 9, dtype=dtype).T), random(1, 9, dtype=dtype).T)
    assert_holds(only(base[:1, :1].expand(4, 5, 10)), base[:1, :1].expand(4, 5, 10))
    assert_holds(only(base[..., :1].expand(6, 8, 10)), base[..., :1].expand(6, 8, 10))


def test_tensors_are_not_copied_where_strides_permit() -> None:
    base = random(6, 8, 10)
    for tensor in (base, base[:, ::2], base[..., 3:7], base[1]):
        row = tensor.reshape(-1, tensor.shape[-1])[3]
        layer = only(tensor)
        assert layer.read(0, 4).data_ptr() == tensor.data_ptr()
        assert torch.equal(layer.read(3, 4)[0], row)
    base.requires_grad_()
    assert not only(base).read(0, 2).requires_grad
    assert only(base).read(0, 2).data_ptr() == base.data_ptr()


def test_a_copy_is_of_the_slice_alone() -> None:
    layer = only(random(100, 50, 10).transpose(0, 1))
    assert layer.read(60, 65).untyped_storage().nbytes() == 5 * 10 * 4


def test_negated_view() -> None:
    tensor = torch._neg_view(random(4, 3))
    assert tensor.is_neg()
    assert not only(tensor).read(0, 4).is_neg()
    assert_holds(only(tensor), -random(4, 3))


def test_numpy_arrays() -> None:
    base = random(6, 8, 10).numpy()
    record = np.zeros((5, 4), [("x", "<f4"), ("y", "i1")])
    record["x"] = base[0, :5, :4]
    for array in (
        base,
        base[::-1],
        base[:, ::-2, ::-1],
        base.T,
        base.astype(">f4"),
        base.astype(">f4").transpose(1, 0, 2),
        record["x"],
        np.broadcast_to(base[0], (3, 8, 10)),
    ):
        assert_holds(only(array), torch.from_numpy(np.array(array, np.float32)))
    assert only(base).read(8, 9).data_ptr() == base[1].ctypes.data


def test_read_only_array_does_not_warn() -> None:
    array = random(4, 3).numpy()
    array.flags.writeable = False
    torch.set_warn_always(True)
    try:
        assert_holds(only(array), random(4, 3))
    finally:
        torch.set_warn_always(False)


def test_dlpack_and_dicts() -> None:
    class Foreign:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self, **options: Any) -> object:
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[Any, int]:
            return self.tensor.__dlpack_device__()

    tensor = random(5, 3, dtype=torch.bfloat16)
    found = open_activations({"x": Foreign(tensor), "y": np.ones((5, 2))}, "model")
    assert (found.name, list(found.layers), found.test_set) == ("model", ["x", "y"], None)
    assert_holds(found.layers["x"], tensor)
    assert_holds(found.layers["y"], torch.ones(5, 2, dtype=torch.float64))
    assert_holds(only(Foreign(tensor)), tensor)


def test_dlpack_of_the_newer_signature() -> None:
    """As of JAX and NumPy 2: with keywords for the version, the device and a copy; read-only."""
    asked: list[dict[str, Any]] = []

    class Frozen:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(
            self,
            *,
            stream: Any = None,
            max_version: tuple[int, int] | None = None,
            dl_device: tuple[Any, int] | None = None,
            copy: bool | None = None,
        ) -> object:
            asked.append({"max_version": max_version, "copy": copy})
            return self.array.__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )

        def __dlpack_device__(self) -> tuple[Any, int]:
            return self.array.__dlpack_device__()

    array = random(5, 4, 3).numpy()
    array.flags.writeable = False  # which capsules of version 1.0 or newer alone can say
    for part in (array, array[:, ::2], array.transpose(1, 0, 2)):
        assert_holds(only(Frozen(part)), torch.from_numpy(part.copy()))
    assert only(Frozen(array)).read(0, 1).data_ptr() == array.ctypes.data
    assert_holds(only(Frozen(random(5, 3, dtype=torch.bfloat16))), random(5, 3).bfloat16())
    assert all(found["max_version"] >= (1, 0) and not found["copy"] for found in asked)


def test_read_refuses_tokens_that_are_not_there() -> None:
    layer = only(random(5, 3))
    assert layer.read(5, 5).shape == (0, 3)
    for start, stop in [(-1, 2), (0, 6), (3, 2)]:
        with pytest.raises(IndexError):
            layer.read(start, stop)
