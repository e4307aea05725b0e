"""PyTorch's files whose pickles say what is not there: refused before memory is touched."""

from __future__ import annotations

import collections
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.activation_files import (
    assert_holds,
    flipped,
    only,
    random,
    read_all,
    refused,
    write_deflated_pt,
)
from support.lying_files import Rebuilt, Storage, tensor, write_old_pt, write_pt
from univfast.errors import InputError
from univfast.inputs.activations import open_activations

DATA = np.arange(60, dtype=np.float32)
BYTES = DATA.tobytes()

EXTENTS: list[tuple[Any, Any, Any]] = [
    (2**62, (12, 5), (5, 1)),
    (2**63, (12, 5), (5, 1)),
    (2**64, (12, 5), (5, 1)),
    (1, (12, 5), (5, 1)),
    (-1, (12, 5), (5, 1)),
    (True, (5, 5), (5, 1)),
    (0.0, (5, 5), (5, 1)),
    (0, (5, 4), (2**60, 1)),
    (0, (5, 4), (2**62, 1)),
    (0, (5, 4), (-5, 1)),
    (0, (-12, -5), (5, 1)),
    (0, (2**32, 2**32), (0, 0)),
    (0, (2**62, 4), (0, 1)),
    (0, (12, 2**40), (5, 0)),
    (0, (13, 5), (5, 1)),
    (0, (12, 5), (5,)),
    (0, (12.0, 5), (5, 1)),
    (0, (True, 5), (5, 1)),
    (0, [12, 5], (5, 1)),
    (0, 60, 1),
    (0, (1,) * 10_000, (1,) * 10_000),
    (0, (2**62,) * 64, (0,) * 64),
    (0, (10**20_000, 10**20_000), (0, 0)),
]


@pytest.mark.parametrize("form", ["zip", "deflated", "old"])
@pytest.mark.parametrize(("offset", "size", "stride"), EXTENTS)
def test_tensors_that_reach_beyond(
    tmp_path: Path, offset: Any, size: Any, stride: Any, form: str
) -> None:
    content = {"x": tensor(Storage(60), offset, size, stride)}
    if form == "old":
        write_old_pt(tmp_path / "a.pt", content, ["0"], struct.pack("<q", 60) + BYTES)
    else:
        write_pt(tmp_path / "a.pt", content, {"0": BYTES}, deflated=form == "deflated")
    refused(tmp_path / "a.pt", tmp_path / "a.pt")


@pytest.mark.parametrize("form", ["zip", "deflated", "old"])
def test_tensors_whose_values_lie_upon_each_other(tmp_path: Path, form: str) -> None:
    content = {"x": tensor(Storage(60), 2, (10, 7), (3, 1))}
    if form == "old":
        write_old_pt(tmp_path / "a.pt", content, ["0"], struct.pack("<q", 60) + BYTES)
    else:
        write_pt(tmp_path / "a.pt", content, {"0": BYTES}, deflated=form == "deflated")
    expected = torch.from_numpy(DATA.copy()).as_strided((10, 7), (3, 1), 2)
    assert_holds(only(tmp_path / "a.pt"), expected)


@pytest.mark.parametrize("sizes", [(59, BYTES), (61, BYTES), (60, BYTES[:-4]), (2**62, BYTES)])
def test_storages_of_another_size(tmp_path: Path, sizes: tuple[int, bytes]) -> None:
    values, data = sizes
    content = {"x": tensor(Storage(values), 0, (4, 5), (5, 1))}
    refused(write_pt(tmp_path / "a.pt", content, {"0": data}), "storage '0' has")
    # What the file says where the data is, is the size that was asked for; the data is shorter.
    old = write_old_pt(tmp_path / "b.pt", content, ["0"], struct.pack("<q", values) + data)
    refused(old, old)


@pytest.mark.parametrize(
    "storage",
    [
        Storage(60, "1"),
        Storage(60, "../0"),
        Storage(60, 0),
        Storage(-60),
        Storage(60.0),
        Storage(True),
        Storage("60"),
        Storage(60, kind=torch.float32),
        Storage(60, kind="FloatStorage"),
    ],
)
def test_storages_that_are_none(tmp_path: Path, storage: Storage) -> None:
    content = {"x": tensor(storage, 0, (4, 5), (5, 1))}
    refused(write_pt(tmp_path / "a.pt", content, {"0": BYTES}), tmp_path / "a.pt")


def test_one_storage_that_is_two_things(tmp_path: Path) -> None:
    """PyTorch would read both as what comes first."""
    content = {
        "x": tensor(Storage(60), 0, (4, 5), (5, 1)),
        "y": tensor(Storage(30, kind=torch.DoubleStorage), 0, (4, 5), (5, 1)),
    }
    refused(write_pt(tmp_path / "a.pt", content, {"0": BYTES}), "storage '0' is two things")


def nested(depth: int, begin: bytes, step: bytes) -> bytes:
    return b"\x80\x02" + begin + step * depth


