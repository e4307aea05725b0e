"""Runs that are interrupted or killed, and go on from their checkpoint."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.processes import command_in_slices, written_at
from support.stopped import StopError, stopping
from univfast.cli import main
from univfast.machine.digests import sealed
from univfast.runs import by_index, over_pairs
from univfast.runs import run as runs
from univfast.runs.passes import Range
from univfast.runs.run import Interrupted
from univfast.sums import co_moments

TOKENS = 2000
LAYERS = {"mlp.0": 24, "mlp.1": 16}

Models = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 100 tokens by index and of 64, a chunk, for all pairs; few bytes for products."""
    monkeypatch.setattr(by_index, "LEAST_TOKENS", 100)
    for module in (by_index, over_pairs):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)


def models(number: int = 3, tokens: int = TOKENS) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shared = {k: torch.randn(tokens, n, generator=generator) for k, n in LAYERS.items()}
    return [
        {k: x + torch.randn(x.shape, generator=generator) for k, x in shared.items()}
        for _ in range(number)
    ]


def same(one: uf.CorrelationResult, other: uf.CorrelationResult) -> bool:
    """Whether two results are the same to the last bit."""
    if one.reverse is not None:
        assert other.reverse is not None
        assert same(one.reverse, other.reverse)
    assert one.summary["tokens"] == other.summary["tokens"]
    return repr(one.columns()) == repr(other.columns())


RUNS: dict[str, dict[str, Any]] = {
    "index": {"match": "index"},
    "index of three models": {"match": "index", "models": 3},
    "haar": {"match": "index", "rotation": "haar"},
    "best": {"match": "best"},
    "best in both directions": {"match": "best", "reverse": True, "draws": 2},
    "best of three models, a layer a pass": {"match": "best", "models": 3, "memory_limit": 75e3},
    "one-to-one of three models, one a pass": {
        "match": "one-to-one",
        "models": 3,
        "memory_limit": 130e3,
    },
    "no rotation": {"match": "index", "rotation": "none", "draws": 0},
}


PASSES = {"best of three models, a layer a pass": 4, "one-to-one of three models, one a pass": 2}


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", list(RUNS))
def test_a_broken_run_goes_on_to_the_same_bits(name: str, masked: bool, tmp_path: Path) -> None:
    options = dict(RUNS[name])
    a, *others = models(options.pop("models", 2))
    if masked:
        options["mask"] = torch.arange(TOKENS) % 7 != 3
    expected = uf.correlate(a, others, **options)
    path = tmp_path / "run.pt"
    ticks: list[tuple[int, int]] = []
    for after in (300, 1400, 2500, 5000):
        with suppress(StopError):  # one pass has no 5,000 tokens to stop after
            uf.correlate(
                a,
                others,
                **options,
                checkpoint=path,
                checkpoint_every=0,
                progress=stopping(after),
            )
    assert len(torch.load(path, weights_only=True)["plan"]) == PASSES.get(name, 1)
    result = uf.correlate(
        a, others, **options, checkpoint=path, progress=lambda *tick: ticks.append(tick)
    )
    assert same(result, expected)
    assert ticks[0][0] >= 1200  # what was done was not done again
    again = uf.correlate(a, others, **options, checkpoint=path, checkpoint_every=0)
    assert same(again, expected)


def test_a_checkpoint_is_written_when_it_is_time(tmp_path: Path) -> None:
    a, b = models(2)
    path = tmp_path / "run.pt"
    with pytest.raises(StopError):
        uf.correlate(a, b, match="index", checkpoint=path, progress=stopping(1000))  # every 60 s
    assert not path.exists()
    uf.correlate(a, b, match="index", checkpoint=path)
    assert torch.load(path, weights_only=True)["done"] == [(0, TOKENS)]  # at the end at least


@pytest.mark.slow
def test_one_pass_holds_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []
    update = over_pairs.PairsPass.update

    def counted(self: over_pairs.PairsPass, part: Range, *rest: Any) -> None:
        update(self, part, *rest)
        gc.collect()
        alive.append(sum(type(x) is co_moments.CoMoments for x in gc.get_objects()))

    monkeypatch.setattr(over_pairs.PairsPass, "update", counted)
    a, b = models(2, 300)
    uf.correlate(a, b, match="best", memory_limit=75e3)
    assert len(alive) == 2 * 5  # two passes
    assert set(alive) == {1}


