"""Runs whose layers of A are dealt to processes: the bits of one process, killed and gone on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import TESTS
from support.dealt_ranks import CHUNK
from support.processes import torchrun

pytestmark = pytest.mark.slow

WIDTHS = dict.fromkeys((f"mlp.{i}" for i in range(5)), 24)
# Holds a layer of A with all of B: five in three passes of two processes, in two of three.
LIMIT = {"match": "best", "reverse": True, "memory_limit": 260_000}
TOKENS = 2000
SLICES = -(-TOKENS // CHUNK)
# What is computed from tokens that are shared, whose sums differ in the last bits.
DETAILS = [f"{x}_{y}" for x in ("correlation", "excess") for y in ("se", "low", "high")]


class Models:
    """Two models in float64 and a control, and runs of any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / f"{name}.pt" for name in ("a", "b", "control")}
        generator = torch.Generator().manual_seed(0)
        a, b, control = (
            {k: torch.randn(TOKENS, n, generator=generator).double() for k, n in WIDTHS.items()}
            for _ in self.paths
        )
        b["mlp.1"][:, :8] += 2 * a["mlp.2"][:, :8]
        b["mlp.3"][:, 5] = 1.5  # dead
        a["mlp.1"][:, 3] = a["mlp.0"][:, 3]  # of two processes
        for path, model in zip(self.paths.values(), (a, b, control), strict=True):
            torch.save(model, path)

    def run(
        self, processes: int, out: Path, options: dict[str, Any], *, ends_well: bool = True
    ) -> tuple[str, str]:
        asked = json.dumps({"details": False, **options})
        script = [
            TESTS / "support" / "dealt_ranks.py",
            self.paths["a"],
            self.paths["b"],
            asked,
            out,
        ]
        process = torchrun(processes, *script) if processes > 1 else alone(*script)
        written, err = process.communicate(timeout=120)
        assert (process.returncode == 0) == ends_well, err
        return written, err


def alone(*script: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as torchrun has it, for the same bits
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def expected(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process finds in one pass."""
    out = tmp_path_factory.mktemp("expected") / "one.json"
    models.run(1, out, {"match": "best", "reverse": True})
    return out


def check_same(found: Path, expected: Path) -> None:
    """All that was searched for, in both directions, to the last bit."""
    for one, other in zip(
        *(json.loads(path.read_text()) for path in (found, expected)), strict=True
    ):
        assert one.keys() == other.keys()
        for name, values in one.items():
            if name in DETAILS:
                np.testing.assert_allclose(values, other[name], rtol=0, atol=1e-10)
            else:
                assert repr(values) == repr(other[name]), name


def test_three_processes_find_what_one_does(models: Models, tmp_path: Path) -> None:
    saved = tmp_path / "run.pt"
    more = {"controls_b": [str(models.paths["control"])], "control_tokens": 640, "details": True}
    models.run(1, tmp_path / "one", {"match": "best", "reverse": True, **more})
    models.run(3, tmp_path / "many", {**LIMIT, **more, "checkpoint": str(saved)})
    check_same(tmp_path / "many", tmp_path / "one")
    plan = torch.load(saved, weights_only=True)["plan"]
    dealt = [
        [[name for _, names in jobs for name in names] for jobs in entry["dealt"]]
        for entry in plan
        if "dealt" in entry
    ]
    assert dealt[:2] == [[["mlp.0"], ["mlp.1"], ["mlp.2"]], [["mlp.3"], ["mlp.4"], []]]
    assert len(dealt) == 6  # and ten layers of the real models and a control, on fewer tokens


@pytest.fixture(scope="module")
def killed(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave, one of which was killed in the middle of the second pass."""
    left = tmp_path_factory.mktemp("killed")
    asked = {**LIMIT, "checkpoint": str(left / "run.pt"), "checkpoint_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIES", f"1 {SLICES + 10}")
        models.run(2, left / "out", asked, ends_well=False)
    saved = torch.load(left / "run.pt", weights_only=True)
    assert saved["number"] == 1
    assert saved["done"] == [(0, 9 * CHUNK)]
    assert len(list(left.glob("run.pt.part-*"))) in (4, 5, 6)
    return left


@pytest.mark.parametrize(
    ("processes", "lost"),
    [(1, False), (2, False), (3, False), (2, True)],
    ids=["one", "two", "three", "a part is lost"],
)
def test_a_killed_run_goes_on(
    processes: int, lost: bool, killed: Path, models: Models, expected: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    if lost:
        for part in tmp_path.glob("run.pt.part-2-of-2.*"):
            part.unlink()
    asked = {**LIMIT, "checkpoint": str(tmp_path / "run.pt"), "checkpoint_every": 0}
    out, err = models.run(processes, tmp_path / "many", asked)
    check_same(tmp_path / "many", expected)
    goes_on = processes == 2 and not lost
    warned = "is not there; " if lost else f"dealt to 2 processes, these are {processes}; "
    assert err.count(f"{warned}going on with what was found before") == (not goes_on)
    passes = {1: 3, 2: 2, 3: 1}[processes]  # of three layers
    slices = passes * SLICES - (9 if goes_on else 0)
    assert out.count(f"has read {slices} slices") == processes
    # Those of the last checkpoint, and of the one before.
    assert len(list(tmp_path.glob("run.pt.part-*"))) == (0 if processes == 1 else 2 * processes)
