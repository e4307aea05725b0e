"""Runs with details, alone and with controls, that are interrupted or that processes share."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import univfast as uf
from support.controlled import COLUMNS, TOKENS, WIDTHS, sides, two, untrained
from support.pairs import Layers
from support.processes import command_in_slices, finished, slow_search, together, torchrun
from support.stopped import StopError, stopping
from univfast.details import Details
from univfast.report.files import neurons_csv
from univfast.runs import by_index, details, over_pairs
from univfast.sums import co_moments

SAMPLE, FEW = 20, 250
OF_DETAILS = [field.name for field in fields(Details) if field.name != "contexts"]
LOW: dict[str, Any] = {"threshold": 0.25, "control_margin": 0.1, "draws": 2}
IDS = torch.randint(0, 30, (TOKENS,), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 50 tokens by index and of pairs, and of 64, a chunk, for all pairs."""
    monkeypatch.setattr(by_index, "LEAST_TOKENS", 50)
    monkeypatch.setattr(details, "_LEAST_TOKENS", 50)
    for module in (by_index, over_pairs, details):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)


def samples(net: Layers) -> Layers:
    return {name: x.view(-1, SAMPLE, x.shape[1]) for name, x in net.items()}


def arguments(options: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Models and options of a run with details."""
    options = dict(options)
    match = options.get("match", "best")
    a, b = two(match)
    given = {**LOW, "details": True, "token_ids": IDS.view(-1, SAMPLE), **options}
    if given.pop("controlled", True):
        nets = {name: [samples(net) for net in found] for name, found in sides(match, 2).items()}
        given = {**nets, **given}
    models: list[Any] = [samples(a), samples(b)]
    if given.pop("third", False):
        widths = WIDTHS if match == "index" else (30,)
        models[1] = [models[1], samples(untrained(3, widths))]
        if given.get("controls_b"):
            third = [samples(untrained(30 + k, widths)) for k in range(2)]
            given["controls_b"] = [given["controls_b"], third]
    return models, given


def written(result: uf.CorrelationResult) -> bytes:
    """What is saved of a result's numbers; but for its seconds, which are of one call alone."""
    results = [result, *([] if result.reverse is None else [result.reverse]), *result.by_model]
    results += [] if result.by_index is None else [result.by_index]
    parts = [neurons_csv(one) for one in results]
    parts += [
        tensor.numpy().tobytes()
        for one in results
        for contexts in one.contexts or ()
        for tensor in contexts
    ]
    summaries = [{**one.summary, "seconds": None} for one in results]
    return b"".join(parts) + json.dumps(summaries).encode()


# The passes: of A with B, of the matched pairs where they are not in these, of each control.
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "index": (3, {"match": "index"}),
    "index, fewer tokens, masked": (
        3,
        {"match": "index", "control_tokens": FEW, "mask": torch.arange(TOKENS) % 3 > 0},
    ),
    "index, of three models": (1, {"match": "index", "third": True, "controlled": False}),
    "best": (4, {}),
    "best, without controls": (2, {"controlled": False}),
    "best, in both directions, fewer tokens": (4, {"control_tokens": FEW, "reverse": True}),
    "best, a layer a pass, without ids": (15, {"memory_limit": 80e3, "token_ids": None}),
    "best, of three models": (5, {"third": True}),
    "one-to-one, masked": (4, {"match": "one-to-one", "mask": torch.arange(TOKENS) % 3 > 0}),
}


