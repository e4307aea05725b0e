"""Files that are written to while they are read, and what is no file: one line, and no signal."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import WRITERS, assert_one_line, only, random, refused
from support.processes import python
from support.shards import opened, save
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.masks import open_mask
from univfast.inputs.model_paths import is_model_directory
from univfast.inputs.token_ids import open_token_ids
from univfast.text.corpus import CorpusOptions, read_corpus
from univfast.text.vocabulary import Vocabulary

CHANGED = "changed while it was read; let nothing write to it, and start again"

IN_PLACE = [kind for kind in WRITERS if kind not in ("legacy.pt", "deflated.pt", "compressed.npz")]


def cut(path: Path) -> None:
    os.truncate(path, 5000)


def rewrite(path: Path) -> None:
    """As long as before, and soon after."""
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("change", [cut, rewrite, grow])
@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_file_that_is_written_to(
    tmp_path: Path, kind: str, change: Callable[[Path], object]
) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, {"x": random(500, 40)})
    layer = only(path)
    layer.read(0, 10)
    change(path)
    for work in (layer.read, layer.release):
        with pytest.raises(InputError) as error:
            work(0, 10)
        assert_one_line(error, path, CHANGED)


def test_a_shard_that_is_written_to(tmp_path: Path) -> None:
    x = random(1000, 40)
    for i in range(2):
        save(tmp_path / f"{i}.npy", x[500 * i : 500 * i + 500])
    layer = opened(tmp_path)["activations"]
    assert torch.equal(layer.read(0, 1000), x)
    cut(tmp_path / "1.npy")
    assert torch.equal(layer.read(0, 400), x[:400])
    with pytest.raises(InputError, match=r"1\.npy: changed while it was read"):
        layer.read(400, 1000)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path: Path, change: str) -> None:
    path, x = tmp_path / "a.npy", random(500, 40)
    np.save(path, x.numpy())
    layer = only(path)
    if change == "replaced":
        np.save(tmp_path / "b.npy", -x.numpy())
        os.replace(tmp_path / "b.npy", path)
    else:
        path.unlink()
    assert torch.equal(layer.read(0, 500), x)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux sends them")
def test_a_run_whose_file_is_cut(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", random(5000, 40).numpy())
    code = """
import os, sys
import univfast as uf
from univfast.inputs.mapping import MappedFile

calls, check = [], MappedFile.check

def cut_and_check(self):
    calls.append(self)
    if len(calls) == 3:  # both are open
        os.truncate(sys.argv[1], 5000)
    check(self)

MappedFile.check = cut_and_check
try:
    uf.correlate(sys.argv[1], sys.argv[2])
except uf.InputError as error:
    print(error)
"""
    done = python(code, tmp_path / "a.npy", tmp_path / "b.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'a.npy'}: {CHANGED}\n"


def test_masks_and_ids_outlive_their_files(tmp_path: Path) -> None:
    keep = random(9000) > 0
    for name, values in (("mask", keep), ("ids", keep.long())):
        np.save(tmp_path / f"{name}.npy", values.numpy())
    mask = open_mask(tmp_path / "mask.npy", (9000,))
    ids = open_token_ids(tmp_path / "ids.npy", (9000,))
    for name in ("mask", "ids"):
        cut(tmp_path / f"{name}.npy")
    assert torch.equal(mask, keep)
    assert torch.equal(ids, keep.long())


def test_bytes_of_a_mask_are_0_and_1(tmp_path: Path) -> None:
    """Any other is true to one program and false to the next."""
    np.save(tmp_path / "mask.npy", np.array([1, 2, 0], np.uint8).view(bool))
    with pytest.raises(InputError) as error:
        open_mask(tmp_path / "mask.npy", (3,))
    assert_one_line(error, tmp_path / "mask.npy", "0 and 1 alone")


# What is no file


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unreadable(path: Path) -> None:
    """A regular file, by its status, whose first byte the system refuses."""
    path.symlink_to("/proc/self/mem")


SPECIAL = [fifo, folder, loop, dangling, device]
if os.path.exists("/proc/self/mem"):
    SPECIAL.append(unreadable)


def one_line(read: Callable[[], object], path: Path) -> None:
    with pytest.raises(InputError) as error:
        read()
    assert_one_line(error, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("make", SPECIAL)
def test_what_is_no_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "x.npy"
    bare = tmp_path / "x"
    make(path)
    make(bare)
    x = torch.ones(4, 3)
    for read in (
        lambda: uf.correlate(path, path),
        lambda: open_mask(path, (4,)),
        lambda: open_token_ids(path, (4,)),
        lambda: uf.correlate(x, x, mask=path),
        lambda: read_corpus(str(path), Vocabulary("m", None, None), 9, None, CorpusOptions()),
        lambda: read_corpus(str(bare), Vocabulary("m", None, None), 9, None, CorpusOptions()),
    ):
        one_line(read, bare)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["config.json", "capture.json", "x.npy"])
@pytest.mark.parametrize("make", [make for make in SPECIAL if make is not folder])
def test_what_is_no_regular_file_in_a_directory(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    make(tmp_path / name)
    refused(tmp_path, tmp_path / name)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert stat.S_ISFIFO((tmp_path / "config.json").stat().st_mode)
    with pytest.raises(InputError, match=r"config\.json: is not a regular file; save it to one"):
        is_model_directory(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "\ud800"])
def test_a_config_that_is_no_json_is_of_another_program(tmp_path: Path, text: str) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    (tmp_path / "config.json").write_text(text, errors="surrogatepass")
    assert opened(tmp_path)["activations"].tokens == 5


@pytest.mark.parametrize(
    "about",
    [
        {"shards": 4611686018427387906},
        {"shards": 10**300},
        {"shards": -1},
        {"shards": 0},
        {"shards": True},
        {"shards": 2.0},
        {"shards": None},
        {"tokens": 10.0},
        {"tokens": 2**64},
        {"tokens": "10"},
        {"text": 3},
        {"kept": []},
        {"positions": 3},
        {"skip": [3]},
        {"skip": "bos"},
        {"skip": {"a": 1}},
    ],
)
def test_captures_that_say_what_is_not_so(tmp_path: Path, about: dict[str, object]) -> None:
    known = {"format": "univfast-capture", "version": 1, "shards": 1, "tokens": 5}
    save(tmp_path / "shard-00000.safetensors", {"x": random(5, 3)})
    (tmp_path / "capture.json").write_text(json.dumps(known))
    assert list(open_activations(tmp_path, "a").layers) == ["x"]
    (tmp_path / "capture.json").write_text(json.dumps({**known, **about}))
    refused(tmp_path, tmp_path, "same `univfast capture` command")


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "[]", "\0", '{"a":' * 100_000])
def test_captures_that_are_damaged(tmp_path: Path, text: str) -> None:
    save(tmp_path / "shard-00000.safetensors", {"x": random(5, 3)})
    (tmp_path / "capture.json").write_text(text)
    refused(tmp_path, tmp_path / "capture.json", "is damaged")
