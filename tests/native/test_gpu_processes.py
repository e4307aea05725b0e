"""States on a CUDA device that are added over NCCL, and checkpoints that go on there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import univfast as uf
from support.on_device import DEVICE

pytestmark = pytest.mark.gpu

LAYERS = {"mlp.0": 96, "mlp.1": 64}


@pytest.fixture
def nccl() -> Iterator[None]:
    """A group of this process alone, of NCCL and nothing else."""
    torch.cuda.set_device(DEVICE)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def models() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    a = {k: torch.randn(30_000, n, generator=generator) for k, n in LAYERS.items()}
    return a, {k: x + torch.randn(x.shape, generator=generator) for k, x in a.items()}


@pytest.mark.parametrize("device", [DEVICE, "cpu"])
def test_states_are_added(device: str, nccl: None) -> None:
    a, b = models()
    pairs = uf.PairedCorrelation(96, device=device)
    pairs.update(a["mlp.0"], b["mlp.0"])
    all_pairs = uf.AllPairsCorrelation(LAYERS, LAYERS, device=device)
    all_pairs.update(a, b)
    for accumulator in (pairs, all_pairs):
        before = accumulator.compute()
        accumulator.all_reduce()
        accumulator.reduce()
        after = accumulator.compute()
        torch.testing.assert_close(after.correlation, before.correlation, rtol=0, atol=1e-12)
        torch.testing.assert_close(after.baseline, before.baseline, rtol=0, atol=1e-12)


@pytest.mark.parametrize("match", ["index", "best"])
@pytest.mark.parametrize("devices", [("cpu", DEVICE), (DEVICE, "cpu")], ids=str)
def test_a_run_goes_on_elsewhere(devices: tuple[str, str], match: str, tmp_path: Path) -> None:
    a, b = models()

    def stop(done: int, total: int) -> None:
        if 8000 < done < total:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    kept = {"match": match, "checkpoint": path}
    mask = torch.arange(30_000) % 3 > 0  # tokens wait for a chunk, which is of another size there
    try:
        uf.correlate(a, b, **kept, device=devices[0], mask=mask, checkpoint_every=0, progress=stop)
    except KeyboardInterrupt:
        assert path.exists()
    result = uf.correlate(a, b, **kept, device=devices[1], mask=mask)
    expected = uf.correlate(a, b, match=match, device="cpu", mask=mask)
    torch.testing.assert_close(result.correlation, expected.correlation, rtol=0, atol=1e-5)
