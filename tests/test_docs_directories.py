"""The commands of docs/directories.md run, and its names are read as it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import univfast as uf
from support import ROOT
from support.activation_files import random
from support.command import run
from support.shards import save
from univfast.inputs.activations import open_activations

PAGE = (ROOT / "docs" / "directories.md").read_text()


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("acts", "a", "b"):
        for shard in range(2):
            (tmp_path / folder / f"batch_{shard}").mkdir(parents=True)
            for layer in range(2):
                x = random(200, 8, seed=shard + layer)
                save(tmp_path / folder / f"batch_{shard}" / f"layer_{layer}.npy", x)
    save(tmp_path / "a.pt", {"acts": random(200, 8), "ids": random(200)})
    save(tmp_path / "b.pt", {"acts": random(200, 8)})
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [*block.splitlines(), "univfast correlate a.pt b.pt --layers acts"]
    assert len(lines) == 4
    assert lines[-1] in PAGE
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "univfast"
        assert run(*arguments) == 0, capsys.readouterr().err
        capsys.readouterr()


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        for rank in range(2):
            (tmp_path / folder / f"rank{rank}").mkdir(parents=True)
            save(tmp_path / folder / f"rank{rank}" / "shard-3.safetensors", {"h": random(200, 8)})
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "directories.md", "exec"), {"uf": uf})


def test_names(tmp_path: Path) -> None:
    """Each name in the first column of the table, with those of its kind."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    for number, (names, layers) in enumerate(rows):
        for name in re.findall(r"`(\S*?\.(?:npy|pt))`", names.replace("1-of-8", "1-of-1")):
            path = tmp_path / f"{number}-{name.replace('/', '-')}" / name
            path.parent.mkdir(parents=True)
            save(path, random(5, 3))
            (found,) = open_activations(path.parents[name.count("/")], "a").layers
            whole = "activations" if "/" not in name else found  # of a lone layer
            assert found == whole
            assert whole == "activations" or f"`{found}`" in layers
