"""Directories of shards: the same numbers as one file, in the right order, few files open."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Layer

MIB = 2**20
TOKENS, NEURONS = 97, 6


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def save(path: Path, content: Any) -> None:
    """A tensor or a dict of tensors, in the format that the suffix names."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, content.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **{name: x.numpy() for name, x in content.items()})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(content, path)
    else:
        torch.save(content, path)


def save_shards(folder: Path, name: str, tensor: torch.Tensor, cuts: list[int]) -> Path:
    """Splits along the first axis before each of ``cuts``; ``name`` has a place for the number."""
    for i, part in enumerate(torch.tensor_split(tensor, cuts)):
        save(folder / name.format(i), part.clone())
    return folder


def assert_holds(layer: Layer, expected: torch.Tensor) -> None:
    assert (layer.dtype, layer.tokens, layer.neurons) == (expected.dtype, *expected.shape)
    for step in (1, 7, layer.tokens):
        for start in range(0, layer.tokens, step):
            stop = min(start + step, layer.tokens)
            layer.prepare(start, stop)
            assert torch.equal(layer.read(start, stop), expected[start:stop]), (start, stop)
            layer.release(start, stop)


def opened(folder: Path) -> dict[str, Layer]:
    found = open_activations(folder, "a")
    assert found.name == str(folder)
    return found.layers


def refused(folder: Path, *parts: object) -> None:
    with pytest.raises(InputError) as error:
        open_activations(folder, "a")
    message = str(error.value)
    assert "\n" not in message
    assert ": " in message
    assert "; " in message
    for part in parts:
        assert str(part) in message, message


