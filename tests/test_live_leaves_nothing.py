"""`uf.correlate_models`: models are left as they were, and no activations are kept."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import univfast as uf
from support.live_models import POST, Plain, token_ids
from support.processes import printed, python


@pytest.mark.parametrize("fails", [False, True])
def test_models_are_left_as_they_were(fails: bool) -> None:
    a, b, batches = Plain(seed=1), Plain(seed=2), token_ids()
    a.train()
    a.blocks[1].eval()
    b.eval()
    before = [m.training for model in (a, b) for m in model.modules()]
    if fails:
        with pytest.raises(IndexError):
            uf.correlate_models(a, b, [*batches, torch.tensor([[99]])], hooks=POST)
    else:
        twice = [uf.correlate_models(a, b, batches, hooks=POST).correlation for _ in range(2)]
        assert torch.equal(*twice)  # without dropout
    assert [m.training for model in (a, b) for m in model.modules()] == before
    for module in (*a.modules(), *b.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(x.grad is None for x in a.parameters())


def test_activations_are_given_up_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    kept = uf.PairedCorrelation.update_rows

    def watched(self: Any, a: Tensor, b: Tensor, mask: Any, origin: Any) -> None:
        assert [x() for x in alive] == [None] * len(alive)
        kept(self, a, b, mask, origin)
        alive.extend(weakref.ref(x.untyped_storage()) for x in (a, b))

    monkeypatch.setattr(uf.PairedCorrelation, "update_rows", watched)
    # Linear's output lives no longer in the model once ReLU has replaced it.
    models = Plain(seed=1), Plain(seed=2)
    uf.correlate_models(*models, token_ids(), hooks="blocks.*.mlp.up", match="index")
    assert len(alive) == 4 * 2 * 2


def test_progress() -> None:
    calls: list[tuple[int, int | None]] = []

    def report(done: int, total: int | None) -> None:
        calls.append((done, total))

    options: Mapping[str, Any] = {"hooks": POST, "draws": 0, "rotation": "none"}
    uf.correlate_models(Plain(), Plain(), token_ids(2), progress=report, **options)
    uf.correlate_models(Plain(), Plain(), iter(token_ids(1)), progress=report, **options)
    assert calls == [(1, 2), (2, 2), (1, None)]


STREAM = """
import torch, univfast as uf
from support.processes import memory
from torch import nn

class Source(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(4))
        self.values = torch.rand(2048, 1024, generator=torch.Generator().manual_seed(seed))
    def forward(self, shift):
        for layer in self.layers:
            layer(self.values + shift)

def run(batches):
    a, b = Source(1), Source(2)
    return uf.correlate_models(a, b, range(batches), hooks="layers.*", draws=1, match="index")

run(1)
before = memory("VmHWM")
result = run(32)  # of 2 models x 4 layers x 8 MiB
assert result.summary["tokens"] == 65536
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    assert int(printed(python(STREAM))) < 100_000_000  # bytes, of 2 GiB
