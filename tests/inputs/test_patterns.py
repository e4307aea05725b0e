"""Patterns that say which files are read, as which layer and shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import assert_one_line, random
from support.shards import assert_holds, save
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Layer


def parts(count: int, tokens: int = 5, neurons: int = 3) -> list[torch.Tensor]:
    return [random(tokens, neurons, seed=i) for i in range(count)]


def write(root: Path, names: list[str]) -> list[torch.Tensor]:
    """A lone array in each file; another in each."""
    each = parts(len(names))
    for name, x in zip(names, each, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save(root / name, x)
    return each


def opened(root: Path, files: str) -> dict[str, Layer]:
    return open_activations(root, "a", files).layers


def refused(root: Path, files: str, *said: object) -> None:
    with pytest.raises(InputError) as error:
        open_activations(root, "a", files)
    assert_one_line(error, *said)


@pytest.mark.parametrize(
    ("files", "names", "layers"),
    [
        (
            "batch_{shard}/layer_{layer}.npy",
            ["batch_2/layer_0.npy", "batch_10/layer_0.npy", "batch_2/layer_1.npy",
             "batch_10/layer_1.npy"],
            {"0": [0, 1], "1": [2, 3]},
        ),
        ("{layer}_{shard}.npy", ["a_b_10.npy", "a_b_9.npy"], {"a_b": [1, 0]}),
        ("*_{layer}_part{shard}.pt", ["x_h.3_part1.pt", "y_h.3_part0.pt"], {"h.3": [1, 0]}),
        ("{rank}-{shard}.npy", ["1-0.npy", "0-1.npy", "0-0.npy"], {"activations": [2, 1, 0]}),
        ("s{shard}.npy", ["s000139.npy", "s285.npy", "s7.npy"], {"activations": [2, 0, 1]}),
        ("{shard}.npy", ["b.npy", "a.npy", "1.npy"], {"activations": [2, 1, 0]}),
        ("{layer}/{layer}.npy", ["h.0/pre.npy", "h.0/post.npy"], {"h.0/post": [1], "h.0/pre": [0]}),
        ("*{shard}.npy", ["x12.npy", "x3.npy"], {"activations": [1, 0]}),
        ("{layer}.npy", ["h.10.npy", "h.2.npy", "skip.pt"], {"h.2": [1], "h.10": [0]}),
        ("x[1]_{layer}.npy", ["x[1]_a.npy", "x1_a.npy"], {"a": [0]}),
    ],
)  # fmt: skip
def test_what_files_are(
    tmp_path: Path, files: str, names: list[str], layers: dict[str, list[int]]
) -> None:
    each = write(tmp_path, names)
    found = opened(tmp_path, files)
    assert list(found) == list(layers)
    for layer, order in layers.items():
        assert_holds(found[layer], torch.cat([each[i] for i in order]))


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_layers_by_name(tmp_path: Path, suffix: str) -> None:
    x, y = parts(6), parts(6, neurons=4)
    for i, rank in enumerate((0, 0, 10, 10, 2, 2)):
        folder = tmp_path / f"rank{rank}"
        folder.mkdir(exist_ok=True)
        save(folder / f"shard-{i % 2}{suffix}", {"h.2": x[i], "h.10": y[i]})
    found = opened(tmp_path, f"rank{{rank}}/shard-{{shard}}{suffix}")
    assert list(found) == ["h.2", "h.10"]
    order = [0, 1, 4, 5, 2, 3]
    assert_holds(found["h.2"], torch.cat([x[i] for i in order]))
    assert_holds(found["h.10"], torch.cat([y[i] for i in order]))


def test_layers_by_name_and_by_pattern(tmp_path: Path) -> None:
    for layer in ("h.0", "h.1"):
        for shard in range(2):
            x = random(5, 3, seed=shard)
            save(tmp_path / f"{layer}-{shard}.safetensors", {"acts": x})
    found = opened(tmp_path, "{layer}-{shard}.safetensors")
    assert list(found) == ["h.0", "h.1"]
    assert_holds(found["h.1"], torch.cat([random(5, 3, seed=i) for i in range(2)]))
    save(tmp_path / "h.1-1.safetensors", {"other": random(5, 3)})
    refused(tmp_path, "{layer}-{shard}.safetensors", "holds layers by name", "put * for {layer}")
    save(tmp_path / "h.1-1.safetensors", {"acts": random(5, 3), "more": random(5, 3)})
    refused(tmp_path, "{layer}-{shard}.safetensors", "holds layers by name ('acts', 'more')")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("a.npy", "names one file"),
        ("{layers}.npy", "has '{layers}'; of such there are {layer}, {shard}"),
        ("{layer.npy", "has '{'"),
        ("layer}.npy", "has '}'"),
        ("{}.npy", "has an empty {}"),
        ("**/{layer}.npy", "has '**'"),
        ("../{layer}.npy", "no path within the directory"),
        ("/tmp/{layer}.npy", "no path within the directory"),
        ("{layer}//x.npy", "no path within the directory"),
        ("{shard}.pt", "matches no file in"),
        ("{shard}.pt", "'h-0.npy', 'h-1.npy'"),
    ],
)
def test_patterns_that_are_none(tmp_path: Path, files: str, said: str) -> None:
    write(tmp_path, ["h-0.npy", "h-1.npy"])
    with pytest.raises(InputError) as error:
        uf.correlate(tmp_path, tmp_path, files=files)
    assert_one_line(error, said)
    assert str(error.value).startswith("files: ")


def test_names_that_match_in_two_ways(tmp_path: Path) -> None:
    write(tmp_path, ["a_b_c.npy", "a_b_d.npy"])
    refused(
        tmp_path,
        "{layer}_{shard}.npy",
        "in two ways, layer 'a', shard 'b_c' and layer 'a_b', shard 'c'",
    )
    assert list(opened(tmp_path, "{layer}_b_{shard}.npy")) == ["a"]


def test_shards_of_all_layers(tmp_path: Path) -> None:
    write(tmp_path, [f"b{i}/h{j}.npy" for i in (0, 7, 9) for j in range(2)])
    assert opened(tmp_path, "b{shard}/h{layer}.npy")["1"].tokens == 15
    (tmp_path / "b7" / "h1.npy").unlink()
    refused(tmp_path, "b{shard}/h{layer}.npy", "shard 7 of layer '1' is missing", "b7/h0.npy")


def test_a_shard_that_is_there_twice(tmp_path: Path) -> None:
    write(tmp_path, ["a_1.npy", "b_01.npy"])
    refused(tmp_path, "*_{shard}.npy", "a_1.npy", "b_01.npy", "both shard 1")
    refused(tmp_path, "*.npy", "both layer 'activations'", "no number")


def test_a_folder_that_matches(tmp_path: Path) -> None:
    write(tmp_path, ["a.npy"])
    (tmp_path / "b.npy").mkdir()
    refused(tmp_path, "{layer}.npy", "b.npy, which is no file")


def test_what_is_no_directory(tmp_path: Path) -> None:
    x = random(300, 4)
    for a in (x, {"x": x}):
        with pytest.raises(InputError, match=r"^files: is for directories of files.*leave it out"):
            uf.correlate(a, x, files="{shard}.npy")
    bad: Any = 3
    with pytest.raises(TypeError, match="files"):
        uf.correlate(x, x, files=bad)
    write(tmp_path, ["x_0.npy", "x_1.npy"])
    whole = torch.cat(parts(2))
    options: dict[str, Any] = {"match": "index", "rotation": "none"}
    found = uf.correlate(tmp_path, whole, files="x_{shard}.npy", **options).correlation
    assert float(found.min()) > 1 - 1e-6


def test_models_of_other_shards(tmp_path: Path) -> None:
    """As many tokens, but others: with gaps, nothing else tells."""
    write(tmp_path / "a", [f"s{i}.npy" for i in (0, 1, 3)])
    write(tmp_path / "b", [f"s{i}.npy" for i in (0, 2, 3)])
    with pytest.raises(InputError) as error:
        uf.correlate(tmp_path / "a", tmp_path / "b", files="s{shard}.npy")
    assert_one_line(error, "numbered otherwise (1 and 2)", "keep the same files of both")


def test_the_right_numbers(tmp_path: Path) -> None:
    """Three batches of two layers, of two models: r as NumPy has it of the layers as wholes."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 600, 8)).astype(np.float32)
    b = (a + 0.35 * rng.standard_normal(a.shape)).astype(np.float32)
    for name, x in (("a", a), ("b", b)):
        for shard in range(3):
            for layer in range(2):
                file = tmp_path / name / f"out{shard}" / f"site{layer}.npy"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, x[layer, 200 * shard : 200 * shard + 200])
    found = uf.correlate(
        tmp_path / "a",
        tmp_path / "b",
        files="out{shard}/site{layer}.npy",
        match="index",
        rotation="none",
    )
    assert found.summary["tokens"] == 600
    expected = [
        np.corrcoef(a[layer, :, i].astype(float), b[layer, :, i].astype(float))[0, 1]
        for layer in range(2)
        for i in range(8)
    ]
    np.testing.assert_allclose(found.correlation.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_wherever_activations_are_taken(tmp_path: Path) -> None:
    """Controls too, and `explain`: by the same pattern, or what names say is refused."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randn(4, 800, 6, generator=generator)
    each[1] += 2 * each[0]
    for name, x in zip(("a", "b", "ca", "cb"), each, strict=True):
        for shard, part in enumerate(x.split(400)):
            (tmp_path / name).mkdir(exist_ok=True)
            save(tmp_path / name / f"foo{shard}.npy", part.clone())
    a, b, ca, cb = (tmp_path / name for name in ("a", "b", "ca", "cb"))
    ids = torch.randint(0, 5, (8, 100), generator=generator)
    options: dict[str, Any] = {"token_ids": ids, "details": True, "draws": 2}
    controls: dict[str, Any] = {"controls_a": [ca], "controls_b": [cb]}
    with pytest.raises(InputError, match="may be shard 0 of layer 'foo', or layer 'foo0'"):
        uf.correlate(a, b, **options)
    found = uf.correlate(a, b, files="foo{shard}.npy", **options, **controls)
    whole = uf.correlate(each[0], each[1], **options, controls_a=[each[2]], controls_b=[each[3]])
    assert torch.equal(found.correlation, whole.correlation)
    assert found.summary["learned"] == whole.summary["learned"] > 0
    plain = uf.correlate(a, b, files="foo{shard}.npy", draws=2)
    again = uf.explain(plain, a, b, token_ids=ids, files="foo{shard}.npy")
    assert again.summary["families"] == found.summary["families"]
    with pytest.raises(InputError, match="may be shard 0"):
        uf.explain(plain, a, b, token_ids=ids)


def test_stores_are_joined_as_the_pattern_says(tmp_path: Path) -> None:
    """Layers and shards of HDF5 and Parquet files, with masks, against NumPy."""
    h5py, pa, zarr = (pytest.importorskip(name) for name in ("h5py", "pyarrow", "zarr"))
    pq = pytest.importorskip("pyarrow.parquet")
    g = np.random.default_rng(0)
    data = {x: [g.standard_normal((n, 4)).astype(np.float32) for n in (7, 5, 9)] for x in "pq"}
    keep = [g.random(n) < 0.7 for n in (7, 5, 9)]
    for shard, number in enumerate((2, 10, 11)):
        (tmp_path / f"b{number}").mkdir()
        with h5py.File(tmp_path / f"b{number}.h5", "w") as file:
            for name, parts in data.items():
                file[name] = parts[shard]
        group = zarr.open_group(tmp_path / f"b{number}.zarr", mode="w")
        for name, parts in data.items():
            group.create_array(name, shape=parts[shard].shape, dtype="f4")[:] = parts[shard]
        for name, parts in data.items():
            table = pa.table({"activations": list(parts[shard]), "mask": keep[shard]})
            pq.write_table(table, tmp_path / f"b{number}" / f"layer_{name}.parquet")
    whole = {name: np.concatenate(parts) for name, parts in data.items()}
    for pattern in ("b{batch}.h5", "b{batch}.zarr", "b{batch}/layer_{layer}.parquet"):
        found = open_activations(tmp_path, "a", files=pattern)
        assert list(found.layers) == ["p", "q"]
        for name, layer in found.layers.items():
            np.testing.assert_array_equal(layer.read(0, 21), whole[name])
            np.testing.assert_array_equal(layer.read(5, 14), whole[name][5:14])
            assert layer.read(3, 3).shape == (0, 4)
        kept = None if found.keep is None else found.keep.tolist()
        assert kept == (None if "layer" not in pattern else np.concatenate(keep).tolist())
    (tmp_path / "b2" / "layer_q.parquet").unlink()
    with pytest.raises(InputError, match="shard 2 of layer 'q' is missing"):
        open_activations(tmp_path, "a", files="b{batch}/layer_{layer}.parquet")
    with pytest.raises(InputError, match=r"holds 2 layers .*put \* for {layer}"):
        open_activations(tmp_path, "a", files="b{layer}.h5")