# Which file is which layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy", ".npz", ".safetensors"])
def test_shards_in_natural_order(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and suffix in (".npy", ".npz"):
        pytest.skip("NumPy has no bfloat16")
    x = random(TOKENS, NEURONS, dtype=dtype)
    for i, part in enumerate(x.split(8)):  # 13 files: 10 to 12 come before 2 by letters
        content = {"x": part.clone()} if suffix in (".npz", ".safetensors") else part.clone()
        save(tmp_path / f"shard{i}{suffix}", content)
    (layer,) = opened(tmp_path).values()
    assert layer.name == ("x" if suffix in (".npz", ".safetensors") else "activations")
    assert layer.shape == (TOKENS, NEURONS)
    assert_holds(layer, x)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_layers_by_name_continue_over_the_files(tmp_path: Path, suffix: str) -> None:
    layers = {"mlp.0": random(20, 4), "mlp.1": random(20, 5)}
    for i in range(2):
        part = {name: x[10 * i : 10 * i + 10].clone() for name, x in layers.items()}
        save(tmp_path / "all" / f"step{i}{suffix}", part)
    for name, x in layers.items():
        save(tmp_path / "each" / f"{name}{suffix}", {name: x})
    for folder in ("all", "each"):
        found = opened(tmp_path / folder)
        assert list(found) == list(layers)
        for name, x in layers.items():
            assert_holds(found[name], x)


@pytest.mark.parametrize(
    ("files", "layers"),
    [
        (["mlp.0-000", "mlp.0-001", "mlp.1-0-of-1"], {"mlp.0": [0, 1], "mlp.1": [2]}),
        (["mlp.0_00009", "mlp.0_00010", "x-001"], {"mlp.0": [0, 1], "x": [2]}),
        (["acts_0", "acts_4096", "acts_8192", "acts_12288"], {"activations": [0, 1, 2, 3]}),
        (["x-0_part-1", "x-0_part-2", "y.acts_7"], {"x-0_part": [0, 1], "y.acts": [2]}),
        (["mlp.0.chunk-1", "mlp.0.chunk-2", "y"], {"mlp.0.chunk": [0, 1], "y": [2]}),
        (["mlp.0.post", "mlp.10", "mlp.9"], {"mlp.0.post": [0], "mlp.9": [2], "mlp.10": [1]}),
        (["acts-00001-of-00002", "acts-00002-of-00002"], {"activations": [0, 1]}),
        (["0-of-2", "1-of-2", "mlp"], {"activations": [0, 1], "mlp": [2]}),
        (["10", "9"], {"activations": [1, 0]}),
        (["Part1", "Part2", "mlp.0"], {"activations": [0, 1], "mlp.0": [2]}),
        (["layer_0", "layer_1"], {"layer_0": [0], "layer_1": [1]}),
        (["h.blocks-0", "h.blocks-1"], {"h.blocks-0": [0], "h.blocks-1": [1]}),
        (["layer_0-000", "layer_0-001", "layer_1-000"], {"layer_0": [0, 1], "layer_1": [2]}),
        (["layer-1-of-2", "layer-2-of-2"], {"activations": [0, 1]}),
        (["mlp.0"], {"activations": [0]}),
    ],
)  # fmt: skip
def test_names_of_lone_arrays(
    tmp_path: Path, files: list[str], layers: dict[str, list[int]]
) -> None:
    parts = [random(5, 3, seed=i) for i in range(len(files))]
    for i, file in enumerate(files):
        save(tmp_path / f"{file}{'.pt' if i % 2 else '.npy'}", parts[i])
    found = opened(tmp_path)
    assert list(found) == list(layers)
    for name, places in layers.items():
        assert_holds(found[name], torch.cat([parts[i] for i in places]))


def test_a_directory_a_layer(tmp_path: Path) -> None:
    x, y = random(9, 3), random(9, 3, seed=1)
    save_shards(tmp_path / "mlp.10", "{}.npy", x, [4])
    save_shards(tmp_path / "mlp.9", "any-{}-name.pt", y, [2, 7])
    (tmp_path / "logs").mkdir()
    (tmp_path / ".cache").mkdir()
    save(tmp_path / ".cache" / "1.npy", x)
    found = opened(tmp_path)
    assert list(found) == ["mlp.9", "mlp.10"]
    assert_holds(found["mlp.10"], x)
    assert_holds(found["mlp.9"], y)


def test_other_files_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    for name in (".1.npy", ".2.npy.tmp", "README.txt", "index.json", "3.npy.part"):
        (tmp_path / name).write_bytes(b"no activations")
    save(tmp_path / "old" / "1.npy", random(5, 3))
    assert_holds(opened(tmp_path)["activations"], random(5, 3))


def test_arrays_that_are_no_layers_stand_beside(tmp_path: Path) -> None:
    for i in range(2):
        tokens = torch.zeros(4 + i, 2 + i, dtype=torch.int64)
        save(tmp_path / f"{i}.safetensors", {"x": random(4, 3, seed=i), "tokens": tokens})
    found = open_activations(tmp_path, "a")
    assert list(found.layers) == ["x"]
    assert "int64" in str(found.unusable["tokens"])
    assert str(tmp_path / "0.safetensors") in str(found.unusable["tokens"])
    with pytest.raises(InputError, match="tokens"):
        uf.correlate(tmp_path, tmp_path)
    assert uf.correlate(tmp_path, tmp_path, layers="x", rotation="none").correlation.numel() == 3


# Shapes and layouts


def test_shape_is_kept_where_inner_axes_agree(tmp_path: Path) -> None:
    x = random(10, 4, 3)
    save_shards(tmp_path / "same", "{}.npy", x, [3, 8])
    (layer,) = opened(tmp_path / "same").values()
    assert layer.shape == (10, 4, 3)
    assert_holds(layer, x.view(40, 3))
    save(tmp_path / "other" / "0.npy", x[:5])
    save(tmp_path / "other" / "1.npy", x[5:].reshape(20, 3))
    (layer,) = opened(tmp_path / "other").values()
    assert layer.shape == (40, 3)
    assert_holds(layer, x.view(40, 3))


def test_every_layout_is_found_again(tmp_path: Path) -> None:
    """Columns first, other byte order, views, unaligned: as the file's reader understood them."""
    x = random(12, 3)
    np.save(tmp_path / "0.npy", np.asfortranarray(x[:3].numpy()))
    np.save(tmp_path / "1.npy", x[3:5].numpy().astype(">f4"))
    torch.save(x[5:8].T.contiguous().T, tmp_path / "2.pt")
    torch.save(x[8:10], tmp_path / "3.pt")  # with the storage of all of x
    torch.save(torch.cat([x, x], 1)[10:, 3:], tmp_path / "4.pt")
    assert_holds(opened(tmp_path)["activations"], x)


def test_in_place_within_a_shard_and_copied_across(tmp_path: Path) -> None:
    layer = opened(save_shards(tmp_path, "{}.npy", random(20, 3), [10]))["activations"]
    assert layer.read(3, 10).data_ptr() == layer.read(0, 1).data_ptr() + 3 * 3 * 4
    crossing = layer.read(8, 12)
    assert crossing.untyped_storage().nbytes() == 4 * 3 * 4
    assert layer.read(10, 10).shape == (0, 3)
    for start, stop in [(-1, 2), (0, 21), (3, 2)]:
        with pytest.raises(IndexError):
            layer.read(start, stop)


def test_fingerprints(tmp_path: Path) -> None:
    x = random(40, 3)
    one = save_shards(tmp_path / "one", "{}.npy", x, [7, 30])
    two = save_shards(tmp_path / "two", "{}.npy", x, [20])
    x[39, 2] += 1
    other = save_shards(tmp_path / "other", "{}.npy", x, [20])
    prints = [opened(folder)["activations"].fingerprint() for folder in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]


# The whole way


@pytest.mark.parametrize("match", ["index", "best"])
def test_sharding_changes_no_result(tmp_path: Path, match: str) -> None:
    a, b = random(9000, 16), random(9000, 16, seed=1)
    b[:, :8] += a[:, :8]
    whole = uf.correlate({"x": a}, {"x": b}, match=match, draws=3)
    folder_a, folder_b = tmp_path / "a", tmp_path / "b"
    for i, part in enumerate(a.split(700)):
        save(folder_a / f"acts-{i}.safetensors", {"x": part.clone()})
    for i, part in enumerate(torch.tensor_split(b, [1, 4500, 4501])):
        save(folder_b / f"{i}.npz", {"x": part})
    sharded = uf.correlate(folder_a, folder_b, match=match, draws=3)
    for name in ("correlation", "baseline", "p_value"):
        assert torch.equal(getattr(sharded, name), getattr(whole, name)), name
    assert sharded.summary["tokens"] == 9000
    assert sharded.summary["models"] == [str(folder_a), str(folder_b)]


def test_tokens_in_the_wrong_order_would_show(tmp_path: Path) -> None:
    a = random(1300, 4)
    save_shards(tmp_path / "a", "{}.npy", a, list(range(100, 1300, 100)))  # 0 to 12
    assert uf.correlate(tmp_path / "a", a, rotation="none").correlation.min() > 1 - 1e-6
    shutil.move(tmp_path / "a" / "12.npy", tmp_path / "a" / "00.npy")
    shutil.move(tmp_path / "a" / "0.npy", tmp_path / "a" / "12.npy")
    shutil.move(tmp_path / "a" / "00.npy", tmp_path / "a" / "0.npy")
    assert uf.correlate(tmp_path / "a", a, rotation="none").correlation.max() < 0.95


# What is refused


def test_empty_directories(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, ".pt, .pth, .npy, .npz, .safetensors")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "sub").mkdir()
    refused(tmp_path, tmp_path, "no activations", "check the path")
    save(tmp_path / "empty" / "a.pt", {})
    refused(tmp_path / "empty", tmp_path / "empty", "holds no layers")
    refused(tmp_path, tmp_path / "empty" / "a.pt", "no lone array")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["x-000", "x-001", "x-003"], ["x-003.npy", "shard 2 of layer 'x' is missing"]),
        (["x-0000", "x-4096", "x-12288"], ["x-12288.npy", "shard 8192 of layer 'x' is missing"]),
        (["0", "2", "4", "5"], ["2.npy", "shard 1 of layer 'activations' is missing"]),
        (["1", "2", "4"], ["4.npy", "shard 3 of layer 'activations'"]),
        (["x-1-of-3", "x-2-of-3"], ["2 of 3", "'x-1-of-3.npy'", "number 3 is missing"]),
        (["x-0-of-3", "x-2-of-3"], ["2 of 3", "number 1 is missing"]),
        (["x-2-of-3", "x-3-of-3"], ["number 1 is missing"]),
        (["x-1-of-2", "x-2-of-3"], ["x-1-of-2.npy", "x-2-of-3.npy", "of 2 and of 3"]),
        (["x-001", "x-0001"], ["x-001.npy", "x-0001.npy", "both shard 1"]),
        (["x", "x-001"], ["x.npy", "x-001.npy", "both layer 'x'", "has no number"]),
        (["x-002", "x_001"], ["x_001.npy", "shard 3", "number them alike"]),
        (["mlp_0", "mlp_1"], ["may be layer 'mlp_0', or shard 0", "mlp.0.npy", "mlp-00000.npy"]),
        (["h-10", "x"], ["may be layer 'h-10', or shard 10", "h.10.npy", "h-00010.npy"]),
    ],
)
def test_numbers_that_do_not_count(tmp_path: Path, files: list[str], parts: list[str]) -> None:
    for file in files:
        save(tmp_path / f"{file}.npy", random(5, 3))
    refused(tmp_path, tmp_path, *parts)


