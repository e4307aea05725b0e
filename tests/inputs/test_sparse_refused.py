"""Sparse features that could be read in two ways, or not at all: one line that says so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file

import univfast as uf
from univfast.inputs.activations import open_activations

INDICES = torch.tensor([[0, 7], [3, 9], [1, 2]])
VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
TOP = {"top_indices": INDICES, "top_acts": VALUES}


def refused(source: object, *parts: str, **options: Any) -> None:
    with pytest.raises(uf.InputError) as caught:
        uf.correlate(source, source, **options)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_the_width_is_not_guessed(tmp_path: Path) -> None:
    torch.save(TOP, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "width: ", "a.pt", "the highest number is 9")
    refused(tmp_path / "a.pt", "feature 9 at token 1", "9 features", width=9)
    refused({**TOP, "d_sae": 12}, "width: is 10, and a", "12 features by d_sae", width=10)
    refused({**TOP, "d_sae": 12, "width": 16}, "12 by d_sae and 16 by width")
    refused(torch.eye(4).to_sparse(), "width: is 5", "4 features", width=5)


def test_a_width_of_what_is_not_sparse() -> None:
    dense = torch.rand(20, 5)
    with pytest.raises(uf.InputError, match=r"^width: is for sparse features, and none were given"):
        uf.correlate(dense, dense, width=5)
    uf.correlate(dense, dense.to_sparse(), width=5, rotation="none")  # one is


@pytest.mark.parametrize("width", [0, -3, 2.5, "many"])
def test_a_width_that_is_none(width: Any) -> None:
    with pytest.raises((uf.InputError, TypeError), match=r"^width: "):
        uf.correlate(TOP, TOP, width=width)


def test_ranks_are_never_read_as_neurons(tmp_path: Path) -> None:
    torch.save({"mlp.0.top_indices": INDICES, "mlp.0.top_acts": VALUES}, tmp_path / "a.pt")
    both = "'mlp.0.top_acts'", "'mlp.0.top_indices'"
    refused(tmp_path / "a.pt", *both, layers="*top_acts", width=10)
    refused({"mlp.0.top_acts": VALUES}, "a column is a rank", "top_indices")
    refused({"x": VALUES, "y": INDICES}, "may be neurons, or", "'y'", layers="x")
    apart = tmp_path / "apart"
    apart.mkdir()
    np.save(apart / "top_acts.npy", VALUES.numpy())
    np.save(apart / "top_indices.npy", INDICES.numpy())
    refused(apart, "a column is a rank", layers="top_acts")
    refused(apart / "top_acts.npy", "a column is a rank")


@pytest.mark.parametrize(
    "name",
    ["top_indices", "mlp.0.topk_idx", "latent_indices", "col_indices", "indptr", "locations"],
)
def test_numbers_of_features_are_never_read_as_neurons(name: str, tmp_path: Path) -> None:
    for indices in (INDICES, INDICES.float(), INDICES.to(torch.uint64)):
        refused({name: indices}, f"layer {name!r} holds, by its name, numbers", "int64", "rename")
    refused({"top_indices": INDICES.float(), "top_acts": VALUES}, "numbers", layers="top_indices")
    np.save(tmp_path / "top_indices.npy", INDICES.double().numpy())
    refused(tmp_path / "top_indices.npy", "top_indices.npy holds, by its name, numbers")


def test_values_of_integers(tmp_path: Path) -> None:
    whole = {**TOP, "top_acts": VALUES.to(torch.int8), "d_sae": 12}
    refused(whole, "a: layer 'activations' has dtype int8; convert it")
    torch.save({**whole, "top_acts_scale": torch.tensor(0.1)}, tmp_path / "a.pt")
    for layers in (None, "top_acts"):
        refused(tmp_path / "a.pt", "layer 'activations' has dtype int8", layers=layers)


def test_other_integers_beside_can_be_left_out() -> None:
    ids = torch.tensor([[5, 5], [9, 9], [7, 7]])
    assert list(open_activations({"x": VALUES, "ids": ids}, "a").layers) == ["x"]


def test_two_readings() -> None:
    refused({**TOP, "indices": INDICES, "d_sae": 12}, "may be made of", "'indices'", "rename")
    refused({**TOP, "activations": torch.ones(3, 4), "d_sae": 12}, "'activations': is an array")


def test_entries_that_cannot_be(tmp_path: Path) -> None:
    twice = {"top_indices": torch.tensor([[1, 1], [0, 2]]), "top_acts": VALUES[:2]}
    refused(twice, "has feature 1 twice at token 0", width=4)
    below = {"top_indices": torch.tensor([[1, -1], [0, 2]]), "top_acts": VALUES[:2]}
    refused(below, "has feature -1 at token 0", width=4)
    nan = {"top_indices": INDICES, "top_acts": VALUES.clone().fill_(float("nan"))}
    refused(nan, "nan at token 0", width=10)


def test_entries_that_are_not_sorted(tmp_path: Path) -> None:
    rows = {"row": torch.tensor([0, 2, 1]), "col": torch.tensor([1, 0, 2])}
    entries = {**rows, "data": torch.ones(3), "shape": torch.tensor([3, 4])}
    refused(entries, "not sorted by token", ".coalesce()")
    refused({**entries, "row": torch.tensor([0, 1, 3])}, "of token 3 of 3")
    del entries["shape"]
    refused(entries, "does not say of how many tokens", "[tokens, features]", width=4)
    of_samples = {"indices": torch.zeros(3, 2, dtype=torch.int64), "values": torch.ones(2)}
    refused(of_samples, "does not say of how many tokens", "[..., features]", width=4)
    other = {**of_samples, "shape": torch.tensor([3, 4])}
    refused(other, "has numbers along 3 axes, and its shape is [3, 4]; mend one of them")


def test_rows_that_do_not_fit() -> None:
    starts = torch.tensor([0, 2, 1, 3])
    entries = {"indptr": starts, "indices": torch.tensor([0, 1, 0]), "data": torch.ones(3)}
    refused({**entries, "shape": torch.tensor([3, 2])}, "do not follow each other")
    short = {**entries, "indptr": torch.tensor([0, 1, 2, 2]), "shape": torch.tensor([3, 2])}
    refused(short, "not all of its entries")
    refused({**short, "shape": torch.tensor([4, 2])}, "3 tokens", "[4, 2]")


def test_locations_without_tokens(tmp_path: Path) -> None:
    locations = torch.tensor([[0, 0, 1], [0, 1, 0]])
    save_file({"locations": locations, "activations": torch.ones(2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "how many tokens", "tokens, [samples", width=3)


@pytest.mark.parametrize("kind", ["csc_matrix", "bsr_array", "dia_array"])
def test_scipy_of_other_forms(tmp_path: Path, kind: str) -> None:
    made = getattr(scipy.sparse, kind)(np.eye(4, 4))
    refused(made, "a: layer 'activations'", ".tocsr()")
    scipy.sparse.save_npz(tmp_path / "a.npz", made)
    refused(tmp_path / "a.npz", "a.npz", ".tocsr()")


@pytest.mark.parametrize("kind", ["dok_matrix", "dok_array"])
def test_scipy_by_keys_is_no_dict_of_layers(kind: str) -> None:
    made = getattr(scipy.sparse, kind)(np.eye(4, 4))
    refused(made, "a: layer 'activations': is a sparse dok array", ".tocsr()")
    refused({"x": made}, "a: layer 'x': is a sparse dok array", ".tocsr()")
    sums = uf.AllPairsCorrelation({"x": 4}, {"x": 4})
    with pytest.raises(TypeError, match=rf"^a: layer 'x': .* found {kind}; pass its .toarray\(\)"):
        sums.update(made, np.eye(4, 4))


def test_sparse_files_are_no_masks_and_no_tokens(tmp_path: Path) -> None:
    torch.save(torch.eye(4).to_sparse(), tmp_path / "a.pt")
    x = torch.randn(4, 4)
    for name in ("mask", "token_ids"):
        with pytest.raises(uf.InputError, match=r"a\.pt: .*sparse features; give one plain array"):
            uf.correlate(x, x, **{name: tmp_path / "a.pt"}, details=True)


def test_dense_dimensions(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.eye(4).to_sparse(1), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "is a sparse_coo tensor [4, 4] of parts [[1, 4], [4, 4]]")


def test_a_shape_that_is_said_in_two_ways_or_is_none() -> None:
    entries = torch.rand(4, 15, 9).to_sparse().coalesce()
    coo: dict[str, Any] = {"indices": entries.indices(), "values": entries.values()}
    both = "layer 'activations': has shape [4, 15, 9] by shape and "
    for other in ((2, 30, 9), (4, 15, 12)):
        refused({**coo, "shape": (4, 15, 9), "size": other}, f"{both}{list(other)} by size; mend")
    refused({**TOP, "shape": (3, 10), "size": (3, 12)}, "[3, 10] by shape and [3, 12] by size")
    for shape in ((4, 15, -9), (-4, -15, 9)):
        refused({**coo, "shape": shape}, f"its shape is {list(shape)}, and cannot be")
    refused({**TOP, "d_sae": -9}, "layer 'activations': its d_sae is -9, and cannot be negative")


def test_numbers_and_values_that_do_not_fit(tmp_path: Path) -> None:
    x = torch.rand(4, 15, 9)
    entries = {"indices": x.nonzero(), "values": x[x != 0], "shape": x.shape}
    refused(entries, "'indices' [540, 3] and 'values' [540] do not fit", "[axes, entries]")
    torch.save({"mlp.top_indices": INDICES[:, :1], "mlp.top_acts": VALUES}, tmp_path / "a.pt")
    both = "'mlp.top_indices' [3, 1] and 'mlp.top_acts' [3, 2] do not fit"
    refused(tmp_path / "a.pt", both)
    # Rows of some tokens, of which the numbers say which.
    rows = {"indices": torch.tensor([[0, 2, 5]]), "values": torch.rand(3, 4), "shape": (8, 4)}
    for layers in (None, "values"):
        refused(rows, "'indices' [1, 3] and 'values' [3, 4] do not fit", layers=layers)


def test_a_place_that_is_outside_of_its_axis() -> None:
    indices = torch.tensor([[0, 2], [1, 0], [0, 3]])
    coo = {"indices": indices, "values": torch.ones(2), "shape": (2, 3, 4)}
    refused(coo, "an entry has number 2 along axis 0, of 2")
    flat = {"indices": indices[1:], "values": torch.ones(2), "shape": (1, 4)}
    refused(flat, "an entry is of token 1 of 1")


@pytest.mark.parametrize("form", ["csc", "bsr"])
def test_files_of_columns_or_blocks(form: str, tmp_path: Path) -> None:
    x = torch.rand(40, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = x.to_sparse_csc() if form == "csc" else x.to_sparse_bsr((2, 2))
    torch.save(sparse, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", f"is a sparse_{form} tensor", "x.to_sparse_coo().coalesce()")
    torch.save(sparse.to_sparse_coo().coalesce(), tmp_path / "a.pt")
    found = uf.correlate(tmp_path / "a.pt", x, rotation="none")
    assert torch.allclose(found.correlation, torch.ones(6, dtype=torch.float64))


def test_arrays_of_scipy_that_have_other_axes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 5, 3))
    array = scipy.sparse.coo_array(x)
    how = "of 3 axes", "x.reshape(-1, x.shape[-1]).tocsr()"
    refused(array, "a: layer 'activations': is a sparse coo array", *how)
    scipy.sparse.save_npz(tmp_path / "a.npz", array)
    refused(tmp_path / "a.npz", "a.npz: layer 'activations': is a sparse coo array", *how)
    found = uf.correlate(array.reshape(-1, 3).tocsr(), x, rotation="none")
    assert torch.allclose(found.correlation, torch.ones(3, dtype=torch.float64))
