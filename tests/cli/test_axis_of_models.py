"""`--axis` where directories of models run on a text, and what of a capture goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support.command import error_line, run
from support.language_models import GPT2_HOOKS, Directories
from univfast.inputs.activations import open_activations

pytestmark = pytest.mark.slow


def test_axis_of_hooks(
    directories: Directories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", directories.text, "--hooks", GPT2_HOOKS, "--context", 8, "--quiet"]
    assert run("capture", directories.gpt2, *text, "--out", tmp_path / "a") == 0
    last = [*text, "--axis", -1]
    assert run("capture", directories.gpt2, *last, "--out", tmp_path / "b") == 0
    one, two = (open_activations(tmp_path / name, name).layers for name in "ab")
    for name, layer in one.items():
        assert torch.equal(layer.read(0, layer.tokens), two[name].read(0, layer.tokens))
    about: dict[str, Any] = json.loads((tmp_path / "b" / "capture.json").read_text())
    assert about["axis"] == -1

    assert run("capture", directories.gpt2, *last[:-1], 1, "--out", tmp_path / "c") == 2
    assert "expected a row a token" in error_line(capsys)
    assert run("correlate", *[directories.gpt2] * 2, *last[:-2], "--axis", -1, "--draws", 2) == 0
    capsys.readouterr()
    assert run("correlate", *[directories.gpt2] * 2, *last[:-1], 5) == 2
    line = error_line(capsys)
    assert line.startswith(f"Error: {directories.gpt2}: --axis: layer")
    assert "no axis 5" in line