def test_a_gap_in_a_layer_by_name(tmp_path: Path) -> None:
    for i in range(3):
        layers = {"x": random(5, 3), "y": random(5, 3)}
        save(tmp_path / f"s-{i}.pt", layers if i != 1 else {"x": random(5, 3)})
    refused(tmp_path, tmp_path / "s-2.pt", "shard 1 of layer 'y' is missing")


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (random(5, 4), ["float32 [5, 3]", "float32 [5, 4]"]),
        (random(5, 3, dtype=torch.float64), ["float32 [5, 3]", "float64 [5, 3]"]),
    ],
)
def test_shards_that_do_not_fit(tmp_path: Path, other: torch.Tensor, parts: list[str]) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    save(tmp_path / "1.npy", random(5, 3))
    save(tmp_path / "2.npy", other)
    refused(tmp_path, tmp_path / "0.npy", tmp_path / "2.npy", "one width and dtype", *parts)


def test_shards_that_are_no_activations(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", random(5, 3))
    save(tmp_path / "1.npy", random(5))
    refused(tmp_path, tmp_path / "1.npy", "[5]", "at least 2 axes")
    save(tmp_path / "1.npy", random(0, 3))
    refused(tmp_path, tmp_path / "1.npy", "no tokens")
    (tmp_path / "1.npy").write_bytes(b"")
    refused(tmp_path, tmp_path / "1.npy", "is empty")
    (tmp_path / "1.npy").unlink()
    (tmp_path / "1.npy").symlink_to(tmp_path / "gone.npy")
    refused(tmp_path, tmp_path / "1.npy", "no such file")


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=random(5, 3).numpy())
    refused(tmp_path, tmp_path / "a.npz", "'x'", "compressed", "numpy.savez")
    (tmp_path / "a.npz").unlink()
    torch.save(random(5, 3), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path, tmp_path / "a.pt", "old format", "torch.save")


