"""The page on models in Python: its code runs, and gives what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import univfast as uf
from support import ROOT

PAGE = (ROOT / "docs" / "live-modules.md").read_text()


@pytest.mark.slow
def test_its_code_runs() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
        if "loader" in block:
            assert names["result"].summary["tokens"] == 300
        if "before" in block:
            assert 0.2 < float(names["result"].correlation.nanmean()) < 0.999
            assert names["result"].summary["warnings"] == []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = torch.nn.ReLU()

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x)

    both = [names["Encodes"](Model()) for _ in range(2)]
    found = uf.correlate_models(*both, [torch.randn(50, 4)], hooks="model.act", rotation="none")
    assert float(found.correlation.min()) > 0.999
