"""Inputs: every kind of source read bit for bit, memory that stays flat, one line on errors."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import math
import os
import pickle
import re
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from univfast.errors import InputError
from univfast.inputs import Activations, Layer, match_layers, open_activations, open_mask

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
MIB = 2**20


# Writers


def write_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    torch.save(layers, path)


def write_legacy_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    torch.save(layers, path, _use_new_zipfile_serialization=False)


def write_deflated_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """Compressed, and aligned all the same, so that nothing but the flag tells."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            info = zipfile.ZipInfo(member)
            if "/data/" in member:
                info.compress_type = zipfile.ZIP_DEFLATED
            padding = -(new.start_dir + 30 + len(member) + 4) % 64
            info.extra = struct.pack("<HH", 0x5046, padding) + bytes(padding)
            new.writestr(info, old.read(member))


def write_swapped_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """In the other byte order, unaligned, and with the members in another order."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    sizes = {tensor.nbytes: tensor.element_size() for tensor in layers.values()}
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in reversed(old.namelist()):
            data = old.read(member)
            if member.endswith("/byteorder"):
                data = b"big" if sys.byteorder == "little" else b"little"
            elif "/data/" in member:
                item = sizes[len(data)]
                data = np.frombuffer(data, f"u{item}").byteswap().tobytes()
            new.writestr(member, data)


def write_rezipped_pt(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """Unaligned, and with the members in another order."""
    buffer = io.BytesIO()
    torch.save(layers, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for member in reversed(old.namelist()):
            new.writestr(member, old.read(member))


def write_npy(path: Path, layers: dict[str, torch.Tensor]) -> None:
    (tensor,) = layers.values()
    np.save(path, tensor.numpy())


def write_npz(path: Path, layers: dict[str, torch.Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in layers.items()}
    np.savez(path, **arrays)


def write_compressed_npz(path: Path, layers: dict[str, torch.Tensor]) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in layers.items()}
    np.savez_compressed(path, **arrays)


def write_safetensors(path: Path, layers: dict[str, torch.Tensor]) -> None:
    """By hand, with a header of odd length: other writers do not align the data."""
    codes = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in layers.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": codes.get(tensor.dtype, "BF16"),
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_library_safetensors(path: Path, layers: dict[str, torch.Tensor]) -> None:
    pytest.importorskip("safetensors.torch").save_file(layers, path)


WRITERS: dict[str, Callable[[Path, dict[str, torch.Tensor]], None]] = {
    "pt": write_pt,
    "legacy.pt": write_legacy_pt,
    "deflated.pt": write_deflated_pt,
    "swapped.pt": write_swapped_pt,
    "rezipped.pt": write_rezipped_pt,
    "npy": write_npy,
    "npz": write_npz,
    "compressed.npz": write_compressed_npz,
    "safetensors": write_library_safetensors,
    "unaligned.safetensors": write_safetensors,
}


# Helpers


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def slices(layer: Layer, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, layer.tokens)) for start in range(0, layer.tokens, step)]


def read_all(layer: Layer, step: int = 7) -> torch.Tensor:
    parts = [layer.read(start, stop) for start, stop in slices(layer, step)]
    assert all(part.ndim == 2 and part.stride(1) == 1 for part in parts)
    assert all(part.data_ptr() % part.element_size() == 0 for part in parts)
    return torch.cat(parts)


def assert_holds(layer: Layer, expected: torch.Tensor) -> None:
    assert (layer.dtype, layer.shape) == (expected.dtype, tuple(expected.shape))
    assert (layer.tokens, layer.neurons) == (expected[..., 0].numel(), expected.shape[-1])
    found = read_all(layer)
    assert found.dtype == expected.dtype
    expected = expected.reshape(-1).clone(memory_format=torch.contiguous_format)
    assert torch.equal(found.reshape(-1).view(torch.uint8), expected.view(torch.uint8))


def only(source: object) -> Layer:
    (layer,) = open_activations(source, "a").layers.values()
    return layer


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert re.match(r".+: .+; .+", message) or isinstance(error.value, TypeError), message
    for part in parts:
        assert str(part) in message, message


def refused(source: object, *parts: object) -> None:
    with pytest.raises(InputError) as error:
        open_activations(source, "a")
    assert_one_line(error, *parts)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    if kind != "safetensors":  # whose library chooses an order itself
        assert list(found.layers) == list(layers)
    assert set(found.layers) == set(layers)
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["pt", "npy", "npz", "safetensors"])
def test_resident_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"activations": random(1, 1024).repeat(40 * 1024, 1)})  # 160 MiB
    layer = only(path)
    assert layer.read(0, 8).sum().isfinite()
    start_size, peak = resident(), 0
    for start, stop in slices(layer, 33):  # 132 KiB, so pages around a slice matter too
        assert layer.read(start, stop).sum().isfinite()
        peak = max(peak, resident())
        layer.release(start, stop)
    assert peak - start_size < 24 * MIB
    assert resident() - start_size < 8 * MIB
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


def test_checkpoint_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"format": "univfast-checkpoint", "weights": torch.ones(3)}
    torch.save(saved, tmp_path / "a.ckpt")

    def from_dict(obj: dict[str, Any], source: str) -> dict[str, Any]:
        assert obj["weights"].tolist() == [1, 1, 1]  # values, so not only their description
        assert source == str(tmp_path / "a.ckpt")
        return obj

    experiment = types.ModuleType("univfast.experiment")
    vars(experiment).update(
        from_dict=from_dict,
        capture_mlp=lambda checkpoint, site: {f"mlp.{site}": random(2, 3, 4)},
        test_set_name=lambda checkpoint: "docs, 2 samples",
    )
    monkeypatch.setitem(sys.modules, "univfast.experiment", experiment)
    found = open_activations(tmp_path / "a.ckpt", "a")
    assert found.test_set == "docs, 2 samples"
    assert_holds(found.layers["mlp.pre"], random(2, 3, 4))


# Memory


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
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


# What is refused


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
        (torch.ones(4, 3).to_sparse(), ["sparse_coo"]),
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
    with pytest.raises(InputError, match=r"^a: layer 'tokens' has dtype int64.*--layers GLOB"):
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
        ({"x": torch.ones(2, 2), "step": 3}, ["layer 'step'", "int"]),
        ({0: torch.ones(2, 2)}, ["layer names", "0"]),
        ({"x": torch.ones(2)}, ["layer 'x'", "[2]", "at least 2 axes"]),
        ({"x": torch.ones(2, 2).to_sparse()}, ["layer 'x'", "sparse_coo"]),
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


class Malicious:
    """Unpickling it creates the file that it names."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


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
    whole = np.fromfile(path, np.uint8)
    generator = np.random.default_rng(seed)
    for _ in range(40):
        bytes_ = whole.copy()
        bytes_[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
        bytes_.tofile(path)
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


# Matching


def model(name: str, test_set: str | None = None, **shapes: tuple[int, ...]) -> Activations:
    source = {layer.replace("_", "."): torch.zeros(shape) for layer, shape in shapes.items()}
    return Activations(name, open_activations(source, name).layers, test_set)


def matched(a: Activations, b: Activations, pattern: str | None = None) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in match_layers(a, b, pattern)]


