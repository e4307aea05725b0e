"""Sums of candidates, and of checked neurons, that several processes add, on gloo."""

from __future__ import annotations

import re

import pytest

from support import TESTS
from support.processes import finished, torchrun


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_candidates_add(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    out = finished(torchrun(processes, TESTS / "support" / "candidate_ranks.py"))
    assert sorted(re.findall(r"process (\d) is content", out)) == [str(i) for i in range(processes)]
