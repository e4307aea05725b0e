"""Runs whose layers of A are dealt to processes: the bits of one process, killed and gone on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from support.processes import command_in_slices, finished, torchrun

pytestmark = pytest.mark.slow

WIDTHS = {"mlp.0": 32, "mlp.1": 16, "mlp.2": 24, "mlp.3": 40}
# Holds layer 0, layers 1 and 2, or layer 3: two passes of two processes, one of three.
LIMITED = ["--match", "best", "--reverse", "--memory-limit", "2.7e-4"]
TOKENS, CHUNK = 2000, 64
SLICES = -(-TOKENS // CHUNK)
# What is computed from tokens that are shared, whose sums differ in the last bits.
DETAILS = [f"{x}{y}" for x in ("correlation_", "excess_") for y in ("se", "low", "high")]

# Says at its end how many slices a process has read, and dies in one of them where it is told to.
COUNTED = """
import atexit, os, signal
from univfast.runs.over_pairs import PairsPass
rank, slices, update = os.environ.get("RANK", "0"), [], PairsPass.update
def counted(*given):
    slices.append(given)
    if os.environ.get("DIES") == f"{rank} {len(slices)}":
        os.kill(os.getpid(), signal.SIGKILL)
    update(*given)
PairsPass.update = counted
atexit.register(lambda: print(f"process {rank} has read {len(slices)} slices", flush=True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in float64, a control, and what one process finds."""
    folder = tmp_path_factory.mktemp("dealt")
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b", "c"):
        model = {k: torch.randn(TOKENS, n, generator=generator) for k, n in WIDTHS.items()}
        torch.save({k: x.double() for k, x in model.items()}, folder / f"{name}.pt")
    a, b = (torch.load(folder / f"{name}.pt") for name in "ab")
    b["mlp.1"][:, :8] += 2 * a["mlp.2"][:, :8]
    b["mlp.3"][:, 5] = 1.5  # dead
    a["mlp.3"][:, 3] = a["mlp.0"][:, 3]  # a tie of two processes
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    (folder / "script.py").write_text(COUNTED + command_in_slices(CHUNK, CHUNK))
    alone(folder, *command(folder), "--match", "best", "--reverse", "--out", folder / "one")
    return folder


def command(folder: Path) -> list[object]:
    return ["correlate", folder / "a.pt", folder / "b.pt"]


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, *map(str, (folder / "script.py", *arguments))]
    return subprocess.run(started, check=True, capture_output=True, text=True)


def check_same(found: Path, expected: Path) -> None:
    """All that was searched for, in both directions, to the last digit."""
    tables = sorted(path.relative_to(expected) for path in expected.rglob("*.csv"))
    assert len(tables) > 1
    for name in tables:
        one, other = (pd.read_csv(path / name) for path in (found, expected))
        details = [x for x in one.columns if x in DETAILS]
        np.testing.assert_allclose(one[details], other[details], rtol=0, atol=1e-10)
        pd.testing.assert_frame_equal(
            one.drop(columns=details), other.drop(columns=details), check_exact=True
        )


def plan_of(saved: Path) -> list[dict[str, Any]]:
    plan: list[dict[str, Any]] = torch.load(saved, weights_only=True)["plan"]
    return plan


def test_three_processes_find_what_one_does(folder: Path, tmp_path: Path) -> None:
    more = ["--controls-b", folder / "c.pt", "--control-tokens", "640", "--out"]
    alone(folder, *command(folder), "--match", "best", "--reverse", *more, tmp_path / "one")
    saved = tmp_path / "run.pt"
    asked = [*command(folder), *LIMITED, "--checkpoint", saved, *more, tmp_path / "many"]
    finished(torchrun(3, folder / "script.py", *asked))
    check_same(tmp_path / "many", tmp_path / "one")
    real, *_, controls = plan_of(saved)
    layers = [[name for _, names in jobs for name in names] for jobs in real["dealt"]]
    assert layers == [["mlp.0"], ["mlp.1", "mlp.2"], ["mlp.3"]]
    assert len(controls["dealt"]) == 3


@pytest.fixture(scope="module")
def killed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave, one of which was killed in the middle of the second pass."""
    left = tmp_path_factory.mktemp("killed")
    asked = [*command(folder), *LIMITED, "--checkpoint", left / "run.pt", "--checkpoint-every", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIES", f"1 {SLICES + 10}")
        process = torchrun(2, folder / "script.py", *asked)
        process.communicate(timeout=120)
    assert process.returncode != 0
    saved = torch.load(left / "run.pt", weights_only=True)
    assert saved["number"] == 1
    assert saved["done"] == [(0, 9 * CHUNK)]
    assert len(list(left.glob("run.pt.part-*"))) in (4, 5, 6)
    return left


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_killed_run_goes_on(processes: int, killed: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    asked = [*command(folder), *LIMITED, "--checkpoint", tmp_path / "run.pt"]
    asked += ["--out", tmp_path / "many"]
    if processes == 1:
        done = alone(folder, *asked)
        out, err = done.stdout, done.stderr
    else:
        process = torchrun(processes, folder / "script.py", *asked)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    check_same(tmp_path / "many", folder / "one")
    warned = f"the pass under way was dealt to 2 processes, these are {processes}; going on with"
    assert err.count(warned) == (processes != 2)
    slices = SLICES - 9 if processes == 2 else SLICES
    assert out.count(f"has read {slices} slices") == processes
    # Those of the last checkpoint, and of the one before.
    assert len(list(tmp_path.glob("run.pt.part-*"))) <= 2 * processes


def test_a_pass_whose_part_is_lost_starts_again(killed: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    for part in tmp_path.glob("run.pt.part-2-of-2.*"):
        part.unlink()
    asked = [*command(folder), *LIMITED, "--checkpoint", tmp_path / "run.pt"]
    process = torchrun(2, folder / "script.py", *asked, "--out", tmp_path / "many")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("is not there; going on with what was found before") == 1
    assert out.count(f"has read {SLICES} slices") == 2
    check_same(tmp_path / "many", folder / "one")
