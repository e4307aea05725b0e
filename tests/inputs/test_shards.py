"""Layers of many files: few of them open at a time, little memory, and files that change."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from support.activation_files import MIB, random
from support.processes import memory, printed, python
from support.shards import opened, save, save_shards
from univfast.errors import InputError
from univfast.inputs.layers import Layer


def many(folder: Path, count: int) -> Layer:
    """A layer of more shards than are open at a time."""
    return opened(save_shards(folder, "{}.npy", random(count, 3), list(range(1, count))))[
        "activations"
    ]


@pytest.mark.parametrize("change", ["other shape", "same size", "removed"])
def test_a_file_that_changes_meanwhile(tmp_path: Path, change: str) -> None:
    layer = many(tmp_path, 40)
    first = layer.read(0, 1)
    layer.read(1, 40)  # so many files that the first is no longer open
    file, expected = tmp_path / "0.npy", first.clone()
    replaced = random(1, 4 if change == "other shape" else 3, seed=5)
    if change == "removed":
        file.unlink()
    else:
        np.save(tmp_path / ".new.npy", replaced.numpy())
        (tmp_path / ".new.npy").rename(file)
    part = "no such file" if change == "removed" else "changed since"
    with pytest.raises(InputError, match=rf"^{file}: .*{part}.*; "):
        layer.read(0, 2)
    assert torch.equal(first, expected)  # what was read stays valid


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("step", [1500, 8500])  # mostly within a shard; always over several
def test_resident_memory_stays_flat(tmp_path: Path, step: int) -> None:
    part = {"x": random(1, 1024).repeat(2048, 1), "y": random(1, 1024).repeat(2048, 1)}
    for i in range(10):  # 160 MiB
        save(tmp_path / f"{i}.safetensors", part)
    layers = opened(tmp_path)
    kinds = ("VmRSS", "RssFile")

    def read(start: int) -> list[int]:
        """What memory a slice takes of each kind, before it is released."""
        stop = min(start + step, 20480)
        taken = [0, 0]
        for layer in layers.values():
            layer.prepare(stop, min(stop + step, 20480))
            assert layer.read(start, stop).sum().isfinite()
            taken = [max(most, memory(kind)) for most, kind in zip(taken, kinds, strict=True)]
            layer.release(start, stop)
        return taken

    read(0)  # so that the code that it needs, which is mapped too, is in memory
    before = [memory(kind) for kind in kinds]
    peaks = [read(start) for start in range(0, 20480, step)]
    all_grew, files_grew = (max(peak[i] for peak in peaks) - before[i] for i in range(2))
    assert files_grew < step * 4096 + 16 * MIB  # the slice, and the blocks around it
    # Its copy too, and what the allocator keeps of those before: of 160 MiB, still a part.
    assert all_grew < 2 * step * 4096 + 64 * MIB
    assert memory("RssFile") - before[1] < 8 * MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    x = random(200, 8)
    for name in "ab":
        save_shards(tmp_path / name, "{}.npy", x, list(range(1, 200)))
    code = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import univfast as uf
from univfast.inputs.activations import open_activations
layer = open_activations({str(tmp_path / "a")!r}, "a").layers["activations"]
kept = layer.read(0, 200)
assert len(os.listdir("/proc/self/fd")) < 40
r = uf.correlate({str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}, rotation='none').correlation
print(float(r.min()))
"""
    assert float(printed(python(code))) > 1 - 1e-6


def test_only_so_many_files_are_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = many(tmp_path, 40)
    counted: list[str] = []
    from univfast.inputs import shards

    class Counting(shards.MappedFile):
        def __init__(self, path: str) -> None:
            counted.append(path)
            super().__init__(path)

    monkeypatch.setattr(shards, "MappedFile", Counting)
    for start in range(0, 40, 5):
        layer.read(0, 1)  # used again and again, so never closed
        layer.prepare(start, start + 5)
        layer.read(start, start + 5)
        layer.release(start, start + 5)
    assert len(counted) == 40  # once each


def test_what_comes_next_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file the part that is in the slice."""
    layer = opened(save_shards(tmp_path, "{}.npy", random(30, 4), [10, 20]))["activations"]
    asked: list[int] = []
    monkeypatch.setattr(
        "univfast.inputs.mapping.MappedFile.prepare",
        lambda mapped, low, high: asked.append((high - low) // 16),
    )
    layer.prepare(5, 23)
    assert asked == [5, 10, 3]
    layer.prepare(30, 30)
    assert len(asked) == 3


@pytest.mark.slow
def test_several_threads_read(tmp_path: Path) -> None:
    layer, expected = many(tmp_path, 60), random(60, 3)
    wrong: list[int] = []

    def read(offset: int, work: Callable[[int, int], object]) -> None:
        for i in range(600):
            start = (i * 7 + offset) % 58
            work(start, start + 2)
            if not torch.equal(layer.read(start, start + 2), expected[start : start + 2]):
                wrong.append(start)

    threads = [
        threading.Thread(target=read, args=(i, work))
        for i, work in enumerate((layer.prepare, layer.release, layer.read))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