def test_what_is_no_directory_of_activations(tmp_path: Path) -> None:
    save(tmp_path / "0.safetensors", {"x": random(5, 3)})
    torch.save({"format": "univfast-checkpoint"}, tmp_path / "a.pt")
    refused(tmp_path, tmp_path / "a.pt", "model file of `univfast train`")
    (tmp_path / "a.pt").unlink()
    for config in ('{"model_type": "gpt2"}', '{"architectures": ["GPT2Model"]}'):
        (tmp_path / "config.json").write_text(config)
        refused(tmp_path, tmp_path, "Hugging Face model", "--text FILE and --hooks GLOB")
    for other in ("{}", '{"layers": 2}', "[1]", "no JSON"):
        (tmp_path / "config.json").write_text(other)
        assert list(opened(tmp_path)) == ["x"]


def save_capture(folder: Path, tokens: int, **about: object) -> None:
    """Two shards of five tokens, and what is said of them."""
    known = {"format": "univfast-capture", "version": 1, "shards": 2, "tokens": tokens}
    for i in range(2):
        save(folder / f"shard-{i:05}.safetensors", {"x": random(5, 3, seed=i)})
    (folder / "capture.json").write_text(json.dumps({**known, **about}))


def test_a_capture_is_its_shards_alone(tmp_path: Path) -> None:
    save_capture(tmp_path, 10)
    for name in ("shard-00002", "shard-00001-copy", "acts"):
        save(tmp_path / f"{name}.safetensors", {"x": random(5, 3, seed=9)})
    assert_holds(opened(tmp_path)["x"], torch.cat([random(5, 3), random(5, 3, seed=1)]))


def test_an_incomplete_capture(tmp_path: Path) -> None:
    save_capture(tmp_path, 10)
    shard = tmp_path / "shard-00001.safetensors"
    shutil.copy(shard, tmp_path / "acts-00001.safetensors")
    shard.rename(tmp_path / ".shard-00001.safetensors")
    again = "same `univfast capture` command"
    refused(tmp_path, tmp_path, "incomplete, 1 of 2", "shard-00001.safetensors is not", again)
    save_capture(tmp_path, 11)
    refused(tmp_path, tmp_path, "hold 10 tokens of layer 'x', capture.json says 11", again)
    save_capture(tmp_path, 10, shards="2")
    refused(tmp_path, tmp_path, "capture.json is damaged", again)


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


# Resources


def resident(kind: str) -> int:
    """Bytes of this process in memory: all, or those of files alone."""
    (line,) = re.findall(
        rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE
    )
    return int(line) * 1024


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
            taken = [max(most, resident(kind)) for most, kind in zip(taken, kinds, strict=True)]
            layer.release(start, stop)
        return taken

    read(0)  # so that the code that it needs, which is mapped too, is in memory
    before = [resident(kind) for kind in kinds]
    peaks = [read(start) for start in range(0, 20480, step)]
    all_grew, files_grew = (max(peak[i] for peak in peaks) - before[i] for i in range(2))
    assert files_grew < step * 4096 + 16 * MIB  # the slice, and the blocks around it
    # Its copy too, and what the allocator keeps of those before: of 160 MiB, still a part.
    assert all_grew < 2 * step * 4096 + 64 * MIB
    assert resident("RssFile") - before[1] < 8 * MIB


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 1 - 1e-6


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
