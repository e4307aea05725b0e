"""Commands on models of the hub, which do what they do on the directories of these."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("huggingface_hub")

from support import ROOT
from support.command import error_line, run
from support.hub import Hub, asked_instead, hub
from support.language_models import Directories, captured, on_text

A, B = "hf://some/gpt2@v1", "hf://some/half@v1"


@pytest.fixture
def there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directories: Directories
) -> Iterator[Hub]:
    with asked_instead(monkeypatch, tmp_path / "cache") as found:
        found.repos = {"models/some/gpt2": directories.gpt2, "models/some/half": directories.half}
        yield found


def test_correlate(
    there: Hub, directories: Directories, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summaries = []
    for pair in ((A, B), (directories.gpt2, directories.half)):
        options = on_text(directories, "--match", "index", "--json", "--out", tmp_path / "out")
        assert run("correlate", *pair, *options) == 0
        out, err = capfd.readouterr()
        assert err == ""
        summaries.append(json.loads(out))
    assert summaries[0]["models"] == [A, B]
    commits = [there.commit(f"models/some/{name}") for name in ("gpt2", "half")]
    assert summaries[0]["sources"] == {
        name: {"hub": name, "revision": commit}
        for name, commit in zip((A, B), commits, strict=True)
    }
    assert "sources" not in summaries[1]
    for name in ("universal", "mean_correlation", "mean_baseline"):
        assert summaries[0][name] == summaries[1][name]


def test_capture(there: Hub, directories: Directories, tmp_path: Path) -> None:
    for name, model in (("hub", A), ("here", directories.gpt2)):
        out = tmp_path / name
        assert run("capture", model, *on_text(directories), "--out", out, "--quiet") == 0
    ours, theirs = (captured(tmp_path / name) for name in ("hub", "here"))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


def test_weights(there: Hub, directories: Directories, tmp_path: Path) -> None:
    for name, model in (("hub", A), ("here", directories.gpt2)):
        assert run("weights", model, "--out", tmp_path / f"{name}.csv", "--quiet") == 0
    assert (tmp_path / "hub.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_control(there: Hub, directories: Directories, tmp_path: Path) -> None:
    assert run("control", A, "--no-match-rate", "--out", tmp_path / "control", "--quiet") == 0
    assert (tmp_path / "control" / "model.safetensors").is_file()


def test_ablate(
    there: Hub, directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    options = on_text(directories, "--match", "index", "--quiet", "--out", out)
    assert run("correlate", A, B, *options) == 0
    capfd.readouterr()
    text = ("--text", directories.text, "--top", 1, "--repeats", 1, "--json")
    assert run("ablate", A, "--result", out, *text) == 0
    assert json.loads(capfd.readouterr().out)["model"] == A
    assert run("ablate", "hf://some/half@main", "--result", out, *text) == 2
    assert "none of the models of the result" in error_line(capfd)


@pytest.mark.filterwarnings("default")
def test_without_a_revision(there: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--no-match-rate", "--out", tmp_path / "control", "--quiet")
    assert run("control", "hf://some/gpt2", *options) == 0
    assert there.commit("models/some/gpt2") in capfd.readouterr().err


@pytest.mark.slow
def test_as_a_process(directories: Directories, tmp_path: Path) -> None:
    """With the endpoint and cache that the environment names, and no bars off a terminal."""
    with hub() as there:
        there.repos = {"models/some/gpt2": directories.gpt2}
        environment = {**os.environ, "HF_ENDPOINT": there.url, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "univfast", "weights", A, "--out", "weights.csv"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "home" / "hub").is_dir()


@pytest.mark.slow
def test_the_docs(
    there: Hub, directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = (ROOT / "docs" / "hub.md").read_text().split("```bash\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    shutil.copy(directories.text, tmp_path)
    for letter in "ab":
        there.repos[f"models/org/{letter}"] = directories.gpt2
        there.repos[f"datasets/org/acts-{letter}"] = tmp_path / letter
        (tmp_path / letter).mkdir()
        torch.save(torch.randn(60, 8), tmp_path / letter / "mlp.pt")
    for command in block.splitlines():
        assert run(*shlex.split(command)[1:], "--quiet") == 0


def test_what_is_not_there(there: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "hf://some/nothing@v1", "--out", "x.csv") == 2
    assert "hf://some/nothing@v1: is not on the hub" in error_line(capfd)