def test_layers_are_matched_by_name_in_the_order_of_a() -> None:
    a = model("a", mlp_1=(6, 4), mlp_0=(2, 3, 5), extra=(7, 2))
    b = model("b", mlp_0=(6, 5), other=(6, 1), mlp_1=(6, 4))
    assert matched(a, b, "mlp.*") == [("mlp.1", "mlp.1"), ("mlp.0", "mlp.0")]
    assert matched(a, b, "mlp.[1]") == [("mlp.1", "mlp.1")]
    assert matched(a, a, "extra") == [("extra", "extra")]
    pairs = match_layers(a, b, "mlp.*")
    assert all(pair == (a.layers[pair[0].name], b.layers[pair[0].name]) for pair in pairs)


def test_a_lone_tensor_is_matched_with_a_single_layer() -> None:
    lone, named = model("a", activations=(6, 4)), model("b", y=(6, 4))
    assert matched(lone, named) == [("activations", "y")]
    assert matched(named, lone) == [("y", "activations")]
    with pytest.raises(InputError, match="only a has 'x', only b has 'y'"):
        matched(model("a", x=(6, 4)), named)


@pytest.mark.parametrize("shape", [(60, 4), (6, 10, 4), (2, 3, 10, 4), (2, 30, 4)])
def test_leading_axes_may_be_merged(shape: tuple[int, ...]) -> None:
    assert matched(model("a", x=(2, 3, 10, 4)), model("b", x=shape)) == [("x", "x")]


