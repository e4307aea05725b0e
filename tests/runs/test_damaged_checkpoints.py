"""Checkpoints that are damaged, edited, or another run's: told, and the one before goes on."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import univfast as uf
from support.edited import edits
from support.processes import command_in_slices
from support.stopped import StopError, stopping
from univfast.machine.digests import sealed
from univfast.runs import by_index, details, over_pairs
from univfast.sums import co_moments

TOKENS = 200
LAYERS = {"u": 6, "v": 5}

Model = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 50 tokens, for all pairs of 32, a chunk."""
    for module in (by_index, over_pairs, details):
        monkeypatch.setattr(module, "READ_BYTES", 1)
    monkeypatch.setattr(by_index, "LEAST_TOKENS", 50)
    monkeypatch.setattr(details, "_LEAST_TOKENS", 50)
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 32)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4096)


def models(number: int = 2) -> list[Model]:
    generator = torch.Generator().manual_seed(0)
    shape = (TOKENS // 10, 10)
    shared = {k: torch.randn(*shape, n, generator=generator) for k, n in LAYERS.items()}
    return [
        {k: x + torch.randn(x.shape, generator=generator) for k, x in shared.items()}
        for _ in range(number)
    ]


# Options of each run, and the tokens that it is stopped after, of all passes.
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "index": ({"match": "index", "draws": 1, "shifts": 2}, 150),
    "index with details and controls": (
        {"match": "index", "draws": 1, "details": True, "controls": True},
        250,
    ),
    "best in passes": (
        {"match": "best", "draws": 1, "reverse": True, "details": True, "memory_limit": 21.5e3},
        500,
    ),
    "one-to-one": ({"match": "one-to-one", "draws": 1, "controls": True}, 250),
}


def correlated(name: str, **more: Any) -> uf.CorrelationResult:
    options = dict(RUNS[name][0])
    a, b, *controls = models(4)
    if options.pop("controls", False):
        options |= {"controls_a": controls, "control_tokens": 120}
    if options.get("details"):
        options["token_ids"] = torch.arange(TOKENS).view(-1, 10) % 7
    if name != "best in passes":
        options["mask"] = torch.arange(TOKENS).view(-1, 10) % 9 != 3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "control")  # of so few tokens
        return uf.correlate(a, b, **options, **more)


def numbers(result: uf.CorrelationResult) -> str:
    return repr(result.columns()) + repr(result.reverse and result.reverse.columns())


