"""`univfast train`, `capture` of its models, and `univfast demo`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from support.command import SMALL_MODEL, error_line, run
from support.made_up import FILES, PARTNERS


@pytest.mark.slow
def test_model_files_and_captured_files_give_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    captured = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for seed, (model, activations) in enumerate(zip(models, captured, strict=True), start=1):
        assert run("train", model, "--seed", seed, *SMALL_MODEL) == 0
        assert run("capture", model, "--out", activations, "--quiet") == 0
    assert run("correlate", *models, "--out", tmp_path / "o", "--quiet") == 0
    assert run("correlate", *captured, "--json") == 0
    from_files = json.loads(capsys.readouterr().out)
    from_models = json.loads((tmp_path / "o" / "summary.json").read_text())
    for summary in (from_files, from_models):
        del summary["models"], summary["seconds"]
    assert from_files == from_models
    assert from_files["neurons"] == 48


def test_capture_site_and_data(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    assert run("train", tmp_path / "a.ckpt", *SMALL_MODEL) == 0
    for name, options in {"pre": [], "post": [], "text": ["--data", tmp_path / "text.txt"]}.items():
        site = "post" if name == "post" else "pre"
        out = tmp_path / f"{name}.pt"
        arguments = ["--out", out, "--site", site, "--quiet", *options]
        assert run("capture", tmp_path / "a.ckpt", *arguments) == 0
    pre, post, text = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)["mlp.0"]
        for name in ("pre", "post", "text")
    )
    assert pre.shape[1:] == (64, 24)
    assert torch.equal(post, pre.relu())
    assert not torch.equal(text, pre)


def test_models_of_different_test_sets_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in {"a": "docs", "b": "random"}.items():
        assert run("train", tmp_path / f"{name}.ckpt", "--data", data, *SMALL_MODEL) == 0
    assert run("correlate", tmp_path / "a.ckpt", tmp_path / "b.ckpt") == 2
    line = error_line(capsys)
    assert "a.ckpt" in line
    assert "b.ckpt" in line


@pytest.mark.slow
def test_demo_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d"
    assert run("demo", "--out", out, "--data", "random", "--steps", 2) == 0
    others = {"index-post", "best-pre", "index-pre"}
    own = {"a.ckpt", "b.ckpt", "contexts.npz"}
    if json.loads((out / "summary.json").read_text())["universal"]:
        own.add("contexts.jsonl")
    assert {path.name for path in out.iterdir()} == FILES | PARTNERS | others | own
    assert {path.name for path in (out / "index-pre").iterdir()} == FILES
    assert {path.name for path in (out / "best-pre").iterdir()} == FILES | PARTNERS
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\d neurons? of A (is|are) universal \(excess above 0.5\)[.:] ", text)
    assert "etworks that learned nothing flag" in text
    assert "by a margin of 0.3 over networks that learned nothing (by control: " in text
    page = (out / "report.html").read_text()
    for match in ("index", "best"):
        for site in ("before", "after"):
            assert f"match {match}, {site} the ReLU" in text
            assert f"match {match}, {site} the ReLU" in page
    summaries = {
        name: json.loads((out / name / "summary.json").read_text()) for name in (".", *others)
    }
    assert summaries["."]["match"] == summaries["best-pre"]["match"] == "best"
    assert summaries["index-pre"]["match"] == summaries["index-post"]["match"] == "index"
    assert all(summary["universal_by_chance"] is not None for summary in summaries.values())
    assert summaries["."]["details"] is not None
    assert len(summaries["."]["controls"]["flagged_both"]) == 4
    written = (out / "report.html").read_bytes()
    assert run("report", out) == 0
    assert (out / "report.html").read_bytes() == written
