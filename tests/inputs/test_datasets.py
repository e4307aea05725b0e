"""Hugging Face datasets on disk, written by the library itself."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import flipped, refused
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Activations, Layer

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def feature(kind: str, width: int, dtype: str) -> Any:
    value = datasets.Value(dtype)
    return {
        "list": datasets.List(value),
        "fixed": datasets.List(value, length=width),
        "large": datasets.LargeList(value),
        "lists": datasets.List(datasets.List(value)),
        "fixed lists": datasets.List(datasets.List(value, length=width)),
        "large lists": datasets.LargeList(datasets.LargeList(value)),
        "array": datasets.Array2D((3, width), dtype),
        "ragged array": datasets.Array2D((None, width), dtype),
    }[kind]


def write(folder: Path, columns: dict[str, Any], features: dict[str, Any], shards: int = 1) -> Path:
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.save_to_disk(folder, num_shards=shards)
    return folder


def read_all(layer: Layer, step: int = 7) -> torch.Tensor:
    parts = []
    for start in range(0, layer.tokens, step):
        stop = min(start + step, layer.tokens)
        layer.prepare(start, stop)
        parts.append(layer.read(start, stop).clone())
        layer.release(start, stop)
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
def test_a_row_a_token(tmp_path: Path, kind: str, dtype: str) -> None:
    x = random(50, 6).astype(dtype)
    write(tmp_path / "d", {"mlp.0": list(x)}, {"mlp.0": feature(kind, 6, dtype)}, shards=3)
    layer = open_activations(tmp_path / "d", "a").layers["mlp.0"]
    assert (layer.shape, layer.dtype) == ((50, 6), getattr(torch, dtype))
    assert torch.equal(read_all(layer), torch.from_numpy(x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", ["lists", "fixed lists", "large lists", "array", "ragged array"])
def test_a_row_a_sequence(tmp_path: Path, kind: str, dtype: str) -> None:
    lengths = [3] * 40 if kind == "array" else [1 + i % 4 for i in range(40)]
    x = random(sum(lengths), 6).astype(dtype)
    rows = np.split(x, np.cumsum(lengths)[:-1])
    write(tmp_path / "d", {"h": rows}, {"h": feature(kind, 6, dtype)}, shards=2)
    layer = open_activations(tmp_path / "d", "a").layers["h"]
    assert (layer.shape, layer.dtype) == (x.shape, getattr(torch, dtype))
    assert torch.equal(read_all(layer), torch.from_numpy(x))


def test_values_are_read_in_place(tmp_path: Path) -> None:
    write(tmp_path / "d", {"h": list(random(50, 6))}, {"h": feature("list", 6, "float32")})
    layer = open_activations(tmp_path / "d", "a").layers["h"]
    assert layer.read(9, 20).data_ptr() == layer.read(0, 1).data_ptr() + 9 * 6 * 4


def test_many_batches_and_files(tmp_path: Path) -> None:
    x = random(5000, 3)  # datasets writes some 1,000 rows a batch
    write(tmp_path / "d", {"h": list(x)}, {"h": feature("list", 3, "float32")}, shards=40)
    layer = open_activations(tmp_path / "d", "a").layers["h"]
    assert torch.equal(read_all(layer, 1300), torch.from_numpy(x))
    assert torch.equal(read_all(layer, 60), torch.from_numpy(x))


def test_sequences_without_tokens(tmp_path: Path) -> None:
    x = random(5, 3)
    rows = [np.zeros((0, 3), np.float32), x[:2], np.zeros((0, 3), np.float32), x[2:]]
    write(
        tmp_path / "d", {"h": [row.tolist() for row in rows]}, {"h": feature("lists", 3, "float32")}
    )
    layer = open_activations(tmp_path / "d", "a").layers["h"]
    assert torch.equal(read_all(layer), torch.from_numpy(x))


def test_correlates_as_the_arrays_do(tmp_path: Path) -> None:
    a, b = random(3000, 16), random(3000, 16, seed=1)
    b[:, :8] += a[:, :8]
    whole = uf.correlate({"h": a}, {"h": b}, match="index", draws=3)
    write(tmp_path / "a", {"h": list(a)}, {"h": feature("fixed", 16, "float32")}, shards=4)
    sequences = {"h": list(b.reshape(1000, 3, 16))}
    write(tmp_path / "b", sequences, {"h": feature("array", 16, "float32")}, shards=3)
    saved = uf.correlate(tmp_path / "a", tmp_path / "b", match="index", draws=3)
    assert torch.equal(saved.correlation, whole.correlation)
    assert torch.equal(saved.baseline, whole.baseline)
    assert saved.universal.sum() == 8


def test_other_columns_stand_beside(tmp_path: Path) -> None:
    columns = {
        "h": list(random(4, 3)),
        "ids": [[1, 2]] * 4,
        "text": list("abcd"),
        "loss": [0.5] * 4,
    }
    write(
        tmp_path / "d",
        columns,
        {
            "h": feature("list", 3, "float32"),
            "ids": datasets.List(datasets.Value("int64")),
            "text": datasets.Value("string"),
            "loss": datasets.Value("float32"),
        },
    )
    found: Activations = open_activations(tmp_path / "d", "a")
    assert list(found.layers) == ["h"]
    assert set(found.unusable) == {"ids", "text", "loss"}
    assert "list<item: int64>" in str(found.unusable["ids"])
    with pytest.raises(InputError, match=r"leave it out with layers=.h."):
        uf.correlate(found, found)
    assert uf.correlate(found, found, layers="h").correlation.numel() == 3


# Rows that do not fit


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("sequences", [False, True])
def test_a_token_of_another_width(tmp_path: Path, sequences: bool, shards: int) -> None:
    rows = random(30, 4).tolist()
    rows[23].append(0.5)
    if sequences:
        rows = [[row, row] for row in rows]
    kind = feature("lists" if sequences else "list", 4, "float32")
    write(tmp_path / "d", {"h": rows}, {"h": kind}, shards)
    file = f"data-0000{2 if shards == 3 else 0}-of-0000{shards}.arrow"
    refused(tmp_path / "d", file, "column 'h', row 23", "5 neurons", "first token 4")


@pytest.mark.parametrize("level", ["row", "token", "value"])
def test_nulls(tmp_path: Path, level: str) -> None:
    rows: list[Any] = random(30, 2, 4).tolist()
    if level == "row":
        rows[17] = None
    elif level == "token":
        rows[17][1] = None
    else:
        rows[17][1][3] = None
    write(tmp_path / "d", {"h": rows}, {"h": feature("lists", 4, "float32")}, shards=2)
    refused(tmp_path / "d", "data-00001-of-00002.arrow", "column 'h', row 17", "null")


def test_no_tokens(tmp_path: Path) -> None:
    write(tmp_path / "d", {"h": [[], []]}, {"h": feature("lists", 4, "float32")})
    refused(tmp_path / "d", tmp_path / "d", "column 'h' holds no tokens")
    write(tmp_path / "e", {"h": [[], []]}, {"h": feature("list", 4, "float32")})
    refused(tmp_path / "e", "no neurons")


# Datasets that cannot be read


def test_shuffled_rows_are_written_in_their_order_by_datasets(tmp_path: Path) -> None:
    x = random(30, 4)
    data = datasets.Dataset.from_dict({"h": list(x)}).shuffle(seed=1)
    data.save_to_disk(tmp_path / "d")
    expected = torch.tensor(data["h"][:])
    assert not torch.equal(expected, torch.from_numpy(x))
    assert torch.equal(read_all(open_activations(tmp_path / "d", "a").layers["h"]), expected)


@pytest.mark.parametrize("key", ["_indices_data_files", "_indices_files"])
def test_indices(tmp_path: Path, key: str) -> None:
    """Older versions of datasets left rows where they were, and wrote their order beside them."""
    write(tmp_path / "d", {"h": list(random(4, 3))}, {"h": feature("list", 3, "float32")})
    state = json.loads((tmp_path / "d" / "state.json").read_text())
    state[key] = [{"filename": "indices.arrow"}]
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    refused(tmp_path / "d", tmp_path / "d", "flatten_indices()")


def test_a_dict_of_splits(tmp_path: Path) -> None:
    part = datasets.Dataset.from_dict({"h": list(random(4, 3))})
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "d")
    refused(tmp_path / "d", "'train', 'test'", f"give one of them, {tmp_path / 'd' / 'train'}")
    assert open_activations(tmp_path / "d" / "test", "a").layers["h"].tokens == 4


def test_damaged_datasets(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", {"h": list(random(40, 9))}, {"h": feature("list", 9, "float32")})
    file = folder / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for content in (whole[:100], whole[: len(whole) // 2], b"", b"garbage " * 99):
        file.write_bytes(content)
        refused(folder, file)
    file.unlink()
    refused(folder, file, "no such file")
    for text in ("", "[]", "{}"):
        (folder / "state.json").write_text(text)
        refused(folder, folder / "state.json")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_give_a_result_or_an_input_error(tmp_path: Path, seed: int) -> None:
    x = random(12, 2, 3)
    folder = write(tmp_path / "d", {"h": list(x)}, {"h": feature("lists", 3, "float32")})
    for _ in flipped(folder / "data-00000-of-00001.arrow", seed, 200):
        with contextlib.suppress(InputError):
            for layer in open_activations(folder, "a").layers.values():
                read_all(layer)


def test_compressed_files(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    folder = write(tmp_path / "d", {"h": list(random(40, 9))}, {"h": feature("list", 9, "float32")})
    file = folder / "data-00000-of-00001.arrow"
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    with pa.ipc.new_stream(
        file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as out:
        out.write_table(table)
    refused(folder, file, "compressed", "save_to_disk")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", {"h": list(random(4, 3))}, {"h": feature("list", 3, "float32")})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path / "d", tmp_path / "d", "pip install 'univfast[datasets]'")
