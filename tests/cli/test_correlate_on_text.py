"""`univfast correlate` of directories of models, on a text."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.command import error_line, run
from support.language_models import (
    CONTEXT,
    FILTERS,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    captured,
    on_text,
)
from univfast.runs.by_index import IndexPass
from univfast.runs.passes import Range


def test_two_dtypes_of_a_model_correlate_by_index_from_text(
    directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = directories.gpt2, directories.half
    assert run("correlate", *pair, *on_text(directories), "--match", "index", "--json") == 0
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


@pytest.mark.slow
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
        "model_class": ["GPT2LMHeadModel"] * 2,
    }
    for matching in (("index",), ("best", "--reverse")):
        pair = directories.gpt2, directories.half
        out = tmp_path / matching[0]
        arguments = (*options, "--match", *matching, "--quiet", "--out", out)
        assert run("correlate", *pair, *arguments) == 0
        summary = json.loads((out / "summary.json").read_text())
        rows = summary["text"].pop("matched")
        assert summary["text"] == {**expected, "hooks": [[GPT2_HOOKS], [second]]}
        assert rows[0] == [
            {
                "pattern": GPT2_HOOKS,
                "modules": 2,
                "first": "transformer.h.0.mlp.act",
                "last": "transformer.h.1.mlp.act",
            }
        ]
        assert rows[1][0]["last"] == "transformer.h.1.mlp.c_proj:input"
    reverse = json.loads((tmp_path / "best" / "reverse" / "summary.json").read_text())
    assert reverse["text"].pop("matched") == rows[::-1]
    assert reverse["text"] == {**expected, "hooks": [[second], [GPT2_HOOKS]]}
    assert run("report", tmp_path / "best") == 0  # which reads it
    stored = uf.correlate(torch.randn(20, 3), torch.randn(20, 3))
    assert "text" not in stored.summary
    capfd.readouterr()


def test_layers_of_other_names_are_paired_in_order_if_both_are_named(
    directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = directories.gpt2, directories.half
    pair_and_match = (*pair, "--match", "index")
    options = on_text(directories, "--hooks-b", "transformer.h.*.mlp.c_proj:input", "--json")
    assert run("correlate", *pair_and_match, *options) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["mean_correlation"] > 0.99  # the activation, under another name
    one = on_text(directories, "--hooks-b", "transformer.h.0.mlp.act")
    assert run("correlate", *pair_and_match, *one) == 2
    assert "have different layers" in error_line(capfd)


@pytest.mark.slow
def test_models_that_run_are_screened(
    directories: Directories, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = directories.gpt2, directories.half
    options = on_text(directories, *FILTERS, "--batch-tokens", 4 * CONTEXT)
    for name, more in (("whole", ()), ("screened", ("--screen", 256))):
        out = tmp_path / name
        assert run("correlate", *models, *options, *more, "--out", out, "--quiet") == 0
    assert capfd.readouterr().err == ""
    whole, screened = (uf.load(tmp_path / name) for name in ("whole", "screened"))
    screen = screened.summary["screen"]
    assert screen["checked"] == screen["found"] == 128  # each is there in both
    assert torch.equal(whole.match_neuron, screened.match_neuron)
    assert float((whole.correlation - screened.correlation).abs().max()) < 2e-6


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    directories: Directories,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    saved = tmp_path / "run.pt"
    options = on_text(directories, *FILTERS, "--batch-tokens", 4 * CONTEXT, "--quiet")
    options += ("--match", "index")
    command = ["correlate", directories.gpt2, directories.half, *options]
    checkpointed = [*command, "--checkpoint", saved, "--checkpoint-every", 0]
    assert run(*command, "--out", tmp_path / "unbroken") == 0
    starts: list[int] = []
    update = IndexPass.update

    def counted(self: IndexPass, part: Range, *rest: Any) -> None:
        starts.append(part[0])
        if len(starts) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, part, *rest)

    monkeypatch.setattr(IndexPass, "update", counted)
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
            [
                directories.gpt2,
                directories.half,
                *on_text(directories, "--context", CONTEXT),
                *("--match", "index"),
            ],
            "other mask",
        ),
        ([directories.half, directories.half, *options], "other activations of A"),
        ([directories.gpt2, directories.half, *options, "--text", other], "other "),
    ):
        assert run("correlate", *arguments, "--checkpoint", saved) == 2
        assert f"{saved}: is the checkpoint of {message}" in error_line(capfd)


@pytest.mark.slow
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
    "text": (("--max-tokens", 161), "differ in text; .* both the same text=FILE, bos= and"),
    "context": (("--context", 8), r"context \(16 and 8\); .* both the same context=N$"),
    "positions": (("--positions", ":15"), r"positions \(1: and :15\); .* same positions=$"),
    "skip": (("--skip", "newline"), r"skip \(none and newline\); .* both the same skip=$"),
    "mask": (("--mask", "mask.pt"), "differ in mask; .* both the same mask=FILE$"),
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


def test_a_tokenizer_needs_token_ids(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.randn(200, 4), tmp_path / "a.pt")
    options = ("--tokenizer", directories.gpt2)
    assert run("correlate", tmp_path / "no.pt", tmp_path / "a.pt", *options) == 2
    assert error_line(capfd) == "Error: --tokenizer: is for details; ask for details too"
    assert run("correlate", *[tmp_path / "a.pt"] * 2, *options, "--details") == 2
    line = error_line(capfd)
    assert line.startswith("Error: --tokenizer: is for activations whose tokens are known; give")