def test_other_memory_on_the_way(tmp_path: Path) -> None:
    path = started(tmp_path, match="best")
    a, b = models(2)
    with pytest.raises(uf.InputError, match=r"^memory_limit: the checkpoint was written by a run"):
        uf.correlate(a, b, match="best", checkpoint=path, memory_limit=75e3)
    result = uf.correlate(a, b, match="best", checkpoint=path, memory_limit=1e6)
    assert same(result, uf.correlate(a, b, match="best"))


def test_values_that_only_look_plain(tmp_path: Path) -> None:
    a, b = ({np.str_(name): x for name, x in model.items()} for model in models(2))
    options: dict[str, Any] = {"top_k": np.int64(5), "reverse": np.bool_(True), "seed": np.int64(3)}
    options |= {"match": np.str_("best"), "draws": np.int64(2), "rotation": np.str_("haar")}
    path = tmp_path / "run.pt"
    for stop in (stopping(1000), None):
        with suppress(StopError):
            result = uf.correlate(
                a, b, **options, checkpoint=path, checkpoint_every=0, progress=stop
            )
    assert same(result, uf.correlate(a, b, **options))
    saved = uf.PairedCorrelation(3, layer=np.str_("mlp.0"))
    torch.save(saved.state_dict(), path)
    uf.PairedCorrelation(3, layer="mlp.0").load_state_dict(torch.load(path, weights_only=True))


# ---- what is refused ----------------------------------------------------------------------------


def started(tmp_path: Path, **options: Any) -> Path:
    a, b = models(2)
    path = tmp_path / "run.pt"
    with pytest.raises(StopError):
        uf.correlate(a, b, **options, checkpoint=path, checkpoint_every=0, progress=stopping(1000))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 6}, "other draws, 5 instead of 6"),
        ({"seed": 1}, "other seed, 0 instead of 1"),
        ({"rotation": "gaussian"}, "other rotation, 'hadamard' instead of 'gaussian'"),
        ({"match": "best"}, "other match, 'index' instead of 'best'"),
        ({"layers": "mlp.1"}, "other layers of A"),
        ({"mask": torch.arange(TOKENS) > 5}, "other mask"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
def test_other_options_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = started(tmp_path, match="index")
    before = path.read_bytes()
    a, b = models(2)
    with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of {message}"):
        uf.correlate(a, b, **{"match": "index", **change}, checkpoint=path, checkpoint_every=0)
    assert path.read_bytes() == before


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = started(tmp_path, match="index")
    a, b = models(2)
    shorter = [{name: x[:-1] for name, x in model.items()} for model in (a, b)]
    for one, other, message in (
        (b, b, "other activations of A"),
        (a, a, "other activations of B"),
        ({**a, "mlp.1": a["mlp.1"].half()}, b, "other activations of A"),
        (*shorter, "other tokens"),
    ):
        with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of {message}"):
            uf.correlate(one, other, match="index", checkpoint=path)
    with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of other models, 2"):
        uf.correlate(a, [b, b], match="index", checkpoint=path)


def test_the_threshold_may_change(tmp_path: Path) -> None:
    path = started(tmp_path, match="index")
    a, b = models(2)
    options: dict[str, Any] = {"match": "index", "threshold": 0.1}
    result = uf.correlate(a, b, **options, checkpoint=path)
    assert same(result, uf.correlate(a, b, **options))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    a, b = models(2)
    path = tmp_path / "run.pt"
    good = torch.load(started(tmp_path, match="index"), weights_only=True)
    (tmp_path / "run.pt.previous").unlink()  # which would be taken
    for content, message in (
        (b"no checkpoint", "cannot be read as a checkpoint"),
        (a, "is not a checkpoint"),
        ({**good, "version": 7}, "is a checkpoint of version 7, this univfast reads 2 or 3;"),
        (sealed({k: v for k, v in good.items() if k != "states"}), "is a checkpoint without 'stat"),
        (sealed({**good, "identity": None}), "is the checkpoint of other match"),
    ):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        before = path.read_bytes()
        with pytest.raises(uf.InputError, match=f"^{path}: {message}"):
            uf.correlate(a, b, match="index", checkpoint=path, checkpoint_every=0)
        assert path.read_bytes() == before
    with pytest.raises(uf.InputError, match=r"is not an ordinary file\); name a file"):
        uf.correlate(a, b, checkpoint=tmp_path)
    with pytest.raises(uf.InputError, match="checkpoint_every: got -1"):
        uf.correlate(a, b, checkpoint_every=-1)


# ---- signals and kills --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("at", "then"), [(500, 600), (2000, 2000)], ids=["amidst", "at the end"])
def test_a_signal_writes_the_checkpoint(
    at: int, then: int, number: signal.Signals, tmp_path: Path
) -> None:
    a, b = models(2)
    path = tmp_path / "run.pt"
    handler = signal.getsignal(number)

    def interrupt(done: int, total: int) -> None:
        if done == at:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=f"^Interrupted after {then} of 2000 .* in {path}: "):
        uf.correlate(a, b, match="index", checkpoint=path, progress=interrupt)
    assert signal.getsignal(number) is handler
    ticks: list[int] = []
    result = uf.correlate(
        a, b, match="index", checkpoint=path, progress=lambda done, _: ticks.append(done)
    )
    assert ticks[0] == then
    assert same(result, uf.correlate(a, b, match="index"))