@pytest.mark.slow
@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_broken_in_each_pass_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    number, options = RUNS[name]
    models, given = arguments(options)
    path = tmp_path / "run.pt"
    expected = uf.correlate(*models, **given)
    saved: dict[str, Any] = {**given, "checkpoint": path, "checkpoint_every": 0}
    with pytest.raises(StopError):
        uf.correlate(*models, **saved, progress=stopping(100))
    plan = torch.load(path, weights_only=True)["plan"]
    assert len(plan) == number
    tokens = [entry["tokens"] for entry in plan]
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
    assert again[0] >= sum(tokens[:-1])  # what was done was not done again
    assert written(result) == written(expected)
    ones = result.by_model or (result,)
    assert all(one.summary["details"]["blocks"] == TOKENS // SAMPLE for one in ones)


@pytest.mark.usefixtures("small_slices")
def test_runs_with_other_details_are_other_runs(tmp_path: Path) -> None:
    models, given = arguments({"controlled": False})
    path = tmp_path / "run.pt"
    more = {"checkpoint": path, "checkpoint_every": 0}
    with pytest.raises(StopError):
        uf.correlate(*models, **given, **more, progress=stopping(500))
    before = path.read_bytes()
    for change, other in (
        ({"token_ids": IDS + (IDS == 3)}, "samples and token ids"),
        ({"token_ids": None}, "samples and token ids"),
        ({"details": False, "token_ids": None}, "details, True instead of False"),
    ):
        with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of other {other}"):
            uf.correlate(*models, **{**given, **change}, **more)
    assert path.read_bytes() == before
    # Ids that name the same groups are the same.
    result = uf.correlate(*models, **{**given, "token_ids": IDS * 7 + 1}, **more)
    assert written(result) == written(uf.correlate(*models, **given))


# ---- several processes ---------------------------------------------------------------------------


def files(folder: Path, match: str) -> list[str]:
    """A and B with two controls a side, and ids, as files, and the arguments that name them."""
    names = dict(zip("ab", two(match), strict=True))
    names |= {f"{side[-1]}{k}": net for side, nets in sides(match, 2).items()
              for k, net in enumerate(nets)}  # fmt: skip
    for name, net in names.items():
        torch.save(samples(net), folder / f"{name}.pt")
    torch.save(IDS, folder / "ids.pt")
    a, b, *controls = (str(folder / f"{name}.pt") for name in names)
    ids = ["--details", "--token-ids", str(folder / "ids.pt")]
    return [a, b, *ids, "--controls-a", *controls[:2], "--controls-b", *controls[2:]]


def in_slices(tokens: int, chunk: int) -> str:
    """The command, with slices of pairs so small too that there are many."""
    return (
        "from univfast.runs import details\n"
        f"details._LEAST_TOKENS, details.READ_BYTES = {tokens}, 1\n"
        f"{command_in_slices(tokens, chunk)}"
    )


def check_same(found: Path, expected: Path, match: str) -> None:
    x, y = (pd.read_csv(folder / "neurons.csv") for folder in (found, expected))
    numbers = [*COLUMNS, "correlation", "baseline", "excess", "p_value", "q_value", *OF_DETAILS]
    np.testing.assert_allclose(x[numbers], y[numbers], rtol=1e-9, atol=1e-12)
    rest = [name for name in x.columns if name not in (*numbers, "baseline_std")]
    pd.testing.assert_frame_equal(x[rest], y[rest])
    with np.load(found / "contexts.npz") as one, np.load(expected / "contexts.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (found, expected))
    assert one["details"] == other["details"]
    assert one["controls"] == other["controls"]
    assert all(one[name] == value for name, value in other.items() if isinstance(value, int))
    assert one["learned"] > 0
    assert one["details"]["beyond_token_and_position"] > 0
    if match != "index":
        beside = [summary["by_index"] for summary in (one, other)]
        assert beside[0] == beside[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("index", []),
        ("best", ["--control-tokens", "250", "--memory-limit", "1e-4"]),
        ("best", ["--reverse"]),
        ("one-to-one", []),
    ],
    ids=["index", "best, in passes", "best, in both directions", "one-to-one"],
)
def test_processes_share_the_tokens_of_details(
    match: str, options: list[str], tmp_path: Path
) -> None:
    given = ["correlate", *files(tmp_path, match), "--threshold", "0.25", "--match", match]
    given += [*options, "--quiet", "--out"]
    script = tmp_path / "small_slices.py"
    script.write_text(in_slices(tokens=64, chunk=64))
    one, many = tmp_path / "one", tmp_path / "many"
    subprocess.run([sys.executable, str(script), *given, str(one)], check=True)
    finished(torchrun(2, script, *given, many))
    check_same(many, one, match)


@pytest.mark.slow
def test_what_process_0_searches_may_take_longer_than_the_timeout(tmp_path: Path) -> None:
    """The others wait for the matches, which details are about."""
    given = ["correlate", *files(tmp_path, "best"), "--threshold", "0.25", "--quiet", "--out"]
    script = tmp_path / "small_slices.py"
    script.write_text(in_slices(tokens=64, chunk=64))
    one, many = tmp_path / "one", tmp_path / "many"
    subprocess.run([sys.executable, str(script), *given, str(one)], check=True)
    slow = tmp_path / "slow.py"
    slow.write_text(together(tmp_path) + slow_search(4) + script.read_text())
    finished(torchrun(2, slow, *given, many, "--timeout", "3"))
    check_same(many, one, "best")
