"""`--axis`: where neurons are, of files and of models that run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import error_line, run


def test_channels_first_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = np.random.default_rng(0).standard_normal((30, 8, 4, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", a + np.random.default_rng(1).standard_normal(a.shape))
    paths = tmp_path / "a.npy", tmp_path / "b.npy"
    assert run("correlate", *paths, "--axis", 1, "--match", "index", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["tokens"], summary["neurons"]) == (480, 8)
    x, y = (np.moveaxis(np.load(path), 1, -1).reshape(-1, 8) for path in paths)
    want = np.diagonal(np.corrcoef(x.T, y.T), offset=8).mean()
    assert summary["mean_correlation"] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        (
            (5, 6, 4, 4),
            [],
            "Error: --axis: layer 'activations' of {path} has shape [5, 6, 4, 4], which can be"
            " read as 4 neurons on the last axis (--axis -1), or as 6 channels (--axis 1); say"
            " which",
        ),
        (
            (50, 6),
            ["--axis", 3],
            "Error: --axis: layer 'activations' of {path} has shape [50, 6], and no axis 3; give"
            " one from -2 to 1",
        ),
    ],
)
def test_refusals_name_the_option(
    shape: tuple[int, ...],
    given: list[object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.randn(shape), path)
    assert run("correlate", path, path, *given) == 2
    assert error_line(capsys) == message.format(path=path)