def test_a_second_interrupt_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_REPEATED", -1)
    a, b = models(2)

    def interrupt(done: int, total: int) -> None:
        if done == 500:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        uf.correlate(a, b, match="index", checkpoint=path, progress=interrupt)
    assert not path.exists()


def test_the_command_says_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    for path, model in zip(paths, models(2), strict=True):
        torch.save(model, path)
    update = by_index.IndexPass.update

    def interrupted(self: by_index.IndexPass, part: Range, *rest: Any) -> None:
        if part[0] == 500:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, part, *rest)

    monkeypatch.setattr(by_index.IndexPass, "update", interrupted)
    saved = str(tmp_path / "run.pt")
    assert main(["correlate", *paths, "--match", "index", "--checkpoint", saved]) == 130
    assert "\nInterrupted after 600 of 2000 tokens, which are saved in" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["correlate", *paths, "--match", "index", "--checkpoint", saved, "--quiet"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("match", "options"),
    [("index", ["--draws", "20"]), ("best", ["--memory-limit", "3.6e-4"])],
    ids=["index", "best, a layer a pass"],
)
def test_killed_runs_end_with_the_same_numbers(
    match: str, options: list[str], tmp_path: Path
) -> None:
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    for path, model in zip(paths, models(2, 80_000), strict=True):
        torch.save(model, path)
    saved, out = tmp_path / "run.pt", tmp_path / "out"
    script = command_in_slices(tokens=2048, chunk=512)
    command = [sys.executable, "-c", script, "correlate", *paths, "--match", match, *options]
    unbroken = [*command, "--quiet", "--out", str(tmp_path / "unbroken")]
    subprocess.run(unbroken, check=True)
    expected = (tmp_path / "unbroken" / "neurons.csv").read_bytes()
    command += ["--quiet", "--checkpoint", str(saved), "--checkpoint-every", "0"]
    command += ["--out", str(out)]
    moments = random.Random(match)
    previous = tmp_path / "run.pt.previous"
    kills = cut = 0
    while kills < 10 or cut < 4:
        assert kills < 60, "too few left two checkpoints"
        if kills > 2 * cut and saved.exists() and previous.exists():
            # Every other time, as a full disk leaves it.
            os.truncate(saved, moments.randrange(saved.stat().st_size))
            cut += 1
        before = written_at(saved)
        process = subprocess.Popen(command)
        # Some are killed at any time, most while the checkpoint is being written again and again.
        if kills % 5 == 0:
            time.sleep(moments.uniform(0, 2))
        else:
            while process.poll() is None and written_at(saved) in (None, before):
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
        process.kill()
        if process.wait(60) == 0:  # it had ended: begin anew
            assert (out / "neurons.csv").read_bytes() == expected
            for each in tmp_path.glob("run.pt*"):  # the one before too, and a search
                each.unlink()
        else:
            kills += 1
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert all(line.startswith("Warning: ") for line in done.stderr.splitlines())
    assert (out / "neurons.csv").read_bytes() == expected
    plan = torch.load(saved, weights_only=True)["plan"]
    assert len(plan) == (2 if match == "best" else 1)
    assert not list(tmp_path.glob(".*"))  # nothing is left of what was being written
