"""Sparse features: of every form and file, they give what the dense array gives, bit for bit."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from torch import Tensor

import univfast as uf
from support import ROOT
from support.command import run
from support.processes import memory
from univfast.inputs.activations import open_activations

TOKENS, WIDTH, K = 600, 40, 5


def features(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest features of each token: dense, their numbers, and their values."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(0))
    all_of_them = shared @ torch.randn(6, WIDTH, generator=generator)
    values, indices = all_of_them.to(dtype).topk(K, dim=-1)
    return torch.zeros(TOKENS, WIDTH, dtype=dtype).scatter_(1, indices, values), indices, values


def sparse(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that CSR is new
        return make()


def assert_same(source: object, dense: Tensor, name: str = "activations", **options: Any) -> None:
    """That a source is read as a dense array is, by the layer and by what is made of it."""
    (layer,) = open_activations(source, "b", width=options.get("width")).layers.values()
    assert (layer.name, layer.dtype, layer.tokens) == (name, dense.dtype, TOKENS)
    flat = dense.reshape(TOKENS, -1)
    for start, stop in ((0, TOKENS), (7, 8), (100, 333), (599, 600), (5, 5)):
        assert torch.equal(layer.read(start, stop), flat[start:stop])
        layer.release(start, stop)
    a = features(1)[0].reshape(*dense.shape[:-1], WIDTH)
    expected, found = uf.correlate(a, {name: dense}), uf.correlate(a, source, **options)
    for column in ("correlation", "baseline", "match_neuron"):
        ours, theirs = (getattr(x, column).numpy() for x in (found, expected))
        np.testing.assert_array_equal(ours, theirs)
    assert found.summary["universal"] == expected.summary["universal"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_k_largest_in_torch_files(tmp_path: Path, dtype: torch.dtype) -> None:
    dense, indices, values = features(2, dtype)
    content = {"top_acts": values, "top_indices": indices, "num_latents": WIDTH}
    torch.save(content, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", dense)
    del content["num_latents"]
    torch.save(content, tmp_path / "c.pt")
    assert_same(tmp_path / "c.pt", dense, width=WIDTH)
    assert_same(content, dense, width=WIDTH)


def test_the_k_largest_of_samples(tmp_path: Path) -> None:
    dense, indices, values = (x.reshape(20, 30, -1) for x in features(2))
    torch.save({"topk_indices": indices, "topk_values": values, "d_sae": WIDTH}, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", dense)
    (layer,) = open_activations(tmp_path / "b.pt", "b").layers.values()
    assert layer.shape == (20, 30, WIDTH)


@pytest.mark.parametrize("compressed", [False, True])
def test_layers_in_npz_files(tmp_path: Path, compressed: bool) -> None:
    dense, indices, values = features(2)
    save: Any = np.savez_compressed if compressed else np.savez
    narrow = indices.numpy().astype(np.uint16)
    arrays = {"mlp.0.top_acts": values.numpy(), "mlp.0.top_indices": narrow, "d_sae": WIDTH}
    save(tmp_path / "b.npz", **arrays)
    assert_same(tmp_path / "b.npz", dense, "mlp.0")


def test_layers_in_safetensors_files(tmp_path: Path) -> None:
    dense, indices, values = features(2)
    tensors = {"h.1.indices": indices.int(), "h.1.values": values}
    save_file(tensors, tmp_path / "b.safetensors", metadata={"num_latents": str(WIDTH)})
    assert_same(tmp_path / "b.safetensors", dense, "h.1")


def test_what_pads_is_nothing() -> None:
    dense, indices, values = features(2)
    indices, values = indices.clone(), values.clone()
    for row, column in enumerate(indices[:9, -1].tolist()):
        dense[row, column] = 0
    values[:9, -1] = 0
    indices[:4, -1], indices[4:9, -1] = -1, indices[4:9, 0]
    assert_same({"top_acts": values, "top_indices": indices}, dense, width=WIDTH)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_tensors(tmp_path: Path, layout: str) -> None:
    dense = features(2)[0]
    made = sparse(dense.to_sparse if layout == "coo" else dense.to_sparse_csr)
    assert_same(made, dense)
    sparse(lambda: torch.save({"mlp": made}, tmp_path / "b.pt"))
    assert_same(tmp_path / "b.pt", dense, "mlp")
    sparse(lambda: torch.save(made, tmp_path / "c.pt", _use_new_zipfile_serialization=False))
    assert_same(tmp_path / "c.pt", dense)


def test_entries_of_samples(tmp_path: Path) -> None:
    dense = features(2)[0].reshape(20, 30, WIDTH)
    made = dense.to_sparse().coalesce()
    assert_same(made, dense)
    torch.save({"mlp": made}, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", dense, "mlp")
    entries = {"indices": made.indices(), "values": made.values(), "shape": (20, 30, WIDTH)}
    assert_same(entries, dense)
    (layer,) = open_activations(made, "b").layers.values()
    assert layer.shape == (20, 30, WIDTH)


def test_entries_that_stand_twice_are_added(tmp_path: Path) -> None:
    made = features(2)[0].to_sparse().coalesce()
    twice = torch.cat([made.indices(), made.indices()], 1)
    order = twice[0].argsort(stable=True)
    values = torch.cat([made.values(), made.values()])[order]
    both = sparse(lambda: torch.sparse_coo_tensor(twice[:, order], values, (TOKENS, WIDTH)))
    torch.save(both, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", both.to_dense())
    assert_same(both, 2 * features(2)[0])


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "coo_matrix", "coo_array"])
@pytest.mark.parametrize("compressed", [False, True])
def test_scipy(tmp_path: Path, kind: str, compressed: bool) -> None:
    dense = features(2)[0]
    made = getattr(scipy.sparse, kind)(dense.numpy())
    assert_same(made, dense)
    scipy.sparse.save_npz(tmp_path / "b.npz", made, compressed=compressed)
    assert_same(tmp_path / "b.npz", dense)


def test_lists_of_entries(tmp_path: Path) -> None:
    dense = features(2)[0]
    made = dense.to_sparse().coalesce()
    entries = {"indices": made.indices(), "values": made.values()}
    torch.save({**entries, "shape": (TOKENS, WIDTH)}, tmp_path / "b.pt")
    assert_same(tmp_path / "b.pt", dense)
    rows = sparse(dense.to_sparse_csr)
    by_rows = {"crow_indices": rows.crow_indices(), "col_indices": rows.col_indices()}
    torch.save({**by_rows, "values": rows.values(), "d_sae": WIDTH}, tmp_path / "c.pt")
    assert_same(tmp_path / "c.pt", dense)


def test_shapes_in_python() -> None:
    dense = features(2)[0]
    rows = scipy.sparse.coo_array(dense.numpy())
    entries = {"row": rows.row, "col": rows.col, "data": rows.data}
    for shape in (rows.shape, dense.shape, list(rows.shape), [np.int64(n) for n in rows.shape]):
        assert_same({**entries, "shape": shape}, dense)
    for shape in ((TOKENS, True), (TOKENS, float(WIDTH))):
        with pytest.raises(TypeError, match="'shape'"):
            open_activations({**entries, "shape": shape}, "b")


def test_locations(tmp_path: Path) -> None:
    """As delphi's ``LatentCache.save`` writes them: sample, position, latent."""
    dense = features(2)[0].reshape(20, 30, WIDTH)
    locations, ids = dense.nonzero().contiguous(), torch.randint(0, 90, (20, 30))
    activations = dense[dense != 0]
    file = tmp_path / "b.safetensors"
    save_file({"locations": locations, "activations": activations, "tokens": ids}, file)
    assert_same(file, dense, width=WIDTH)
    found = open_activations(file, "b", width=WIDTH).ids
    assert found is not None
    assert torch.equal(found, ids.flatten())


