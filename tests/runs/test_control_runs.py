"""Runs with controls that are interrupted or killed, or that processes share."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import univfast as uf
from support.controlled import COLUMNS, sides, two, untrained
from support.processes import command_in_slices, finished, torchrun, written_at
from support.stopped import StopError, stopping
from univfast.report.files import neurons_csv
from univfast.runs import by_index, over_pairs
from univfast.sums import co_moments

TOKENS, FEW = 400, 250
LOW: dict[str, Any] = {"threshold": 0.25, "control_margin": 0.1}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 50 tokens by index and of 64, a chunk, for all pairs; few bytes for products."""
    monkeypatch.setattr(by_index, "LEAST_TOKENS", 50)
    for module in (by_index, over_pairs):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)


def written(result: uf.CorrelationResult) -> bytes:
    """What is saved of a result's numbers; but for its seconds, which are of one call alone."""
    results = [result, *([] if result.reverse is None else [result.reverse]), *result.by_model]
    parts = [neurons_csv(one) for one in results]
    summaries = [{**one.summary, "seconds": None} for one in results]
    return b"".join(parts) + json.dumps(summaries).encode()


# ---- interrupted ---------------------------------------------------------------------------------

# Passes: the real models, and of each of two controls one, or as many as memory asks for.
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "index": (3, {"match": "index"}),
    "index, fewer tokens": (3, {"match": "index", "control_tokens": FEW}),
    "best": (3, {}),
    "best, fewer tokens, in both directions": (3, {"control_tokens": FEW, "reverse": True}),
    "best, masked": (3, {"mask": torch.arange(TOKENS) % 3 > 0}),
    "best, a comparison a pass": (7, {"memory_limit": 100e3}),
    "best, a layer a pass": (14, {"memory_limit": 80e3}),
    "one-to-one": (3, {"match": "one-to-one", "control_tokens": FEW}),
    "of A alone": (3, {"controls_b": None}),
    "of three models": (3, {"third": True}),
}


