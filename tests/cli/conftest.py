"""What tests of several commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of two layers; 8 of the 96 neurons of layer mlp.0 are shared."""
    generator = torch.Generator().manual_seed(0)
    a = {f"mlp.{i}": torch.randn(50, 20, 96, generator=generator) for i in range(2)}
    b = {f"mlp.{i}": torch.randn(50, 20, 96, generator=generator) for i in range(2)}
    b["mlp.0"][..., :8] = a["mlp.0"][..., :8] + 0.3 * b["mlp.0"][..., :8]
    paths = tmp_path / "a.pt", tmp_path / "b.pt"
    for path, layers in zip(paths, (a, b), strict=True):
        torch.save(layers, path)
    return paths


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No width of somebody's terminal, which pytest-xdist hands on."""
    monkeypatch.delenv("COLUMNS", raising=False)
