"""Files whose headers say what is not there: refused in one line, before memory is touched."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from support.activation_files import only, random, read_all, refused
from support.lying_files import npy, npy_of, write_lists, write_safetensors

# NumPy's


@pytest.mark.parametrize(
    "content",
    [
        npy_of("(True,)", bytes(4)),
        npy_of("(2, True)", bytes(8)),
        npy_of("(-2, -2)", bytes(16)),
        npy_of("(2, -2)", bytes(16)),
        npy_of("(0, -2)", b""),
        npy_of("(2.0, 2)", bytes(16)),
        npy_of("('2', 2)", bytes(16)),
        npy_of("[2, 2]", bytes(16)),
        npy_of("(4611686018427387904, 4)", bytes(16)),
        npy_of("(4294967296, 4294967296)", bytes(16)),
        npy_of("(18446744073709551617, 1)", bytes(16)),
        npy_of(f"({'9' * 5000}, 1)", bytes(16)),
        npy_of("(2, 2)", bytes(15)),
        npy_of("(2, 2)", bytes(17)),
        npy_of("(2, 2)", bytes(32)),
        npy_of("(2, 2)", bytes(16), "'|O'"),
        npy_of("(2, 2)", bytes(12), "'|V3'"),
        npy_of("(2, 2)", bytes(16), "'(2,2)<f4'"),
        npy_of("(2, 2)", bytes(64), "('<f4', (2, 2))"),
        npy_of("(2, 2)", bytes(16), "[('x', '<f4')]"),
        npy_of("(2, 2)", bytes(16), "'<U1'"),
        npy_of("(2, 2)", bytes(32), "'<M8[s]'"),
        npy_of("(2, 2)", bytes(16), "None"),
        npy_of("(2, 2)", bytes(16), "'nonsense'"),
        npy("(" * 9000, b""),
        npy("[" * 60 + "]" * 60, b""),
        npy("-" * 9000 + "1", b""),
        npy("'", b""),
        npy("{}", b""),
        npy("\0", b""),
        npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 2)}", bytes(16)),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{" * 999,
        b"\x93NUMPY\x04\x00" + bytes(100),
    ],
)
@pytest.mark.parametrize("form", ["npy", "npz", "compressed.npz"])
def test_npy_headers(tmp_path: Path, content: bytes, form: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "npy":
        path.write_bytes(content)
    else:
        method = zipfile.ZIP_STORED if form == "npz" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x.npy", content)
    refused(path, path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", [False, True])
def test_npy_headers_that_are_right(tmp_path: Path, version: tuple[int, int], order: bool) -> None:
    header = f"{{'descr': '>f8', 'fortran_order': {order}, 'shape': (4, 3)}}"
    x = np.arange(12.0).reshape(4, 3)
    (tmp_path / "a.npy").write_bytes(
        npy(header, x.astype(">f8").tobytes("F" if order else "C"), version)
    )
    assert torch.equal(read_all(only(tmp_path / "a.npy")), torch.from_numpy(x))


def deflated_npz(path: Path, content: bytes) -> bytearray:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return bytearray(path.read_bytes())


def test_compressed_members_that_claim_other_sizes(tmp_path: Path) -> None:
    """Sizes stand in the directory at its end and once more before the data."""
    path = tmp_path / "a.npz"
    content = npy_of("(25, 40)", bytes(4000))
    whole = deflated_npz(path, content)
    at = whole.index(b"PK\x01\x02") + 24
    for size, wrong in (
        (0, "damaged"),
        (1, "damaged"),
        (len(content) - 1, "damaged"),
        (len(content) + 1, f"ends after {len(content)} of"),
        (10**6, "cannot be 1000000 bytes from"),
        (2**32 - 2, "cannot be 4294967294 bytes from"),
    ):
        whole[at : at + 4] = struct.pack("<I", size)
        path.write_bytes(whole)
        refused(path, path, wrong)
    # A header that asks for as much as the member claims: still more than its data can become.
    huge = npy_of("(16000000, 64)", bytes(4000))
    whole = deflated_npz(path, huge)
    at = whole.index(b"PK\x01\x02") + 24
    whole[at : at + 4] = struct.pack("<I", len(huge) - 4000 + 16_000_000 * 64 * 4)
    path.write_bytes(whole)
    refused(path, "cannot be 40960")


def test_a_sum_that_is_wrong(tmp_path: Path) -> None:
    whole = deflated_npz(tmp_path / "a.npz", npy_of("(25, 40)", bytes(4000)))
    for at in (whole.index(b"PK\x01\x02") + 16, 14):
        whole[at] ^= 1
    (tmp_path / "a.npz").write_bytes(whole)
    refused(tmp_path / "a.npz", "Bad CRC-32")


def test_npz_members(tmp_path: Path) -> None:
    path, good = tmp_path / "a.npz", npy_of("(2, 2)", bytes(16))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", good)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", good)
    refused(path, "two members of one name")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
    refused(path, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", good)
    refused(path, "another method than deflate; save it uncompressed")
    with zipfile.ZipFile(path, "w"):
        pass
    refused(path, path)


def test_members_that_overlap(tmp_path: Path) -> None:
    """One lies within the other, so that a small file holds as much as one likes."""
    path, good = tmp_path / "a.npz", npy_of("(2, 2)", bytes(16))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("y.npy", good)
        inner = archive.infolist()[0]
    begin = path.read_bytes()[: 30 + len("y.npy") + len(good)]
    outer = npy_of(f"({len(begin)}, 1)", begin, "'|u1'")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", outer)
        inner.header_offset = 30 + len("x.npy") + len(outer) - len(begin)
        archive.filelist.append(inner)
    refused(path, "members that overlap")


def test_encrypted_members(tmp_path: Path) -> None:
    for path in (tmp_path / "a.pt", tmp_path / "a.npz"):
        if path.suffix == ".pt":
            torch.save({"x": random(4, 3)}, path)
        else:
            np.savez(path, x=random(4, 3).numpy())
        whole = bytearray(path.read_bytes())
        at = whole.index(b"PK\x01\x02")
        whole[at + 8] |= 1
        path.write_bytes(whole)
        refused(path, "is encrypted; save it as it is")


# Safetensors


F32 = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"x": F32}, 65),
        ({"x": F32}, 63),
        ({"x": F32, "y": F32}, 64),
        ({"x": F32, "y": {**F32, "data_offsets": [32, 96]}}, 96),
        ({"x": F32, "y": {**F32, "data_offsets": [68, 132]}}, 132),
        ({"x": {**F32, "data_offsets": [4, 68]}}, 68),
        ({"x": {**F32, "shape": [True, 16]}}, 64),
        ({"x": {**F32, "shape": [4.0, 4]}}, 64),
        ({"x": {**F32, "shape": [float("nan"), 4]}}, 64),
        ({"x": {**F32, "shape": ["4", 4]}}, 64),
        ({"x": {**F32, "shape": [-4, -4]}}, 64),
        ({"x": {**F32, "shape": [0, -4], "data_offsets": [0, 0]}}, 0),
        ({"x": {**F32, "shape": [2**62, 2**62]}}, 64),
        ({"x": {**F32, "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, 0),
        ({"x": {**F32, "shape": {"0": 4}}}, 64),
        ({"x": {**F32, "shape": None}}, 64),
        ({"x": {**F32, "data_offsets": [0.0, 64.0]}}, 64),
        ({"x": {**F32, "data_offsets": [0, 64, 64]}}, 64),
        ({"x": {**F32, "data_offsets": [-1, 63]}}, 64),
        ({"x": {**F32, "data_offsets": [64, 0]}}, 64),
        ({"x": {**F32, "dtype": ["F32"]}}, 64),
        ({"x": {**F32, "dtype": None}}, 64),
        ({"x": {**F32, "more": 1}}, 64),
        ({"x": [F32]}, 64),
        ({"x": None}, 0),
        ([], 0),
        (b'{"x": 1, "x": 2}', 0),
        (
            b'{"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}, '
            b'"x": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}',
            64,
        ),
        (b"{" + b'"a":{' * 100_000, 0),
        (b'{"x":' + b"[" * 100_000, 0),
        (b'{"x":' + b"9" * 100_000 + b"}", 0),
        (b'{"\xff": 1}', 0),
        (b"{", 0),
        ({"\ud800": F32}, 64),
    ],
)  # fmt: skip
def test_safetensors_headers(tmp_path: Path, header: object, data: int) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", header, bytes(data))
    refused(path, path)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**63, 2**64 - 8, 2**64 - 1])
def test_safetensors_lengths(tmp_path: Path, length: int) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"x": F32}, bytes(64), length)
    refused(path, path)


# Datasets


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 261, 4, 6],
        [0, 2, 4, 2**31 - 1],
        [0, 2, 4, 5000],
        [-2, 0, 2, 4],
        [4, 2, 4, 6],
        [0, 4, 2, 6],
    ],
)
def test_lists_that_reach_beyond(tmp_path: Path, offsets: list[int]) -> None:
    pytest.importorskip("pyarrow")
    folder = write_lists(tmp_path / "d", offsets, 6)
    refused(folder, folder / "data.arrow")


def test_lists_that_are_right(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    folder = write_lists(tmp_path / "d", [0, 2, 4, 6], 6)
    assert torch.equal(read_all(only(folder)), torch.arange(6.0).reshape(3, 2))
    # With its number of batches at the end, too.
    table = pa.ipc.open_stream((folder / "data.arrow").read_bytes()).read_all()
    with pa.ipc.new_file(folder / "data.arrow", table.schema) as out:
        out.write_table(table)
    assert torch.equal(read_all(only(folder)), torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize(
    "state",
    [
        '{"_data_files": [{"filename": "a\\u0000b"}]}',
        '{"_data_files": [{"filename": "../d/data.arrow"}]}',
        '{"_data_files": [{"filename": "data.arrow"}, {"filename": "data.arrow"}]}',
        '{"_data_files": [{"filename": 3}]}',
        '{"_data_files": 3}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_states_of_datasets(tmp_path: Path, state: str) -> None:
    pytest.importorskip("pyarrow")
    folder = write_lists(tmp_path / "d", [0, 2, 4, 6], 6)
    (folder / "state.json").write_text(state)
    refused(folder, folder / "state.json")


# Their names


def test_long_names(tmp_path: Path) -> None:
    refused({"x" * 10_001: torch.ones(2, 2)}, "has a name of 10001 characters")
    assert only({"x" * 10_000: torch.ones(2, 2)}).neurons == 2


def test_one_file_twice_and_a_path_within_another(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, random(4, 3).numpy())
    np.save(tmp_path / "a.npy.npy", random(4, 2).numpy())
    os.link(path, tmp_path / "b.npy")
    for source, neurons in (("a.npy", 3), ("a.npy.npy", 2), ("b.npy", 3), ("a.npy", 3)):
        assert only(tmp_path / source).neurons == neurons


def test_numbers_are_not_read_from_what_is_cut(tmp_path: Path) -> None:
    """Whatever is cut off, at any place, of a file of each kind."""
    buffer = io.BytesIO()
    np.savez(buffer, x=random(3, 2).numpy(), y=random(2, 2).numpy())
    whole = buffer.getvalue()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        refused(tmp_path / "a.npz", tmp_path / "a.npz")