def test_tokens_without_entries() -> None:
    dense = torch.zeros(TOKENS, WIDTH)
    dense[200, 3] = 2.0
    (layer,) = open_activations(dense.to_sparse(), "b").layers.values()
    assert torch.equal(layer.read(0, TOKENS), dense)
    (layer,) = open_activations(torch.zeros(TOKENS, WIDTH).to_sparse(), "b").layers.values()
    assert not layer.read(0, TOKENS).any()


def test_fingerprints_tell_features_apart(tmp_path: Path) -> None:
    """Also where the tokens that are looked at have none."""
    dense = torch.zeros(TOKENS, WIDTH)
    dense[200:300, 3] = torch.arange(1.0, 101)
    other = dense.clone()
    other[200:300, 3] += 1
    prints = {
        next(iter(open_activations(x.to_sparse(), "b").layers.values())).fingerprint()
        for x in (dense, other, dense)
    }
    assert len(prints) == 2


def test_one_entry_of_any_stride() -> None:
    here, one = torch.tensor(200), torch.tensor(2.0)
    entries = {"row": here.expand(1), "col": here.expand(1) // 100, "data": one.expand(1)}
    found = uf.correlate(*[{**entries, "shape": (TOKENS, WIDTH)}] * 2, rotation="none")
    assert found.correlation.isfinite().tolist() == [i == 2 for i in range(WIDTH)]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, indices, values = features(2)
    torch.save(features(1)[0], tmp_path / "a.pt")
    torch.save({"top_acts": values, "top_indices": indices}, tmp_path / "b.pt")
    torch.save(dense, tmp_path / "dense.pt")
    summaries = []
    for more in (["b.pt", "--width", WIDTH], ["dense.pt"]):
        capsys.readouterr()
        path, *options = more
        assert run("correlate", tmp_path / "a.pt", tmp_path / str(path), *options, "--json") == 0
        summaries.append(json.loads(capsys.readouterr().out))
    for name in ("universal", "mean_baseline", "mean_excess"):
        assert summaries[0][name] == summaries[1][name]
    assert run("correlate", tmp_path / "a.pt", tmp_path / "b.pt") == 2
    assert "Error: --width: " in capsys.readouterr().err


def test_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = (ROOT / "docs" / "sparse.md").read_text().split("```bash\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    for seed, name in ((1, "a.pt"), (2, "b.pt")):
        _, indices, values = features(seed)
        torch.save({"top_acts": values, "top_indices": indices}, name)
    for command in block.splitlines():
        small = command.replace("4096", str(WIDTH))
        assert small != command
        assert run(*shlex.split(small)[1:]) == 0


@pytest.mark.slow
def test_memory_is_that_of_a_slice(tmp_path: Path) -> None:
    """A million tokens of 4096 features are 16 GB where they are dense."""
    tokens, width, k = 1_000_000, 4096, 8
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, width // k, (tokens, k), generator=generator, dtype=torch.int32)
    values = torch.rand(tokens, k, generator=generator)
    torch.save(
        {"top_indices": steps.cumsum(1).int(), "top_acts": values, "width": width},
        tmp_path / "b.pt",
    )
    (layer,) = open_activations(tmp_path / "b.pt", "b").layers.values()
    sums, before = torch.zeros(width, dtype=torch.float64), memory("VmRSS")
    most = before
    for start in range(0, tokens, 4096):
        stop = min(start + 4096, tokens)
        sums += layer.read(start, stop).double().sum(0)
        layer.release(start, stop)
        most = max(most, memory("VmRSS"))
    assert sums.sum().item() == pytest.approx(values.double().sum().item())
    assert most - before < 300e6