@pytest.mark.parametrize(
    "pickle",
    [
        # A key that is a tuple of a tuple of ..., and one that is to be hashed 2^60 times.
        nested(100_000, b"})", b"\x85") + b"Ns.",
        nested(60, b"})", b"2\x86") + b"Ns.",
        nested(100_000, b"", b"]") + b"." + b"a" * 100_000,
        nested(100_000, b"", b"(") + b".",
        nested(200_000, b"", b"(") + b"t" * 200_000 + b".",
        b"\x80\x02}r\xff\xff\xff\x7fh\x00.",
        b"\x80\x02}j\xff\xff\xff\x7f.",
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02}}R.",
        b"\x80\x02ccollections\nOrderedDict\n}R.",
        b"\x80\x02}",
        b"\x80\x02.",
        b"\x80\x02ctorch\n_utils._rebuild_tensor\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    ],
)
def test_pickles_that_go_nowhere(tmp_path: Path, pickle: bytes) -> None:
    begin = time.process_time()
    refused(write_pt(tmp_path / "a.pt", pickle, {}), tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle)
    refused(tmp_path / "b.pt", tmp_path / "b.pt")
    assert time.process_time() - begin < 10


def test_a_dict_within_itself(tmp_path: Path) -> None:
    refused(
        write_pt(tmp_path / "a.pt", b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.", {}), "'x' is a dict"
    )


def test_names_that_are_tuples(tmp_path: Path) -> None:
    torch.save({(0, "x"): torch.ones(2, 2)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "layer names must be text, found tuple")


@pytest.mark.parametrize("name", ["a/data.pkl", "a/data/0", "a/byteorder"])
def test_members_of_one_name(tmp_path: Path, name: str) -> None:
    content = {"x": tensor(Storage(60), 0, (12, 5), (5, 1))}
    more = [("a/byteorder", b"little"), (name, b"little")]
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_pt(tmp_path / "a.pt", content, {"0": BYTES}, more)
    refused(tmp_path / "a.pt", "two members of one name")


def test_two_pickles_in_one_file(tmp_path: Path) -> None:
    content = {"x": tensor(Storage(60), 0, (12, 5), (5, 1))}
    refused(write_pt(tmp_path / "a.pt", content, {"0": BYTES}, [("b/data.pkl", b"x")]), "2 pickles")


def test_byte_orders(tmp_path: Path) -> None:
    content = {"x": tensor(Storage(60), 0, (12, 5), (5, 1))}
    for order, data in ((b"little", BYTES), (b"big", DATA.astype(">f4").tobytes())):
        path = write_pt(tmp_path / "a.pt", content, {"0": data}, [("a/byteorder", order)])
        assert_holds(only(path), torch.from_numpy(DATA.reshape(12, 5).copy()))
    for order in (b"", b"middle", b"LITTLE", b"little\n", b"l" * 10_000):
        write_pt(tmp_path / "a.pt", content, {"0": BYTES}, [("a/byteorder", order)])
        refused(tmp_path / "a.pt", tmp_path / "a.pt")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_stream_is_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    """Deflated data is checked against its sum: never is there another value."""
    x = random(40, 30)
    write_deflated_pt(tmp_path / "a.pt", {"x": x})
    for _ in flipped(tmp_path / "a.pt", seed, 100):
        try:
            found = open_activations(tmp_path / "a.pt", "a").layers
        except InputError:
            continue
        for layer in found.values():
            assert torch.equal(read_all(layer), x)


def test_negated_views_keep_their_sign(tmp_path: Path) -> None:
    x = random(6, 4)
    torch.save({"x": torch._neg_view(x)}, tmp_path / "a.pt")
    assert_holds(only(tmp_path / "a.pt"), -x)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: torch.ones(2, 2, 2).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.ones(2, 2).to_sparse_csc(), "sparse_csc"),
        (lambda: torch.ones(2, 2).to_sparse_bsr((1, 1)), "sparse_bsr"),
        (lambda: torch.ones(2, 2, device="meta"), "meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint32), "quantized"),
        (lambda: torch.complex(torch.ones(2, 2), torch.ones(2, 2)).conj(), "conjugated"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_plain_memory(
    tmp_path: Path, value: Callable[[], torch.Tensor], kind: str
) -> None:
    torch.save({"x": value()}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", f"layer 'x': is a {kind} tensor; pass a dense one")


def test_parameters_and_ordered_dicts_are_read(tmp_path: Path) -> None:
    x = random(6, 4)
    content = collections.OrderedDict(x=torch.nn.Parameter(x))
    torch.save(content, tmp_path / "a.pt")
    assert_holds(only(tmp_path / "a.pt"), x)
    torch.save(torch.nn.Linear(4, 6, bias=False).state_dict(), tmp_path / "b.pt")
    assert only(tmp_path / "b.pt").shape == (6, 4)


def test_a_tensor_of_nothing(tmp_path: Path) -> None:
    for arguments in ((), (1,), (None, 0, (1,), (1,)), (Storage(60), 0, (1,))):
        write_pt(tmp_path / "a.pt", {"x": Rebuilt(*arguments)}, {"0": BYTES})
        refused(tmp_path / "a.pt", tmp_path / "a.pt")


def test_bytes_behind_an_old_file(tmp_path: Path) -> None:
    """As of two that were written to one file, of which the second would be lost."""
    path = tmp_path / "a.pt"
    torch.save(random(4, 3), path, _use_new_zipfile_serialization=False)
    path.write_bytes(2 * path.read_bytes())
    refused(path, "behind the storages")
