"""Stored arrays whose neurons are on another axis than the last: what is read, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from univfast.inputs.activations import open_activations
from univfast.inputs.axes import along_axis
from univfast.inputs.layers import Layer

SHAPES = [(6, 5), (4, 6, 5), (3, 6, 5, 4)]


def along(source: object, axis: int | None) -> Layer:
    (layer,) = along_axis(open_activations(source, "a"), axis).layers.values()
    return layer


def expected(array: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def assert_reads(layer: Layer, want: np.ndarray[Any, Any]) -> None:
    assert (layer.tokens, layer.neurons) == want.shape
    for start, stop in ((0, len(want)), (1, 3), (2, len(want) - 1), (len(want) - 1, len(want))):
        layer.prepare(start, stop)
        got = layer.read(start, stop)
        assert got.stride(1) == 1 or got.shape[1] == 1
        np.testing.assert_array_equal(got.numpy(), want[start:stop])
        layer.release(start, stop)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("how", ["tensor", "array", "backwards", "big", "npy", "safetensors"])
def test_any_axis_of_an_array_can_hold_neurons(
    shape: tuple[int, ...], how: str, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    source: object = torch.from_numpy(array)
    if how == "array":
        source = np.asfortranarray(array)
    elif how == "backwards":
        source = np.ascontiguousarray(array[::-1])[::-1]
    elif how == "big":
        source = array.astype(">f4")
    elif how != "tensor":
        source = tmp_path / f"a.{how}"
        if how == "npy":
            np.save(source, array)
        else:
            from safetensors.torch import save_file

            save_file({"x": torch.from_numpy(array)}, source)
    for axis in range(-len(shape), len(shape)):
        assert_reads(along(source, axis), expected(array, axis))


def test_memory_is_not_copied() -> None:
    x = torch.randn(50, 7)
    assert along(x.T, 0).read(3, 5).data_ptr() == x[3].data_ptr()


def test_a_slice_of_a_file_brings_its_own_samples(tmp_path: Path) -> None:
    """And of one whose first axis is neurons, nothing ahead, as it would be all of it."""
    np.save(tmp_path / "a.npy", np.zeros((8, 16, 4096), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((16, 8 * 4096), np.float32))
    asked: list[int] = []

    def watched(name: str, axis: int) -> Layer:
        layer: Any = along(tmp_path / name, axis)
        mapped = layer._stored.mapped
        mapped.prepare = lambda first, last: asked.append(last - first)
        return layer

    watched("a.npy", 1).prepare(4096, 2 * 4096)
    assert asked == [16 * 4096 * 4]
    watched("b.npy", 0).prepare(4096, 2 * 4096)
    assert len(asked) == 1


def shards(folder: Path, parts: list[Tensor]) -> Path:
    folder.mkdir()
    for i, part in enumerate(parts):
        torch.save(part, folder / f"x-{i:05}.pt")
    return folder


def test_shards_join_along_the_first_axis(tmp_path: Path) -> None:
    whole = torch.randn(7, 6, 5)
    folder = shards(tmp_path / "a", [whole[:4].clone(), whole[4:].clone()])
    for axis in (1, -2):
        assert_reads(along(folder, axis), expected(whole.numpy(), 1))
    for axis in (0, -3):
        with pytest.raises(uf.InputError, match=r"axis: is .*, along which its 2 files are joined"):
            along(folder, axis)
    alone = shards(tmp_path / "b", [whole])
    assert_reads(along(alone, 0), expected(whole.numpy(), 0))


@pytest.mark.slow
def test_columns_of_a_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = np.random.default_rng(0).standard_normal((7, 6, 5)).astype(np.float32)
    features = datasets.Features({"x": datasets.Array2D((6, 5), "float32")})
    datasets.Dataset.from_dict({"x": whole}, features=features).save_to_disk(tmp_path / "d")
    layer = along(tmp_path / "d", 1)
    if layer.shape[:-1] == (7, 5):
        assert_reads(layer, expected(whole, 1))


class _Rows:
    """A `Layer` of a store that reads rows along the last axis alone."""

    def __init__(self, array: Tensor) -> None:
        self._array, self.name, self.dtype = array, "x", array.dtype
        self.shape, self.neurons, self.device = array.shape, array.shape[-1], array.device
        self.tokens = array[..., 0].numel()
        self.most = 0

    def read(self, start: int, stop: int) -> Tensor:
        self.most = max(self.most, stop - start)
        return self._array.reshape(-1, self.neurons)[start:stop]

    def prepare(self, start: int, stop: int) -> None:
        assert 0 <= start < stop <= self.tokens

    def release(self, start: int, stop: int) -> None:
        assert 0 <= start < stop <= self.tokens


def test_layers_of_other_stores_are_read_a_sample_at_a_time() -> None:
    from univfast.inputs.layers import Activations

    whole = torch.randn(7, 6, 5, 4)
    for axis in (1, 2, -2):
        rows = _Rows(whole)
        (layer,) = along_axis(Activations("s", {"x": rows}), axis).layers.values()  # type: ignore[dict-item]
        want = expected(whole.numpy(), axis)
        np.testing.assert_array_equal(layer.read(1, 2).numpy(), want[1:2])
        assert rows.most == 30
        assert_reads(layer, want)
    with pytest.raises(uf.InputError, match="axis: is 0, the first of layer 'x' of s"):
        along_axis(Activations("s", {"x": _Rows(whole)}), 0)  # type: ignore[dict-item]


def test_r_is_that_of_the_neurons() -> None:
    a = torch.randn(40, 8, 6, 6)
    b = a + torch.randn(40, 8, 6, 6)
    found = uf.correlate(a, b, axis=1, match="index", draws=2)
    x, y = (expected(t.double().numpy(), 1) for t in (a, b))
    want = np.diagonal(np.corrcoef(x.T, y.T), offset=8)
    np.testing.assert_allclose(found.correlation.numpy(), want, atol=1e-6)
    assert found.summary["tokens"] == 40 * 36


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        (
            (8, 16, 12, 12),
            None,
            r"axis: layer 'activations' of a has shape \[8, 16, 12, 12\], which can be read as 12"
            r" neurons on the last axis \(axis=-1\), or as 16 channels \(axis=1\); say which",
        ),
        ((60, 16), 2, r"axis: .* \[60, 16\], and no axis 2; give one from -2 to 1"),
        ((60, 16), -3, r"axis: .* \[60, 16\], and no axis -3"),
    ],
)
def test_what_cannot_be_read_is_refused(
    shape: tuple[int, ...], axis: int | None, message: str
) -> None:
    x = torch.randn(shape)
    with pytest.raises(uf.InputError, match=f"^{message}"):
        uf.correlate(x, x, axis=axis)


def test_an_array_that_is_not_chosen_needs_no_axis() -> None:
    x = torch.randn(60, 4)
    both = {"mlp": x, "images": torch.randn(3, 4, 5, 6)}
    assert uf.correlate(both, both, layers="mlp").summary["neurons"] == 4
    with pytest.raises(uf.InputError, match="axis: layer 'images' of a has shape"):
        uf.correlate(both, both)


def test_masks_and_details_are_of_the_tokens() -> None:
    a = torch.randn(30, 8, 6)
    keep = torch.rand(30, 6) < 0.5
    options: dict[str, Any] = {"match": "best", "draws": 2, "details": True}
    ids = torch.randint(0, 9, (30, 6))
    one = uf.correlate(a, a.flip(1), axis=1, mask=keep, token_ids=ids, **options)
    moved = a.movedim(1, -1).contiguous()
    two = uf.correlate(moved, moved.flip(-1), mask=keep, token_ids=ids, **options)
    assert torch.equal(one.correlation, two.correlation)
    again = uf.explain(one, a, a.flip(1), axis=1, mask=keep, token_ids=ids)
    assert repr(again.explained) == repr(one.explained)


def test_a_mask_of_a_store_is_of_the_axes_before_the_last(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["acts"] = np.random.default_rng(0).standard_normal((5, 5, 5)).astype(np.float32)
        file["mask"] = np.eye(5) > 0  # [5, 5]: of which two axes?
    assert uf.correlate(path, path).summary["tokens"] == 5
    assert uf.correlate(path, path, axis=-1).summary["tokens"] == 5
    with pytest.raises(uf.InputError, match=r"^axis: .*has a mask of its own"):
        uf.correlate(path, path, axis=1)