def arguments(options: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Models and options of a run."""
    options = dict(options)
    match = options.get("match", "best")
    a, b = two(match)
    given: dict[str, Any] = {**LOW, "draws": 2, **sides(match, 2), **options}
    if given.pop("third", False):
        given["controls_b"] = [given["controls_b"], [untrained(30), untrained(31)]]
        return [a, [b, untrained(3)]], given
    return [a, b], given


@pytest.mark.slow
@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_broken_in_each_pass_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    number, options = RUNS[name]
    models, given = arguments(options)
    path = tmp_path / "run.pt"
    ticks: list[tuple[int, int]] = []
    expected = uf.correlate(*models, **given, progress=lambda *tick: ticks.append(tick))
    saved: dict[str, Any] = {**given, "checkpoint": path, "checkpoint_every": 0}
    with pytest.raises(StopError):
        uf.correlate(*models, **saved, progress=stopping(100))
    plan = torch.load(path, weights_only=True)["plan"]
    assert len(plan) == number
    tokens = [entry["tokens"] for entry in plan]
    assert ticks[-1] == (sum(tokens), sum(tokens))
    few = given.get("control_tokens", TOKENS)
    assert set(tokens[1:]) <= {few, TOKENS}
    assert tokens[-1] == few
    before = 0
    stopped = []
    for taken in tokens:  # amidst each pass, at its end, and at once again
        for after in (before + 100, before + taken, before + taken):
            with suppress(StopError):
                uf.correlate(*models, **saved, progress=stopping(after))
            stopped.append(torch.load(path, weights_only=True)["number"])
        before += taken
    assert set(stopped) == set(range(number)), "a pass in which nothing stopped"
    again: list[int] = []
    result = uf.correlate(*models, **saved, progress=lambda done, _: again.append(done))
    assert written(result) == written(expected)
    assert again[0] >= sum(tokens[:-1])  # what was done was not done again


@pytest.mark.usefixtures("small_slices")
def test_runs_with_other_controls_are_other_runs(tmp_path: Path) -> None:
    (a, b), given = arguments({"controls_a": None})
    path = tmp_path / "run.pt"
    more = {"checkpoint": path, "checkpoint_every": 0}
    with pytest.raises(StopError):
        uf.correlate(a, b, **given, **more, progress=stopping(500))
    nets = given["controls_b"]
    for change, message in (
        ({"controls_b": nets[::-1]}, "other activations of control 1 of B"),
        ({"controls_b": [nets[0], {**nets[1], "l1": nets[1]["l1"] * 2}]}, "other activations of"),
        ({"controls_b": nets[:1]}, "other controls, 2 instead of 1"),
        ({"controls_b": None}, "other controls, 2 instead of 0"),
        ({"control_tokens": FEW}, "other tokens of controls"),
    ):
        with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of {message}"):
            uf.correlate(a, b, **{**given, **change}, **more)
    # What only follows from the sums may change.
    result = uf.correlate(a, b, **{**given, "control_margin": 0.2}, **more)
    assert written(result) == written(uf.correlate(a, b, **{**given, "control_margin": 0.2}))


# ---- killed --------------------------------------------------------------------------------------


def files(folder: Path, repeat: int) -> list[str]:
    """A and B with two controls a side, as files, and the arguments that name them."""
    names = {"a": two()[0], "b": two()[1]}
    names |= {f"{side[-1]}{k}": net for side, nets in sides("best", 2).items()
              for k, net in enumerate(nets)}  # fmt: skip
    for name, net in names.items():
        torch.save({k: x.repeat(repeat, 1) for k, x in net.items()}, folder / f"{name}.pt")
    a, b, *controls = (str(folder / f"{name}.pt") for name in names)
    return [a, b, "--controls-a", *controls[:2], "--controls-b", *controls[2:]]


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    return summary


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    script = command_in_slices(tokens=512, chunk=512)
    command = [sys.executable, "-c", script, "correlate", *files(tmp_path, 60), "--quiet"]
    command += ["--threshold", "0.25", "--control-tokens", "16000"]
    subprocess.run([*command, "--out", str(tmp_path / "unbroken")], check=True)
    expected = (tmp_path / "unbroken" / "neurons.csv").read_bytes()
    saved, out = tmp_path / "run.pt", tmp_path / "out"
    command += ["--checkpoint", str(saved), "--checkpoint-every", "0", "--out", str(out)]
    moments = random.Random(0)
    kills, reached = 0, set()
    while kills < 6 or len(reached) < 2:  # however far each comes, on slow machines
        assert kills < 60, "all were killed in one pass"
        before = written_at(saved)
        process = subprocess.Popen(command)
        # While the checkpoint is being written again and again.
        while process.poll() is None and written_at(saved) in (None, before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:  # it had ended: begin anew
            assert (out / "neurons.csv").read_bytes() == expected
            for each in tmp_path.glob("run.pt*"):  # the one before too
                each.unlink()
        else:
            kills += 1
            # The one before, where it was killed between two moves.
            last = saved if saved.exists() else tmp_path / "run.pt.previous"
            reached.add(torch.load(last, weights_only=True)["number"])
    subprocess.run(command, check=True)
    assert (out / "neurons.csv").read_bytes() == expected
    assert summary_of(out) == summary_of(tmp_path / "unbroken")


# ---- several processes ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--reverse"],
        ["--control-tokens", "250", "--memory-limit", "1e-4"],
        ["--match", "one-to-one", "--control-tokens", "250"],
    ],
    ids=["best", "best, in passes", "one-to-one"],
)
def test_processes_share_the_tokens_of_controls(options: list[str], tmp_path: Path) -> None:
    given = ["correlate", *files(tmp_path, 1), "--threshold", "0.25", *options, "--quiet", "--out"]
    script = tmp_path / "small_slices.py"
    script.write_text(command_in_slices(tokens=64, chunk=64))
    one, many = tmp_path / "one", tmp_path / "many"
    subprocess.run([sys.executable, str(script), *given, str(one)], check=True)
    finished(torchrun(2, script, *given, many))
    folders = [(one, many)]
    if "--reverse" in options:
        folders.append((one / "reverse", many / "reverse"))
    for alone, shared in folders:
        x, y = (pd.read_csv(folder / "neurons.csv") for folder in (shared, alone))
        numbers = [*COLUMNS, "correlation", "baseline", "excess", "p_value", "q_value"]
        np.testing.assert_allclose(x[numbers], y[numbers], rtol=0, atol=1e-12)
        for name in ("learned", "universal", "match_neuron"):
            assert (x[name] == y[name]).all()
        found, expected = summary_of(shared), summary_of(alone)
        assert found["controls"] == expected["controls"]
        for name, value in expected.items():
            if isinstance(value, int) or "control" in name:
                assert found[name] == value, name
        assert found["learned"] > 0
