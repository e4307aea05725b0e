"""Several processes that share one run of the command, started by torchrun, on gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from support.processes import (
    command_in_slices,
    ends_itself,
    finished,
    slow_search,
    together,
    torchrun,
)
from univfast.machine.locks import holding_directory, holding_file

pytestmark = pytest.mark.slow

# The columns that hold numbers of the method.
NUMBERS = ["correlation", "baseline", "baseline_std", "excess", "p_value", "q_value"]


def alone(*arguments: object) -> None:
    """Runs a script in one process, which must end well."""
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "small_slices.py"
    path.write_text(command_in_slices(tokens=128, chunk=64))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two float64 models of two layers, some neurons shared, 3,000 tokens; and a mask."""
    generator = torch.Generator().manual_seed(0)
    widths = {"mlp.0": 40, "mlp.1": 24}
    a = {k: torch.randn(3000, n, generator=generator).double() for k, n in widths.items()}
    b = {k: torch.randn(3000, n, generator=generator).double() for k, n in widths.items()}
    b["mlp.0"][:, :10] += 2 * a["mlp.0"][:, :10]
    contents = {"a.pt": a, "b.pt": b, "mask.pt": torch.arange(3000) % 5 != 2}
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    return [tmp_path / name for name in contents]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "neurons.csv")


def check_same(found: Path, expected: Path, tolerance: float = 1e-12) -> None:
    one, other = table(found), table(expected)
    np.testing.assert_allclose(one[NUMBERS], other[NUMBERS], rtol=0, atol=tolerance)
    rest = [name for name in one.columns if name not in NUMBERS]
    pd.testing.assert_frame_equal(one[rest], other[rest])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (found, expected)]
    for name in ("tokens", "universal", "universal_by_chance", "neurons"):
        assert summaries[0][name] == summaries[1][name]


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, ["--match", "index"]),
        (3, ["--match", "best", "--reverse"]),
        (2, ["--memory-limit", "1.4e-4", "--match", "best"]),
        (2, ["--screen", "500", "--reverse"]),
    ],
    ids=["index", "best", "best, layers dealt", "best, screened"],
)
def test_processes_share_the_tokens(
    processes: int, options: list[str], pair: list[Path], script: Path, tmp_path: Path
) -> None:
    a, b, mask = pair
    arguments = ["correlate", a, b, "--mask", mask, *options, "--out"]
    alone(script, *arguments, tmp_path / "one")
    out = finished(torchrun(processes, script, *arguments, tmp_path / "many"))
    assert out.count(" universal (excess above 0.5)") == 1  # of process 0 alone
    check_same(tmp_path / "many", tmp_path / "one")


def test_processes_share_directories_cut_in_other_places(
    pair: list[Path], script: Path, tmp_path: Path
) -> None:
    a, b, _ = pair
    for path, shards in ((a, 4), (b, 7)):
        folder = path.with_suffix("")
        folder.mkdir()
        model = {name: layer.chunk(shards) for name, layer in torch.load(path).items()}
        for i in range(shards):
            shard = {name: parts[i].contiguous() for name, parts in model.items()}
            save_file(shard, folder / f"shard-{i}.safetensors")
    arguments = ["--match", "best", "--out"]
    alone(script, "correlate", a, b, *arguments, tmp_path / "one")
    folders = a.with_suffix(""), b.with_suffix("")
    finished(torchrun(2, script, "correlate", *folders, *arguments, tmp_path / "many"))
    check_same(tmp_path / "many", tmp_path / "one")


def test_a_bad_value_in_one_share_ends_all(pair: list[Path], script: Path, tmp_path: Path) -> None:
    a, b, _ = pair
    model = torch.load(b)
    model["mlp.1"][2900, 7] = torch.nan  # in the last process's share
    torch.save(model, b)
    process = torchrun(2, script, "correlate", a, b, "--out", tmp_path / "out")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"Error: {b}: layer 'mlp.1' has nan at token 2900, neuron 7" in err
    assert "Error: another process stopped" in err
    assert not (tmp_path / "out").exists()


