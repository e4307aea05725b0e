"""`univfast capture` of directories of models, on a text: what is written, stopped, and refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import univfast as uf
from support.command import SMALL_MODEL, error_line, run
from support.language_models import (
    CONTEXT,
    FILTERS,
    Directories,
    captured,
    on_text,
    reference_layers,
)

# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [16, 100, 10_000])
def test_shards_hold_what_the_model_gives(
    batch: int, directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mask = torch.arange(200) % 7 != 3
    mask[64:96] = False  # a whole shard
    torch.save(mask, tmp_path / "mask.pt")
    options = on_text(directories, "--context", CONTEXT, "--max-tokens", 200, "--positions", "2:")
    sizes = ("--mask", tmp_path / "mask.pt", "--shard-tokens", 40, "--batch-tokens", batch)
    assert run("capture", directories.gpt2, *options, *sizes, "--out", tmp_path / "o") == 0
    out, err = capfd.readouterr()
    keep = mask & (torch.arange(200) % CONTEXT >= 2)
    assert err == ""
    assert out.splitlines() == [
        "hooks 'transformer.h.*.mlp.act': 2 modules, transformer.h.0.mlp.act to"
        " transformer.h.1.mlp.act",
        f"{tmp_path / 'o'}: 2 layers of {int(keep.sum())} tokens, 6 shards",
    ]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "capture.json",
        "places.npy",
        *(f"shard-{i:05}.safetensors" for i in range(6)),
        "tokens.npy",
    ]
    from univfast.text.vocabulary import load_vocabulary

    text = directories.text.read_text()
    ids = torch.from_numpy(load_vocabulary(str(directories.gpt2), None).encode(text))[:200]
    names = [f"transformer.h.{i}.mlp.act" for i in range(2)]
    expected = reference_layers(directories.gpt2, names, ids, CONTEXT)
    assert np.load(tmp_path / "o" / "tokens.npy").tolist() == ids[keep].tolist()
    assert np.load(tmp_path / "o" / "places.npy").tolist() == keep.nonzero()[:, 0].tolist()
    found = captured(tmp_path / "o")
    assert list(found) == names
    for name in names:
        torch.testing.assert_close(found[name], expected[name][keep], rtol=1e-4, atol=1e-5)
    with safe_open(tmp_path / "o" / "shard-00000.safetensors", "pt") as shard:  # 32 tokens
        assert shard.get_tensor(names[0]).shape == (int(keep[:32].sum()), 64)


@pytest.mark.parametrize(
    ("model", "dtype", "written"),
    [
        ("gpt2", "auto", torch.float32),
        ("gpt2", "float16", torch.float16),
        ("gpt2", "bfloat16", torch.bfloat16),
        ("half", "auto", torch.bfloat16),
        ("half", "float32", torch.float32),
    ],
)
def test_dtypes(
    model: str, dtype: str, written: torch.dtype, directories: Directories, tmp_path: Path
) -> None:
    options = on_text(directories, "--max-tokens", 40, "--quiet", "--out")
    directory = getattr(directories, model)
    assert run("capture", directory, *options, tmp_path / "a") == 0
    assert run("capture", directory, *options, tmp_path / "b", "--dtype", dtype) == 0
    own, converted = captured(tmp_path / "a"), captured(tmp_path / "b")
    for name, layer in converted.items():
        assert layer.dtype == written
        assert torch.equal(layer, own[name].to(written))


def test_contexts_of_filtered_captures_hold_what_stood_side_by_side(
    directories: Directories, tmp_path: Path
) -> None:
    filters = ("--context", CONTEXT, "--skip", "newline", "--positions", "1:")
    options = on_text(directories, *filters, "--max-tokens", 200)
    paths = [tmp_path / name for name in ("a", "b")]
    for model, path in zip((directories.gpt2, directories.half), paths, strict=True):
        assert run("capture", model, *options, "--quiet", "--out", path) == 0
    found = ("--details", "--neurons", "transformer.h.0.mlp.act/3", "--out", tmp_path / "result")
    assert run("correlate", *paths, *found, "--threshold", "2", "--quiet") == 0
    from univfast.text.vocabulary import load_vocabulary

    text = directories.text.read_text()
    ids = load_vocabulary(str(directories.gpt2), None).encode(text)[:200]
    (record,) = uf.load_contexts(tmp_path / "result")
    assert len(record.examples) > 2
    for example in record.examples:
        assert example.ids is not None
        assert example.sample is not None
        assert example.position is not None
        assert example.position >= 1
        start = example.sample * CONTEXT + example.position - example.at
        assert list(example.ids) == ids[start : start + len(example.ids)].tolist()
        assert example.at < example.position


def test_a_checkpoint_takes_hooks(tmp_path: Path) -> None:
    assert run("train", tmp_path / "a.ckpt", *SMALL_MODEL) == 0
    capture = ("capture", tmp_path / "a.ckpt", "--quiet", "--out")
    assert run(*capture, tmp_path / "post.pt", "--site", "post") == 0
    assert run(*capture, tmp_path / "hooks.pt", "--hooks", "blocks.*.mlp.relu") == 0
    post, hooked = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("post", "hooks")
    )
    assert list(hooked) == ["blocks.0.mlp.relu", "blocks.1.mlp.relu"]
    for i in range(2):
        assert torch.equal(hooked[f"blocks.{i}.mlp.relu"], post[f"mlp.{i}"])


# ---- stopped and started again -------------------------------------------------------------------

# Children are forked before torch has threads, so that the libraries are imported once.
KILLED = """
import os, signal, sys
import torch, transformers
from univfast.cli import main
from univfast.text import shard_writer as shards
for deadly in map(int, sys.argv[1].split(",")):
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        continue
    written = shards.Shards._rows
    calls = 0
    def rows(*arguments):
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return written(*arguments)
    shards.Shards._rows = rows
    main(sys.argv[2:])
    os._exit(1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_killed_capture_goes_on_to_the_same_bytes(
    directories: Directories, tmp_path: Path
) -> None:
    """Killed three times: within the first shard, within a later one, and between layers."""
    capture = ["capture", directories.gpt2, *on_text(directories, *FILTERS, "--max-tokens", 400)]
    sizes = ["--shard-tokens", 64, "--batch-tokens", 32, "--quiet", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run(*capture, *sizes, whole) == 0
    arguments = [str(argument) for argument in (*capture, *sizes, killed)]
    command = [sys.executable, "-c", KILLED, "2,7,4", *arguments]
    subprocess.run(command, check=True, timeout=300)
    left = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*")}
    assert sorted(left) == ["shard-00000.safetensors"]
    assert len(list(killed.glob(".shard-*"))) == 1  # of the last kill: the others were removed
    assert run(*capture, *sizes, killed) == 0
    kept = (killed / "shard-00000.safetensors").stat().st_mtime_ns
    assert kept == left["shard-00000.safetensors"]  # not written again
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (killed, whole)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 10


def test_another_capture_is_not_mixed_in(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    (tmp_path / "other.txt").write_text(directories.text.read_text()[50:])
    first = ["capture", directories.gpt2, *on_text(directories), "--quiet", "--out", out]
    assert run(*first) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    changes = {
        "model": ["capture", directories.half, *first[2:], "--dtype", "float32"],
        "text": [*first, "--text", tmp_path / "other.txt"],
        "hooks": [*first, "--hooks", "transformer.h.*.mlp.c_fc"],
        "context": [*first, "--context", 8],
        "layers": [*first, "--dtype", "float16"],
        "skip": [*first, "--skip", "newline"],
        "positions": [*first, "--positions", "1:"],
        "shard_tokens": [*first, "--shard-tokens", 64],
        "batch_tokens": [*first, "--batch-tokens", 64],
    }
    for what, arguments in changes.items():
        assert run(*arguments) == 2, what
        line = error_line(capfd)
        assert line.startswith(f"Error: {out}: holds another capture, which differs in ")
        assert what in line
        assert "name another" in line
    (out / "capture.json").unlink()
    assert run(*first) == 2
    assert "holds shards of an unknown capture" in error_line(capfd)
    del before["capture.json"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "capture.json").write_text("[")
    assert run(*first) == 2
    assert "capture.json: cannot be read" in error_line(capfd)


def test_a_finished_capture_is_left_as_it_is(directories: Directories, tmp_path: Path) -> None:
    first = ["capture", directories.gpt2, *on_text(directories), "--quiet", "--out", tmp_path / "o"]
    assert run(*first) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()}
    assert run(*first) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()} == before


@pytest.mark.slow
def test_a_shard_that_is_not_whole_is_written_again(
    directories: Directories, tmp_path: Path
) -> None:
    first = ["capture", directories.gpt2, *on_text(directories), "--quiet", "--out", tmp_path / "o"]
    assert run(*first) == 0
    shard = min((tmp_path / "o").glob("shard-*"))
    whole = shard.read_bytes()
    for spoilt in (b"", whole[:-1], whole + b"0", b"0" + whole[1:]):
        shard.write_bytes(spoilt)
        assert run(*first) == 0
        assert shard.read_bytes() == whole


def scaled(directories: Directories, folder: Path, factor: float) -> Path:
    """The model with larger activations in the second layer."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(directories.gpt2)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight *= factor
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(directories.gpt2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("factor", "dtype", "wrong"),
    [(1e6, "float16", "too large for float16; choose"), (float("nan"), "auto", "leave the token")],
)
def test_values_that_cannot_be_written_are_named(
    factor: float,
    dtype: str,
    wrong: str,
    directories: Directories,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = scaled(directories, tmp_path / "large", factor)
    capfd.readouterr()
    options = on_text(directories, "--out", tmp_path / "o", "--positions", "1:", "--dtype", dtype)
    assert run("capture", model, *options) == 2
    line = error_line(capfd)
    assert line.startswith(f"Error: {model}: layer 'transformer.h.1.mlp.act' has ")
    assert "at token 1," in line
    assert wrong in line
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["capture.json"]
