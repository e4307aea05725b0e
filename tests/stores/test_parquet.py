"""Parquet, written by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import refused
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Layer

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TYPES = {
    "float64": pa.float64(),
    "float32": pa.float32(),
    "float16": pa.float16(),
}
LENGTHS = [3, 0, 5, 1, 4, 7]


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def lists(x: np.ndarray[Any, Any], kind: str = "list") -> Any:
    value, width = TYPES[str(x.dtype)], x.shape[1]
    flat = pa.array(x.ravel(), value)
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, width)
    ends = np.arange(0, x.size + 1, width)
    make = pa.LargeListArray if kind == "large" else pa.ListArray
    return make.from_arrays(pa.array(ends, pa.int64() if kind == "large" else pa.int32()), flat)


def sequences(tokens: Any, lengths: list[int]) -> Any:
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), tokens)


def write(path: Path, columns: dict[str, Any], rows: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def read_all(layer: Layer, step: int) -> torch.Tensor:
    parts = []
    for start in range(0, layer.tokens, step):
        stop = min(start + step, layer.tokens)
        layer.prepare(start, stop)
        parts.append(layer.read(start, stop).clone())
        layer.release(start, stop)
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
@pytest.mark.parametrize("step", [7, 200])
def test_a_row_a_token(tmp_path: Path, kind: str, dtype: str, step: int) -> None:
    x = random(90, 6, dtype=dtype)
    path = write(tmp_path / "a.parquet", {"h.10": lists(x, kind), "h.2": lists(-x, kind)}, 32)
    found = open_activations(path, "a")
    assert [*found.layers] == ["h.2", "h.10"]
    layer = found.layers["h.10"]
    assert (layer.shape, layer.dtype) == ((90, 6), getattr(torch, dtype))
    assert torch.equal(read_all(layer, step), torch.from_numpy(x))
    assert torch.equal(read_all(found.layers["h.2"], step), torch.from_numpy(-x))
    assert torch.equal(layer.read(60, 70), torch.from_numpy(x[60:70]))
    assert torch.equal(layer.read(3, 70), torch.from_numpy(x[3:70]))
    assert found.reading == ("Parquet: a column of lists is a layer, a row a token",)


@pytest.mark.parametrize("ids", [True, False])
def test_a_row_a_sequence_of_its_own_length(tmp_path: Path, ids: bool) -> None:
    x = random(20, 6)
    columns = {"activations": sequences(lists(x), LENGTHS)}
    if ids:
        columns["input_ids"] = sequences(pa.array(np.arange(20) % 7), LENGTHS)
    found = open_activations(write(tmp_path / "a.parquet", columns, 2), "a")
    layer = found.layers["activations"]
    assert layer.shape == (20, 6)
    for step in (3, 20):
        assert torch.equal(read_all(layer, step), torch.from_numpy(x))
    if ids:
        assert found.ids is not None
        assert found.places is not None
        assert found.ids.tolist() == [i % 7 for i in range(20)]
        expected = [[row, i] for row, n in enumerate(LENGTHS) for i in range(n)]
        assert found.places.tolist() == expected


def test_a_row_a_sequence_of_one_length_is_a_sample(tmp_path: Path) -> None:
    x = random(20, 6)
    path = write(tmp_path / "a.parquet", {"activations": sequences(lists(x), [5] * 4)})
    layer = open_activations(path, "a").layers["activations"]
    assert layer.shape == (4, 5, 6)
    assert torch.equal(read_all(layer, 7), torch.from_numpy(x))


def test_the_mask_counts_and_ids_are_known(tmp_path: Path) -> None:
    x, y = random(600, 6), random(600, 6, seed=1)
    y[:, :3] += 2 * x[:, :3]
    x[::3], mask = 100, np.arange(600) % 3 > 0
    other = np.arange(600) % 5 > 0
    a = write(
        tmp_path / "a.parquet",
        {
            "activations": lists(x),
            "mask": pa.array(mask),
            "tokens": pa.array(np.arange(600) % 11),
            "text": pa.array(["x"] * 600),
        },
    )
    b = write(tmp_path / "b.parquet", {"activations": lists(y), "mask": pa.array(other * 1)})
    found = open_activations(a, "a")
    assert found.ids is not None
    assert found.ids.tolist() == [i % 11 for i in range(600)]
    assert "passed over: 'text'" in found.reading
    assert "column 'mask': the tokens that count, 400 of 600" in found.reading
    own = np.arange(600) % 2 > 0
    for given in (None, own):
        keep = mask & other & (True if given is None else given)
        result = uf.correlate(str(a), str(b), mask=given, match="index", details=True)
        assert result.summary["tokens"] == keep.sum()
        expected = [np.corrcoef(x[keep, i], y[keep, i])[0, 1] for i in range(6)]
        assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)


def test_a_directory_of_parts_in_natural_order(tmp_path: Path) -> None:
    x = random(110, 4)
    folder = tmp_path / "d"
    folder.mkdir()
    for i, part in enumerate(np.split(x, 11)):
        write(folder / f"part-{i}.parquet", {"h": lists(part)}, 4)
    found = open_activations(folder, "a")
    assert torch.equal(read_all(found.layers["h"], 13), torch.from_numpy(x))
    assert found.reading[0].startswith("11 Parquet files, in natural order: ")
    (folder / "part-4.parquet").unlink()
    refused(folder, "part 4 of 10 like 'part-0.parquet' is missing")


@pytest.mark.parametrize("names", [("layer_0", "layer_1"), ("train-0", "test-0"), ("x", "y")])
def test_files_that_may_be_no_parts_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / f"{name}.parquet", {"h": lists(random(10, 4))})
    refused(tmp_path, "may hold parts of one table, or several")


def test_hub_names_of_parts(tmp_path: Path) -> None:
    x = random(30, 4)
    for i in range(3):
        name = f"train-{i:05}-of-00003.parquet"
        write(tmp_path / name, {"h": lists(x[10 * i : 10 * i + 10])})
    found = open_activations(tmp_path, "a")
    assert torch.equal(read_all(found.layers["h"], 7), torch.from_numpy(x))
    (tmp_path / "train-00002-of-00003.parquet").unlink()
    refused(tmp_path, "part 2 of 3")


def test_ragged_tokens_are_refused_by_row(tmp_path: Path) -> None:
    rows = [[1.0, 2.0]] * 9 + [[1.0, 2.0, 3.0]] + [[1.0, 2.0]]
    path = write(tmp_path / "a.parquet", {"h": pa.array(rows, pa.list_(pa.float32()))}, 4)
    refused(path, "row 9: holds a token of 3 neurons, the first token has 2")


@pytest.mark.parametrize("row", [None, [1.0, None]])
def test_nulls_are_refused_by_row(tmp_path: Path, row: Any) -> None:
    rows = [[1.0, 2.0]] * 5 + [row, [1.0, 2.0]]
    path = write(tmp_path / "a.parquet", {"h": pa.array(rows, pa.list_(pa.float32()))}, 4)
    with pytest.raises(uf.InputError, match="row 5: holds a null"):
        read_all(open_activations(path, "a").layers["h"], 3)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"h": pa.array([1.0, 2.0])}, "no column of activations, there are 'h'"),
        ({"h": pa.array([[1, 2]])}, "column 'h' holds list<"),
        ({"h": lists(random(0, 1).reshape(0, 1))}, "holds no tokens"),
        (
            {
                "h": lists(random(2, 3)),
                "mask": pa.array([1, 0]),
                "attention_mask": pa.array([1, 1]),
            },
            "holds 'mask' and 'attention_mask'",
        ),
        ({"h": lists(random(2, 3)), "mask": pa.array([1, 2])}, "a mask holds 0 and 1 alone"),
        ({"h": lists(random(2, 3)), "mask": pa.array([1, None])}, "column 'mask' holds a null"),
        ({"h": lists(random(2, 3)), "tokens": pa.array([[1], [2]])}, "expected a value a row"),
        ({"h": lists(random(2, 3)), "tokens": pa.array([0.5, 1])}, "token ids are integers"),
    ],
)
def test_refused(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    refused(write(tmp_path / "a.parquet", columns), match)


def test_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"h": lists(random(100, 3))})
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(path, "is damaged or incomplete")
    path.write_bytes(content[:-300] + bytes(300))
    refused(path, "is damaged or incomplete")