def started(path: Path, name: str, previous: bool = False) -> dict[str, Any]:
    """A run that was stopped on the way, and what its checkpoint holds."""
    with pytest.raises(StopError):
        correlated(name, checkpoint=path, checkpoint_every=0, progress=stopping(RUNS[name][1]))
    if not previous:
        before(path).unlink()
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def before(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


# Runs, and of how many edits one is tried.
EDITED = [("index", 67), *(pytest.param(x, 29, marks=pytest.mark.slow) for x in RUNS)]


def some_edits(content: Any, every: int) -> Iterator[tuple[str, Any]]:
    yield from islice(edits(content), 0, None, every)
    for name in ("number", "done"):  # where the run is
        for where, edited in islice(edits(content[name]), 0, None, 1 + every // 30):
            yield f"/{name}{where}", {**content, name: edited}


@pytest.mark.parametrize(("name", "every"), EDITED)
def test_every_edit_is_refused_or_changes_nothing(name: str, every: int, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    content = started(path, name)
    expected = numbers(correlated(name))
    for where, edited in some_edits(content, every):
        try:
            torch.save(edited, path)
        except Exception:  # what no file can hold
            continue
        bytes_before = path.read_bytes()
        try:
            found = correlated(name, checkpoint=path)
        except uf.InputError as error:
            message = str(error)
        else:
            assert numbers(found) == expected, where
            before(path).unlink(missing_ok=True)
            continue
        assert message.startswith(f"{path}: "), where
        assert "\n" not in message, where
        assert path.read_bytes() == bytes_before, where


@pytest.mark.parametrize(("name", "every"), EDITED)
def test_what_is_sealed_anew_gives_one_line_or_numbers(
    name: str, every: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    content = started(path, name)
    expected = numbers(correlated(name))
    for where, edited in some_edits(content, every):
        try:
            torch.save(sealed(edited), path)
        except Exception:  # what no file can hold, or no checkpoint
            continue
        messages = []
        try:
            found = correlated(name, checkpoint=path)
        except uf.InputError as error:
            messages.append(str(error))
        else:
            before(path).unlink(missing_ok=True)
            # Sums can be others that are as good; where the run is cannot.
            assert "/states" in where or "/found" in where or numbers(found) == expected, where
        assert all(x.startswith(f"{path}: ") and "\n" not in x for x in messages), where


def test_plans_of_other_inputs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    content = started(path, "index")
    (entry,) = content["plan"]
    for plan in (
        [{**entry, "tokens": TOKENS - 50}],
        [{**entry, "round": 1}],
        [{**entry, "round": False}],
        [{**entry, "more": 1}],
        [{"tokens": TOKENS}],
        [entry, entry],
    ):
        torch.save(sealed({**content, "plan": plan}), path)
        with pytest.raises(uf.InputError, match=f"^{path}: .*(its passes are not|of its plan)"):
            correlated("index", checkpoint=path)
    content = started(path := tmp_path / "best.pt", "best in passes")
    first = content["plan"][0]
    (number, layers), *rest = first["jobs"]
    for jobs in (
        [],
        rest,
        [[number, layers[::-1]], *rest],
        [[number, layers[:-1]], *rest],
        [[number, [*layers, *layers]], *rest],
        [[number + 1, layers], *rest],
        [[number, []], [number, layers], *rest],
        [[number, "u"], *rest],
        [number],
        7,
    ):
        if jobs != first["jobs"]:
            torch.save(
                sealed({**content, "plan": [{**first, "jobs": jobs}, *content["plan"][1:]]}), path
            )
            with pytest.raises(uf.InputError, match=rf"^{path}: .*\(its passes are not those of"):
                correlated("best in passes", checkpoint=path)


def test_overlapping_ranges_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    content = started(path, "index")
    for done, message in (
        ([(0, 100), (50, 150)], "the tokens that are done overlap"),
        ([(50, 100), (0, 50)], "the tokens that are done overlap"),
        ([(0, 100), (100, TOKENS + 1)], "the tokens that are done overlap, or are more than"),
        ([(0, 0)], "the tokens that are done are no ranges"),
        ([(True, 100)], "the tokens that are done are no ranges"),
        ([(0.0, 100)], "the tokens that are done are no ranges"),
        ([(0, 50)], "its sums are of 89 tokens, and 44 are marked as done"),
        ([], "the tokens that are done are no ranges"),
    ):
        torch.save(sealed({**content, "done": done}), path)
        with pytest.raises(uf.InputError, match=f"^{path}: .*{re.escape(message)}"):
            correlated("index", checkpoint=path)


@pytest.mark.parametrize("flips", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_one_flipped_bit_or_cut_byte(flips: int, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    started(path, "index")
    good, expected = path.read_bytes(), numbers(correlated("index"))
    chance = random.Random(0)
    damaged = [good[: chance.randrange(len(good))] for _ in range(flips // 4)]
    for _ in range(flips):
        raw = bytearray(good)
        raw[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(raw))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = correlated("index", checkpoint=path)
        except uf.InputError as error:
            refused += str(error).startswith(f"{path}: ")
        else:  # a bit that means nothing
            assert numbers(found) == expected
            before(path).unlink()
    assert refused > flips // 4


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
@pytest.mark.parametrize("name", list(RUNS))
def test_the_one_before_goes_on(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    started(path, name, previous=True)
    raw = path.read_bytes()
    earlier = before(path).read_bytes()
    at = raw.index(b"identity")
    contents = {
        "cut": raw[: len(raw) // 2],
        "flipped": raw[:at] + b"I" + raw[at + 1 :],
        "empty": b"",
    }
    path.unlink()
    if damage in contents:
        path.write_bytes(contents[damage])
    ticks: list[int] = []
    with pytest.warns(
        UserWarning, match=f"^{path}: .*; going on from .* before it, {before(path)}"
    ):
        result = correlated(name, checkpoint=path, progress=lambda done, _: ticks.append(done))
    assert ticks[0] >= 50  # it did not begin anew
    assert numbers(result) == numbers(correlated(name))
    # The damaged one was not kept as the one before.
    last = torch.load(before(path), weights_only=True)
    assert before(path).read_bytes() == earlier or last["digest"]
    assert torch.load(path, weights_only=True)["done"]


def test_both_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    started(path, "index", previous=True)
    for each in (path, before(path)):
        each.write_bytes(each.read_bytes()[:-100])
    bytes_before = path.read_bytes()
    with pytest.raises(uf.InputError, match=f"^{path}: cannot be read as a checkpoint"):
        correlated("index", checkpoint=path)
    assert path.read_bytes() == bytes_before
    path.unlink()  # then it begins anew, as where there is none
    assert numbers(correlated("index", checkpoint=path)) == numbers(correlated("index"))


def test_other_inputs_are_not_replaced_by_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    started(path, "index", previous=True)
    mine = path.read_bytes()
    started(path := tmp_path / "other.pt", "one-to-one")
    before(path).write_bytes(mine)
    with pytest.raises(uf.InputError, match=f"^{path}: is the checkpoint of other match, 'one-to-"):
        correlated("index", checkpoint=path)
    assert before(path).read_bytes() == mine


def test_one_before_is_kept_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    newest, older = started(path, "index", previous=True), torch.load(before(path))
    assert newest["done"] == [(0, 100)]
    assert older["done"] == [(0, 50)]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run.pt", "run.pt.previous"]
    # As a run leaves it that is killed before the newest takes its place.
    path.unlink()
    with pytest.warns(UserWarning, match="is not there; going on from the checkpoint before it"):
        correlated("index", checkpoint=path, checkpoint_every=0)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run.pt", "run.pt.previous"]
    assert path.stat().st_ino != before(path).stat().st_ino  # or one damage would be that of both


def test_checkpoints_of_before_are_read(tmp_path: Path) -> None:
    for name in RUNS:
        path = tmp_path / f"{name}.pt"
        content = {**started(path, name), "version": 2}
        del content["digest"]
        for state in content["states"]:
            state["version"] = {"univfast-details": 1}.get(state["format"], 3)
        torch.save(content, path)
        assert numbers(correlated(name, checkpoint=path)) == numbers(correlated(name))
        content["states"][0]["more"] = torch.zeros(2, 2).to_sparse()
        torch.save(content, path)
        before(path).unlink(missing_ok=True)
        with pytest.raises(uf.InputError, match=r"is damaged, .* no dense tensor"):
            correlated(name, checkpoint=path)


# ---- two runs -----------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    writing = tmp_path / ".run.pt.0123456789abcdef.tmp"
    outcomes: list[str] = []

    def second(done: int, total: int) -> None:
        if done != 100:
            return
        writing.touch()

        def attempt() -> None:
            try:
                correlated("index", checkpoint=path)
            except uf.InputError as error:
                outcomes.append(str(error))

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert writing.exists()

    result = correlated("index", checkpoint=path, checkpoint_every=0, progress=second)
    assert len(outcomes) == 1
    assert outcomes[0].startswith(f"{path}: is in use by this process; wait until")
    assert numbers(result) == numbers(correlated("index"))
    correlated("index", checkpoint=path)  # the lock was given back
    assert not writing.exists()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run.pt", "run.pt.previous"]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--checkpoint", "--out"])
def test_two_commands_at_once(option: str, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    for path, model in zip(paths, models(), strict=True):
        torch.save(model, path)
    script = command_in_slices(tokens=50, chunk=32).replace(
        "from univfast.cli",
        "import time, pathlib\n"
        "update = by_index.IndexPass.update\n"
        "def slow(self, part, *rest):\n"
        f"    pathlib.Path({str(tmp_path / 'started')!r}).touch()\n"
        f"    while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
        "    update(self, part, *rest)\n"
        "by_index.IndexPass.update = slow\n"
        "from univfast.cli",
    )
    command = [sys.executable, "-c", script, "correlate", *paths, "--match", "index", "--quiet"]
    command += [option, str(tmp_path / "place")]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "started").exists():
            assert first.poll() is None
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        (tmp_path / "go").touch()
        assert first.wait(60) == 0
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2
    assert re.fullmatch(
        rf"Error: {tmp_path}/place: is in use by process {first.pid} on \S+; .*\n", second.stderr
    )
    assert subprocess.run(command, check=False).returncode == 0
