"""Directories: shards by many names, captures, Hugging Face datasets, and what models leave."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz import files, plain
from fuzz.kinds import WrongError, attempt, bytes_of, check_activations, kind
from fuzz.mutate import several, some_bytes, some_json
from univfast.inputs.activations import open_activations

NEURONS = 5
# One shard of a layer, by its number; and all of a layer, by its number.
SHARDS = ("{layer}-{n:05}", "{layer}_{n:03}", "{layer}-{n}-of-{count}", "shard-{n:05}", "{n}")
LAYERS = ("mlp.{n}", "layer_{n}", "block-{n}", "h{n}")
SUFFIXES = (".npy", ".pt", ".safetensors", ".npz")


def prepare() -> None:
    """What is imported by the readers."""
    import pyarrow  # noqa: F401
    import safetensors.torch  # noqa: F401


def rows(rng: Random) -> Tensor:
    """A few tokens, of which no others are like them."""
    generator = torch.Generator().manual_seed(rng.getrandbits(48))
    return torch.randn(rng.choice((1, 3, 4)), NEURONS, generator=generator)


def save(path: Path, x: Tensor) -> None:
    """A lone array, or one that the file names ``mlp.0``, as its suffix says."""
    if path.suffix == ".npy":
        np.save(path, x.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **{"mlp.0": x.numpy()})
    elif path.suffix == ".pt":
        torch.save(x, path)
    else:
        from safetensors.torch import save_file

        save_file({"mlp.0": x}, path)


# ---- shards --------------------------------------------------------------------------------------


@kind("shards", 12)
def shards(rng: Random, folder: Path) -> None:
    """Files by the names that are read, a few of them gone, doubled, renamed or changed.

    Whatever the layers are called that come out, they hold each array that is in a file once, those
    of one layer in the order of their numbers.
    """
    suffix, names = rng.choice(SUFFIXES), rng.choice((SHARDS, SHARDS, LAYERS))
    pattern, count = rng.choice(names), rng.choice((1, 2, 3, 12))
    first = rng.choice((0, 0, 1))
    for n in range(first, first + count):
        name = pattern.format(layer="mlp.0", n=n, count=count) + suffix
        save(folder / name, rows(rng))
    several(rng, _some_file, folder)
    _check_directory(folder)


def _some_file(rng: Random, folder: Path) -> Path:
    """The directory, with a file in it changed, gone, renamed, doubled, or something beside."""
    there = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES)
    beside = folder / rng.choice(("x", ".hidden.npy", "config.json", "state.json", "notes.txt"))
    if not there:
        return folder
    path = rng.choice(there)
    stem = rng.choice((path.stem, *(f"mlp.0-{n:05}" for n in (0, 1, 7)), "x", "mlp_3", "0", "-1"))
    other = folder / (stem + rng.choice((path.suffix, rng.choice(SUFFIXES), ".PT", ".pth", "")))
    what = rng.randrange(9)
    if what == 0:
        path.unlink()
    elif what == 1 and not other.exists():
        path.rename(other)
    elif what == 2 and not other.exists():
        save(path.with_name(other.stem + path.suffix), rows(rng))
    elif what == 3:
        path.write_bytes(several(rng, some_bytes, path.read_bytes()))
    elif what == 4:
        (folder / f"{stem}-dir{path.suffix}").mkdir(exist_ok=True)
    elif what == 5:
        path.unlink()
        rng.choice((os.mkfifo, lambda p: os.symlink(p, p), lambda p: os.symlink("gone", p)))(path)
    elif what == 6 and not beside.is_fifo():  # which would be waited for
        beside.write_bytes(rng.choice((b"", b"{}", b"[" * 100_000, b'{"model_type": "gpt2"}')))
    elif what == 7:
        beside.unlink(missing_ok=True)
        os.mkfifo(beside)
    else:
        save(
            path,
            torch.randn(3, rng.choice((NEURONS, NEURONS + 1))).to(rng.choice(files.FLOATS[:3])),
        )
    return folder


def _check_directory(folder: Path) -> None:
    found = attempt(lambda: open_activations(folder, "a"))
    arrays: dict[bytes, tuple[str, Tensor]] = {}
    names = [path for path in folder.iterdir() if path.suffix in (*SUFFIXES, ".pth")]
    for path in sorted(names, key=_natural):
        if path.is_file() and not path.name.startswith("."):
            for name, x in _plainly(path).items():
                arrays[bytes_of(x)] = (f"{path.name} {name}", x)
    taken = []
    for name, layer in found.layers.items():
        left = layer.read(0, layer.tokens)
        while len(left):
            fits = [x for x in arrays.values() if bytes_of(left[: len(x[1])]) == bytes_of(x[1])]
            if not fits:
                raise WrongError(f"layer {name!r} has tokens that no file has")
            taken.append((name, fits[0][0]))
            left = left[len(fits[0][1]) :]
    order = [file for file, _ in arrays.values()]
    if sorted(file for _, file in taken) != sorted(order) and not found.unusable:
        raise WrongError(f"took {taken} of {order}")
    for name in found.layers:
        mine = [order.index(file) for layer, file in taken if layer == name]
        if mine != sorted(mine):
            raise WrongError(f"layer {name!r} has its shards in the order {taken}")


def _natural(path: Path) -> list[int | str]:
    """By name, with the numbers in it as numbers."""
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", path.name)]


def _plainly(path: Path) -> dict[str, Tensor]:
    try:
        return plain.read(path)
    except Exception as error:
        raise WrongError(f"{path.name} was taken, but a plain reader says {error!r}") from error


# ---- captures ------------------------------------------------------------------------------------


def check_capture(path: Path) -> None:
    """Tries a ``capture.json`` with the shards of a capture beside."""
    path.rename(path.parent / "capture.json")
    _check_captured(path.parent, _write_shards(Random(0), path.parent, 2))


@kind("capture", 8, check_capture)
def capture(rng: Random, folder: Path) -> None:
    """What `univfast capture` wrote, its description changed, or a shard of it."""
    count = rng.choice((1, 2, 3))
    whole = _write_shards(rng, folder, count)
    about = {
        "format": "univfast-capture",
        "shards": count,
        "tokens": len(whole),
        "text": "0" * 64,
        "kept": "1" * 64,
        "context": "128",
        "skip": ["newline"],
        "layers": ["mlp.0"],
    }
    text, path = json.dumps(about).encode(), folder / "capture.json"
    what = rng.randrange(8)
    if what == 0:
        shard = folder / f"shard-{rng.randrange(count):05}.safetensors"
        shard.write_bytes(several(rng, some_bytes, shard.read_bytes()))
    elif what == 1:
        (folder / "shard-00000.safetensors").unlink()
    elif what == 2:
        os.mkfifo(path)
    elif what == 3:
        path.mkdir()
    else:
        text = some_json(rng, text)
    if not path.exists():
        path.write_bytes(text)
    _check_captured(folder, None if what == 0 else whole)


def _write_shards(rng: Random, folder: Path, count: int) -> Tensor:
    parts = [rows(rng) for _ in range(count)]
    for number, part in enumerate(parts):
        save(folder / f"shard-{number:05}.safetensors", part)
    return torch.cat(parts)


def _check_captured(folder: Path, whole: Tensor | None) -> None:
    """Raises WrongError unless there is one layer, of these tokens or of those in the shards."""
    found = attempt(lambda: open_activations(folder, "a"))
    got = {name: layer.read(0, layer.tokens) for name, layer in found.layers.items()}
    if len(got) != 1:
        raise WrongError(f"has layers {sorted(got)}")
    (name,) = got
    if whole is None:
        each = [_plainly(path) for path in sorted(folder.glob("*.safetensors"))]
        whole = torch.cat([x[name] for x in each])
    if bytes_of(got[name]) != bytes_of(whole):
        raise WrongError(f"took {got[name]} of {whole}")


# ---- models -------------------------------------------------------------------------------------


def check_config(path: Path) -> None:
    """Tries a ``config.json`` with shards beside: refused, or the shards."""
    path.rename(path.parent / "config.json")
    _check_beside(path.parent)


@kind("model-directory", 5, check_config)
def model_directory(rng: Random, folder: Path) -> None:
    """A directory with a damaged ``config.json``, or what is no file by that name."""
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": 2,
        "auto_map": {"AutoModel": "x--y.Z"},
    }
    path = folder / "config.json"
    what = rng.randrange(6)
    if what == 0:
        os.mkfifo(path)
    elif what == 1:
        os.symlink(rng.choice(("config.json", "/dev/zero", "/proc/self/mem", ".")), path)
    else:
        path.write_bytes(some_json(rng, json.dumps(config).encode()))
    _check_beside(folder)


def _check_beside(folder: Path) -> None:
    parts = torch.randn(2, 3, NEURONS, generator=torch.Generator().manual_seed(0))
    for n, part in enumerate(parts):
        save(folder / f"shard-{n:05}.npy", part)
    found = attempt(lambda: open_activations(folder, "a"))
    (layer,) = found.layers.values()
    if bytes_of(layer.read(0, layer.tokens)) != bytes_of(parts):
        raise WrongError("took other tokens than those of the shards")


# ---- Hugging Face datasets ----------------------------------------------------------------------

_STATE = {"_data_files": [{"filename": "data.arrow"}], "_split": None}


def check_arrow(path: Path) -> None:
    """Tries an Arrow file as the only one of a dataset."""
    path.rename(path.parent / "data.arrow")
    _check_dataset(path.parent, json.dumps(_STATE).encode())


@kind("dataset", 12, check_arrow)
def dataset(rng: Random, folder: Path) -> None:
    """An Arrow file in a dataset's directory, it or the state beside it changed."""
    content, state = _arrow(rng), json.dumps(_STATE).encode()
    if rng.random() < 0.25:
        state = some_json(rng, state)
    else:
        content = several(rng, _some_arrow, content)
    (folder / "data.arrow").write_bytes(content)
    _check_dataset(folder, state)


