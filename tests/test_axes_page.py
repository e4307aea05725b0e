"""What docs/axes.md shows runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from support.command import run

PAGE = (Path(__file__).parent.parent / "docs" / "axes.md").read_text()


@pytest.mark.slow
def test_what_the_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "b.npy"):
        np.save(name, np.random.default_rng().standard_normal((40, 8, 6, 6)).astype(np.float32))
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    assert {kind for kind, _ in blocks} == {"python", "bash"}
    names: dict[str, object] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
        else:
            assert run(*shlex.split(text)[1:]) == 0
    assert "1,440 tokens" in re.sub(r"\b1440\b", "1,440", capsys.readouterr().out)