def test_a_dead_process_ends_the_run_and_others_go_on(
    pair: list[Path], script: Path, tmp_path: Path
) -> None:
    a, b, _ = pair
    saved, dying = tmp_path / "run.pt", tmp_path / "dying.py"
    dying.write_text(ends_itself("SIGKILL", 2) + script.read_text())
    arguments = ["correlate", a, b, "--match", "best", "--checkpoint", saved]
    arguments += ["--checkpoint-every", "0", "--out"]
    process = torchrun(3, dying, *arguments, tmp_path / "many")
    _, err = process.communicate(timeout=120)  # bounded
    assert process.returncode != 0, err
    assert not (tmp_path / "many").exists()
    done = torch.load(saved, weights_only=True)["done"]
    assert len(done) == 3  # of each process, what it had done
    finished(torchrun(2, script, *arguments, tmp_path / "many"))
    alone(script, "correlate", a, b, "--match", "best", "--out", tmp_path / "one")
    check_same(tmp_path / "many", tmp_path / "one")
    # What three began and two ended, one reads to the same end.
    alone(script, *arguments, tmp_path / "again")
    check_same(tmp_path / "again", tmp_path / "one")


def joined(rank: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    """One of two processes, started without torchrun, which would end the other if one dies."""
    places = {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in places.items()}},
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"], ids=["killed", "stopped"])
def test_the_others_do_not_wait_for_ever(
    end: str, pair: list[Path], script: Path, tmp_path: Path
) -> None:
    a, b, _ = pair
    saved = tmp_path / "run.pt"
    arguments = ["correlate", a, b, "--match", "index", "--timeout", "4", "--checkpoint", saved]
    arguments += ["--checkpoint-every", "0"]
    script.write_text(together(tmp_path) + ends_itself(end, 1) + script.read_text())
    port = free_port()
    first, second = (joined(rank, port, script, *arguments) for rank in range(2))
    try:
        _, err = first.communicate(timeout=120)
    finally:
        for each in (first, second):
            each.kill()
            each.communicate()
    assert first.returncode == 2, err
    assert "Error: process 0 of 2: another one died or does not answer" in err
    assert saved.exists()


def test_a_process_that_is_alone_says_so(pair: list[Path], script: Path) -> None:
    a, b, _ = pair
    process = joined(1, free_port(), script, "correlate", a, b, "--timeout", "2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Error: torchrun: the processes do not come together (" in err


def test_a_search_may_take_longer_than_the_timeout(
    pair: list[Path], script: Path, tmp_path: Path
) -> None:
    a, b, _ = pair
    slow = tmp_path / "slow.py"
    slow.write_text(together(tmp_path) + slow_search(6) + script.read_text())
    arguments = ["correlate", a, b, "--match", "best", "--memory-limit", "1.4e-4", "--out"]
    out = tmp_path / "out"
    finished(torchrun(2, slow, *arguments, out, "--timeout", "3"))
    alone(script, *arguments, tmp_path / "one")
    check_same(out, tmp_path / "one")


@pytest.mark.parametrize("option", ["--checkpoint", "--out"])
def test_what_another_run_holds_is_refused_in_all(
    option: str, pair: list[Path], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    with holding_file(place) if option == "--checkpoint" else holding_directory(place):
        command = ["correlate", *pair[:2], "--match", "index", option, place]
        process = torchrun(2, "-m", "univfast", *command)
        _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert f"Error: {place}: is in use by process {os.getpid()} on " in err
    assert "Error: process 0 stopped; its message says why" in err
    assert not place.exists()


def test_processes_that_were_given_other_files(pair: list[Path], tmp_path: Path) -> None:
    a, b, _ = pair
    script = tmp_path / "other.py"
    script.write_text(
        "import os, sys\nfrom univfast.cli import main\n"
        f"b = {str(b)!r} if os.environ['RANK'] == '0' else {str(a)!r}\n"
        f"sys.exit(main(['correlate', {str(a)!r}, b]))\n"
    )
    _, err = (process := torchrun(2, script)).communicate(timeout=120)
    assert process.returncode != 0
    assert "Error: process 1: was given other activations of B than process 0" in err
