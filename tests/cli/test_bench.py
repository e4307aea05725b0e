"""`univfast bench`: what it prints, and that it checks answers."""

from __future__ import annotations

import re

import pytest

from support.command import run


def test_bench_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--tokens", "600", "--neurons", "48") == 0
    text = capsys.readouterr().out
    for title in ("correlation, 600 tokens x 48", "correlation + 1 rotation", "best of all pairs"):
        assert title in text
    assert len(re.findall(r"^univfast ", text, re.MULTILINE)) == 3
    assert len(re.findall(r"^naive torch ", text, re.MULTILINE)) == 3


def test_bench_checks_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from univfast.bench import rivals

    naive = rivals.naive
    monkeypatch.setattr(rivals, "naive", lambda a, b: naive(a, b) + 0.01)
    with pytest.raises(AssertionError, match=r"naive torch: r is off by 0\.01"):
        run("bench", "--tokens", "600", "--neurons", "48")
