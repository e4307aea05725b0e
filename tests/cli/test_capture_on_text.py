"""`univfast capture` and `univfast correlate` of directories of models, on a text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import univfast as uf
from support.language_models import CONTEXT, GPT2_HOOKS, LLAMA_HOOKS, Directories, reference_layers
from univfast.cli import main
from univfast.runs import passes

FILTERS = ("--context", CONTEXT, "--skip", "special,newline", "--positions", "1:")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing else may have been printed, by a library either."""
    captured = capfd.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("Error: ")
    return captured.err


def on_text(directories: Directories, *options: object, hooks: str = GPT2_HOOKS) -> list[object]:
    return ["--text", directories.text, "--hooks", hooks, *options]


def captured(folder: Path) -> dict[str, Tensor]:
    """The layers of a capture, of all shards."""
    about = json.loads((folder / "capture.json").read_text())
    paths = sorted(folder.glob("shard-*.safetensors"))
    assert len(paths) == about["shards"]
    shards = [load_file(path) for path in paths]
    layers = {name: torch.cat([shard[name] for shard in shards]) for name in about["layers"]}
    assert {len(layer) for layer in layers.values()} == {about["tokens"]}
    return layers


# ---- correlate -----------------------------------------------------------------------------------


def test_two_dtypes_of_a_model_correlate_by_index_from_text(
    directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = directories.gpt2, directories.half
    assert run("correlate", *pair, *on_text(directories), "--json") == 0
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert err == ""
    assert summary["models"] == [str(path) for path in pair]
    assert summary["match"] == "index"
    assert summary["neurons"] == 128
    assert [row["layer"] for row in summary["layers"]] == [
        f"transformer.h.{i}.mlp.act" for i in range(2)
    ]
    assert summary["mean_correlation"] > 0.99
    assert summary["universal"] > 100


def test_models_of_other_kinds_are_matched_by_best(
    directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    models = directories.gpt2, directories.llama, directories.llama
    options = on_text(directories, "--hooks-b", LLAMA_HOOKS, *FILTERS, "--match", "best")
    assert run("correlate", *models, *options, "--json") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["neurons"] == 128


def test_the_summary_says_what_models_were_run_on(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = "transformer.h.*.mlp.c_proj:input"
    options = on_text(directories, "--hooks-b", second, *FILTERS, "--bos", "--max-tokens", 150)
    expected = {
        "file": str(directories.text),
        "tokens": 160,  # ten windows of 15 and BOS
        "context": CONTEXT,
        "bos": True,
        "skip": ["newline", "special"],
        "positions": "1:",
        "mask": None,
    }
    for matching in (("index",), ("best", "--reverse")):
        pair = directories.gpt2, directories.half
        out = tmp_path / matching[0]
        arguments = (*options, "--match", *matching, "--quiet", "--out", out)
        assert run("correlate", *pair, *arguments) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert summary["text"] == {**expected, "hooks": [[GPT2_HOOKS], [second]]}
    reverse = json.loads((tmp_path / "best" / "reverse" / "summary.json").read_text())
    assert reverse["text"] == {**expected, "hooks": [[second], [GPT2_HOOKS]]}
    assert run("report", tmp_path / "best") == 0  # which reads it
    stored = uf.correlate(torch.randn(20, 3), torch.randn(20, 3))
    assert "text" not in stored.summary
    capfd.readouterr()


def test_layers_of_other_names_are_paired_in_order_if_both_are_named(
    directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = directories.gpt2, directories.half
    options = on_text(directories, "--hooks-b", "transformer.h.*.mlp.c_proj:input", "--json")
    assert run("correlate", *pair, *options) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["mean_correlation"] > 0.99  # the activation, under another name
    one = on_text(directories, "--hooks-b", "transformer.h.0.mlp.act")
    assert run("correlate", *pair, *one) == 2
    assert "have different layers" in error_line(capfd)


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    directories: Directories,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    saved = tmp_path / "run.pt"
    options = on_text(directories, *FILTERS, "--batch-tokens", 4 * CONTEXT, "--quiet")
    command = ["correlate", directories.gpt2, directories.half, *options]
    checkpointed = [*command, "--checkpoint", saved, "--checkpoint-every", 0]
    assert run(*command, "--out", tmp_path / "unbroken") == 0
    starts: list[int] = []
    update = passes.IndexPass.update

    def counted(self: passes.IndexPass, part: passes.Range, *rest: Any) -> None:
        starts.append(part[0])
        if len(starts) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, part, *rest)

    monkeypatch.setattr(passes.IndexPass, "update", counted)
    assert run(*checkpointed) == 130
    assert f"Interrupted after {5 * 4 * CONTEXT} of " in capfd.readouterr().err
    assert run(*checkpointed, "--out", tmp_path / "broken") == 0
    assert starts == list(range(0, starts[-1] + 1, 4 * CONTEXT))  # none twice
    tables = [(tmp_path / name / "neurons.csv").read_bytes() for name in ("unbroken", "broken")]
    assert tables[0] == tables[1]
    # Another text, or a model of other weights, is another run.
    other = tmp_path / "other.txt"
    other.write_text(directories.text.read_text().replace("fox", "cat"))
    for arguments, message in (
        (
            [directories.gpt2, directories.half, *on_text(directories, "--context", CONTEXT)],
            "other mask",
        ),
        ([directories.half, directories.half, *options], "other activations of A"),
        ([directories.gpt2, directories.half, *options, "--text", other], "other "),
    ):
        assert run("correlate", *arguments, "--checkpoint", saved) == 2
        assert f"{saved}: is the checkpoint of {message}" in error_line(capfd)


def test_captures_correlate_as_their_models_do(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = directories.gpt2, directories.half
    options = on_text(directories, *FILTERS)
    for path in pair:
        assert run("capture", path, *options, "--out", tmp_path / path.name, "--quiet") == 0
    assert run("correlate", *pair, *options, "--out", tmp_path / "o", "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    stored = uf.correlate(*(tmp_path / path.name for path in pair))
    live = json.loads((tmp_path / "o" / "summary.json").read_text())
    for name in ("tokens", "neurons", "dead", "universal"):
        assert live[name] == stored.summary[name]
    assert abs(live["mean_correlation"] - stored.summary["mean_correlation"]) < 1e-6
    assert abs(live["mean_baseline"] - stored.summary["mean_baseline"]) < 1e-6


OTHER_TOKENS = {
    "text": (("--max-tokens", 161), "differ in text; .* both the same --text FILE, --bos and"),
    "context": (("--context", 8), r"context \(16 and 8\); .* both the same --context N$"),
    "positions": (("--positions", ":15"), r"positions \(1: and :15\); .* same --positions$"),
    "skip": (("--skip", "newline"), r"skip \(none and newline\); .* both the same --skip$"),
    "mask": (("--mask", "mask.pt"), "differ in mask; .* both the same --mask FILE$"),
}


@pytest.mark.parametrize("what", OTHER_TOKENS)
def test_captures_of_other_tokens_are_refused(
    what: str, directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.arange(160) % 7 > 0, "mask.pt")
    sizes = ("--context", CONTEXT, "--max-tokens", 160, "--positions", "1:", "--quiet")
    changed, match = OTHER_TOKENS[what]
    for out, change in (("a", ()), ("b", changed)):
        options = on_text(directories, *sizes, *change, "--out", out)
        assert run("capture", directories.gpt2, *options) == 0
    for matching in ("index", "best"):
        with pytest.raises(uf.InputError, match=f"^a and b: are captures of different .*{match}"):
            uf.correlate("a", "b", match=matching)
    layers = captured(tmp_path / "b")  # which say nothing of their tokens
    assert uf.correlate("b", layers, rotation="none").correlation.nanmean() > 0.99


def test_activations_beside_a_foreign_configuration_are_correlated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "acts-0.npy", np.random.default_rng(0).normal(size=(50, 3)))
    (tmp_path / "config.json").write_text('{"layers": [3], "seed": 0}')
    assert run("correlate", tmp_path, tmp_path, "--json") == 0
    assert json.loads(capfd.readouterr().out)["tokens"] == 50


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
    assert (out, err) == (f"{tmp_path / 'o'}: 2 layers of {int(keep.sum())} tokens, 6 shards\n", "")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "capture.json",
        *(f"shard-{i:05}.safetensors" for i in range(6)),
    ]
    from univfast.text.vocabulary import load_vocabulary

    text = directories.text.read_text()
    ids = torch.from_numpy(load_vocabulary(str(directories.gpt2), None).encode(text))[:200]
    names = [f"transformer.h.{i}.mlp.act" for i in range(2)]
    expected = reference_layers(directories.gpt2, names, ids, CONTEXT)
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


def test_a_checkpoint_takes_hooks(tmp_path: Path) -> None:
    small = ("--steps", 2, "--samples", 32, "--d-model", 16, "--d-mlp", 24, "--quiet")
    assert run("train", tmp_path / "a.ckpt", *small) == 0
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
    assert len(contents[0]) == 8


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


# ---- bad usage -----------------------------------------------------------------------------------


def test_options_that_do_not_go_together_are_refused(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gpt2, acts, text = directories.gpt2, tmp_path / "a.pt", on_text(directories)
    none = tmp_path / "none"
    torch.save(torch.randn(20, 3), acts)
    needs = "is the directory of a model, which needs --text FILE and --hooks GLOB"
    out = ("--out", tmp_path / "o")
    for arguments, expected in (
        (["correlate", gpt2, gpt2], f"{gpt2}: {needs}"),
        (["correlate", gpt2, gpt2, *text[:2]], f"{gpt2}: {needs}"),
        (["correlate", gpt2, gpt2, *text[2:]], f"{gpt2}: {needs}"),
        (
            ["correlate", acts, acts, *text],
            f"{acts}: is no directory of a Hugging Face model, which --text",
        ),
        (
            ["correlate", acts, acts, "--bos"],
            "is no directory of a Hugging Face model, which --bos is for",
        ),
        (
            ["correlate", acts, acts, "--hooks-b", "x"],
            "is no directory of a Hugging Face model, which --hooks-b is for",
        ),
        (["correlate", gpt2, acts, *text], f"{acts}: is no directory of a Hugging Face model, but"),
        (["correlate", gpt2, gpt2, *text, "--skip", "odd"], "skip: got 'odd', expected special"),
        (["correlate", gpt2, gpt2, *text, "--hooks-b", "odd"], "hooks: no module matches 'odd'"),
        (["capture", gpt2, *out], f"{gpt2}: {needs}"),
        (["capture", gpt2, *text, *out, "--site", "pre"], f"{gpt2}: --site is for a model file"),
        (["capture", gpt2, *text, *out, "--context", 0], "'--context': 0 is not in the range"),
        (["capture", tmp_path, *text, *out], f"{tmp_path}: is not the directory of a Hugging Face"),
        (["capture", gpt2, *text, "--out", acts], f"{acts}: {acts} is not a directory"),
        (["capture", gpt2, *text, "--out", gpt2], f"{gpt2}: is the directory of a model; name"),
        (["capture", none, *text, *out], f"{none}: no such file or directory; check the path"),
        (["correlate", gpt2, none, *text], f"{none}: no such file or directory; check the path"),
        (["correlate", none, none, *text], f"{none}: no such file or directory; check the path"),
    ):
        assert run(*arguments) == 2, arguments
        assert expected in error_line(capfd)
        assert not (tmp_path / "o").exists()
    small = ("--steps", 2, "--samples", 32, "--d-model", 16, "--d-mlp", 24, "--quiet")
    model = tmp_path / "a.ckpt"
    assert run("train", model, *small) == 0
    for arguments, expected in (
        (text, f"{model}: --text is for directories of Hugging Face models"),
        (["--dtype", "float16"], f"{model}: --dtype is for directories of Hugging Face models"),
        (["--hooks", "blocks.*", "--site", "pre"], "--site and --hooks both say what to capture"),
        (["--hooks", "odd"], "hooks: no module matches 'odd'"),
    ):
        assert run("capture", model, *out, *arguments) == 2
        assert expected in error_line(capfd)


def test_a_missing_library_says_how_to_install_it(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run("correlate", directories.gpt2, directories.half, *on_text(directories)) == 2
    line = error_line(capfd)
    assert str(directories.gpt2) in line
    assert "pip install 'univfast[transformers]'" in line


def test_no_library_says_anything(directories: Directories, tmp_path: Path) -> None:
    """As a process, on a text that is longer than the model reads: no bars, logs or warnings."""
    command = [sys.executable, "-m", "univfast", "capture", directories.gpt2, "--out", tmp_path]
    done = subprocess.run(
        [*map(str, command), *map(str, on_text(directories, "--quiet"))],
        capture_output=True,
        check=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
