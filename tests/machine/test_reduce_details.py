"""States of matched pairs that several processes add, started by torchrun, on gloo."""

from __future__ import annotations

import re

import pytest

from support import TESTS
from support.processes import finished, torchrun


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_details_add(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    out = finished(torchrun(processes, TESTS / "support" / "matched_ranks.py"))
    assert sorted(re.findall(r"process (\d) is content", out)) == [str(i) for i in range(processes)]