@pytest.mark.parametrize("shape", [(3, 2, 10, 4), (10, 6, 4), (20, 3, 4)])
def test_leading_axes_in_another_order_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^a and b: layer 'x' .*another order"):
        matched(model("a", x=(2, 3, 10, 4)), model("b", x=shape))


@pytest.mark.parametrize(
    ("a", "b", "pattern", "parts"),
    [
        (
            model("a", x=(6, 4), y=(6, 4)),
            model("b", x=(6, 4), z=(6, 4)),
            None,
            ["only a has 'y'", "only b has 'z'", "--layers GLOB"],
        ),
        (model("a", x=(6, 4), y=(6, 4)), model("b", y=(6, 4)), None, ["only a has 'x'"]),
        (
            model("a", x0=(6, 4), y=(6, 4)),
            model("b", x1=(6, 4), y=(6, 4)),
            "x?",
            ["only a has 'x0'", "only b has 'x1'"],
        ),
        (model("a", x=(6, 4)), model("b", y=(6, 4)), "x", ["b: no layer matches 'x'", "'y'"]),
        (model("a", x=(6, 4)), model("b", x=(6, 4)), "X", ["a: no layer matches 'X'", "'x'"]),
        (
            model("a", x=(2, 3, 4)),
            model("b", x=(5, 4)),
            None,
            ["layer 'x'", "[2, 3, 4]", "[5, 4]", "6 and 5 tokens", "same tokens"],
        ),
        (
            model("a", activations=(6, 4)),
            model("b", y=(6, 3)),
            None,
            ["'activations' and 'y'", "[6, 4]", "[6, 3]", "match='index' needs equal widths"],
        ),
        (
            model("a", x=(6, 4), y=(7, 4)),
            model("b", x=(6, 4), y=(7, 4)),
            None,
            ["'x' and 'y'", "6 and 7 tokens"],
        ),
        (
            model("a", "docs", x=(6, 4)),
            model("b", "random", x=(6, 4)),
            None,
            ["different test sets", "docs", "random"],
        ),
    ],
)
def test_models_that_do_not_fit(
    a: Activations, b: Activations, pattern: str | None, parts: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        match_layers(a, b, pattern)
    assert_one_line(error, *parts)
    if pattern is None:
        assert str(error.value).startswith("a and b: ")


def test_test_sets_need_to_agree_only_where_both_are_known() -> None:
    known = model("a", "docs", x=(6, 4))
    assert matched(known, model("b", x=(6, 4))) == [("x", "x")]
    assert matched(known, model("b", "docs", x=(6, 4))) == [("x", "x")]


def test_long_lists_of_names_are_cut() -> None:
    shapes: dict[str, Any] = {f"layer_{i}": (2, 2) for i in range(50)}
    a = model("a", **shapes)
    with pytest.raises(InputError, match=r"'layer\.5' and 44 more"):
        match_layers(a, model("b", x=(2, 2)), None)


# Masks


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_masks(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    mask = random(3, 5) > 0
    WRITERS[kind](tmp_path / "mask", {"mask": mask.to(dtype).T})
    if kind == "npy":
        (tmp_path / "mask.npy").rename(tmp_path / "mask")
    found = open_mask(tmp_path / "mask", (5, 3))
    assert found.dtype == torch.bool
    assert torch.equal(found, mask.T.flatten())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (torch.ones(3), "float32"),
        (torch.tensor([0, 1, 2]), "0 and 1 alone"),
        (torch.tensor([0, -1, 1]), "0 and 1 alone"),
        (torch.ones(0, dtype=torch.bool), "is empty"),
        ({"x": torch.ones(3, dtype=torch.bool), "y": torch.ones(3)}, "one array"),
        ({"format": "univfast-checkpoint"}, "one array"),
    ],
)
def test_unusable_masks(tmp_path: Path, content: object, part: str) -> None:
    torch.save(content, tmp_path / "mask.pt")
    with pytest.raises(InputError) as error:
        open_mask(tmp_path / "mask.pt", (3,))
    assert_one_line(error, tmp_path / "mask.pt", part)


def test_mask_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"mask: expected a torch.Tensor"):
        open_mask(3, (3,))
