"""States that several processes add, started by torchrun, on gloo."""

from __future__ import annotations

import re

import pytest

import univfast as uf
from support import TESTS
from support.processes import finished, torchrun

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes", [1, 3])
def test_accumulators_add(processes: int) -> None:
    out = finished(torchrun(processes, TESTS / "support" / "ranks.py"))
    assert sorted(re.findall(r"process (\d) is content", out)) == [str(i) for i in range(processes)]


def test_without_a_group() -> None:
    with pytest.raises(uf.InputError, match=r"^group: torch.distributed is not initialised; call"):
        uf.PairedCorrelation(4).all_reduce()