def _check_dataset(folder: Path, state: bytes) -> None:
    (folder / "state.json").write_bytes(state)
    (folder / "dataset_info.json").write_text("{}")
    check_activations(folder, plain.read_dataset)


def _some_arrow(rng: Random, content: bytes) -> bytes:
    """A number where Arrow keeps them, at a multiple of four; or any change of bytes."""
    if rng.random() < 0.5:
        return some_bytes(rng, content)
    width = rng.choice((4, 4, 8))
    at = rng.randrange(max(len(content) - width, 1)) // width * width
    there = int.from_bytes(content[at : at + width], "little")
    value = rng.choice(
        (0, 1, 261, 2**31 - 1, 2**62, -1, there + 1, there - 1, there * 2, there + 8)
    )
    return (
        content[:at] + (value % 2 ** (8 * width)).to_bytes(width, "little") + content[at + width :]
    )


def _arrow(rng: Random) -> bytes:
    import pyarrow as pa

    x = torch.cat([rows(rng) for _ in range(4)]).numpy()
    value = rng.choice((pa.float32(), pa.float64(), pa.float16()))
    x = x.astype(value.to_pandas_dtype())
    kinds: tuple[Callable[[Any], Any], ...] = (
        pa.list_,
        pa.large_list,
        partial(pa.list_, list_size=NEURONS),
    )
    inner = rng.choice(kinds)(value)
    if rng.random() < 0.3:
        column = pa.array([[list(row)] for row in x], pa.list_(inner))
    else:
        column = pa.array([list(row) for row in x], inner)
    columns = {"mlp.0": column}
    if rng.random() < 0.3:
        columns["ids"] = pa.array(range(len(x)))
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((3, 100)))
    return sink.getvalue().to_pybytes()
