"""Networks within others, and in parts of several processes: their own names, the same numbers."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support import ROOT
from support.networks import HOOKS, OPTIONS, Network, by_hand, check_both_places, inputs


def test_data_parallel() -> None:
    check_both_places(nn.DataParallel)
    model, (x, *_) = nn.DataParallel(Network(1)), inputs()
    with uf.capture(model, HOOKS) as captured, torch.no_grad():
        model(x)
        right = by_hand(Network(1), [x])
        assert list(captured) == list(right)
        torch.testing.assert_close(captured["layers.1.act"], right["layers.1.act"])
    assert uf.weights(model, HOOKS).layer == uf.weights(Network(1), HOOKS).layer


def test_a_graph_of_modules() -> None:
    check_both_places(torch.fx.symbolic_trace)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own calls
def test_a_program_put_back_into_modules() -> None:
    x, *_ = inputs()
    check_both_places(lambda model: torch.export.unflatten(torch.export.export(model, (x,))))


def test_weights_that_are_computed_and_outputs_that_hooks_replace() -> None:
    def normed(model: Network) -> Network:
        for block in model.layers:
            nn.utils.parametrizations.weight_norm(block.up)
        return model

    check_both_places(normed)
    model = Network(1)
    model.layers[0].act.register_forward_hook(lambda module, args, output: output + args[0])
    with uf.capture(model, HOOKS) as captured, torch.no_grad():
        captured.run(inputs()[0])
        up = model.layers[0].up(inputs()[0])
        torch.testing.assert_close(captured["layers.0.act"], up.relu() + up)


def test_half_precision_on_the_cpu_and_callers_in_other_modes() -> None:
    a, b = Network(1).half(), Network(2).half()
    batches = [x.half() for x in inputs()]
    found = uf.correlate_models(a, b, batches, hooks=HOOKS, **OPTIONS)
    with torch.no_grad():
        right = uf.correlate(*(by_hand(x, batches) for x in (a, b)), **OPTIONS)
    torch.testing.assert_close(
        found.correlation, right.correlation, rtol=0, atol=5e-3, equal_nan=True
    )
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            check_both_places(copy.deepcopy)


class Leaves(nn.Module):
    """Gives no tensor, and has a module that gives one in a place of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(1)

    def forward(self, x: Tensor) -> None:
        self.inner(x)


def test_what_a_model_gives_itself_does_not_matter() -> None:
    found = uf.correlate_models(
        *(Leaves(), Leaves(), inputs()), hooks="inner.layers.*.act", match="index", rotation="none"
    )
    assert found.summary["tokens"] == 180


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_in_processes(processes: int, tmp_path: Path) -> None:
    """Data parallel, fully sharded and tensor parallel."""
    script = ROOT / "tests" / "support" / "network_ranks.py"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc-per-node={processes}", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    said = re.findall(r"process (\d) is content", done.stdout)
    assert sorted(said) == [str(i) for i in range(processes)], done.stdout + done.stderr
