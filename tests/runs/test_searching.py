"""The search behind a pass: left anywhere and gone on with, saved, told, shared by processes."""

from __future__ import annotations

import os
import pkgutil
import shutil
import signal
import subprocess
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import univfast as uf
from support import TESTS
from support.edited import edits
from support.processes import finished, torchrun, written_at
from support.searched import SEARCHES, numbers, pair, small
from univfast.machine.digests import sealed
from univfast.runs.run import Interrupted

SOME = ["best", "one-to-one"]
SUFFIXES = ("", ".previous", ".search")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch.setattr)


def searched(name: str, **more: Any) -> str:
    a, b = pair(name)
    return numbers(uf.correlate(a, b, **SEARCHES[name], **more))


class Ticks(list[tuple[int, int]]):
    """Takes progress, and does something once."""

    def __init__(self, at: int | None = None, then: Any = None) -> None:
        super().__init__()
        self.at, self.then = at, then

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))
        if len(self) - 1 == self.at:
            self.then()


class StopError(Exception):
    """Stands for whatever ends a process."""


def stop() -> None:
    raise StopError


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.search")


def left(path: Path, name: str, share: float = 0.5) -> Ticks:
    """A search that was killed on the way; what it had told."""
    whole = Ticks()
    searched(name, search_progress=whole)
    ticks = Ticks(max(1, int(share * len(whole))), stop)
    with pytest.raises(StopError):
        searched(name, checkpoint=path, checkpoint_every=0, search_progress=ticks)
    return ticks


# ---- told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_progress_rises_to_its_total_and_moves_with_each_draw(name: str) -> None:
    ticks = Ticks()
    searched(name, search_progress=ticks)
    done = [each for each, _ in ticks]
    (total,) = {each for _, each in ticks}
    options = SEARCHES[name]
    directions = 2 if options.get("reverse") else 1
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert total == directions * 101**2 * (1 + options["draws"])
    assert max(b - a for a, b in pairwise(done)) <= 101**2


def test_a_long_assignment_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfast.runs.searching._ROUND", 0.0)
    monkeypatch.setattr("univfast.machine.meanwhile._LOOK", 0.01)
    assign = "univfast.search.assignment.largest_sum"
    monkeypatch.setattr(assign, slowly(assign, 0.05))
    ticks = Ticks()
    searched("one-to-one", search_progress=ticks)
    assert len([each for each, _ in ticks if each == 0]) > 4


def slowly(name: str, seconds: float) -> Any:
    from univfast.search import assignment

    found = getattr(assignment, name.rpartition(".")[2])

    def slow(r: Any) -> Any:
        time.sleep(seconds)
        return found(r)

    return slow


# ---- saved ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_was_killed_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    expected = searched(name)
    for share in (0.1, 0.6):
        path = tmp_path / f"{share}.pt"
        told = left(path, name, share)
        ticks = Ticks()
        assert searched(name, checkpoint=path, search_progress=ticks) == expected
        # What was done is not done again; of what was told last, it was killed before the save.
        assert told[-2][0] <= ticks[0][0] <= told[-1][0]
        assert ticks[-1][0] == ticks[-1][1]
    again = Ticks()
    assert searched(name, checkpoint=path, search_progress=again) == expected
    assert len({*again}) == 1  # all is there


@pytest.mark.parametrize("name", SOME)
def test_a_signal_ends_a_search_which_is_saved(name: str, tmp_path: Path) -> None:
    expected = searched(name)
    path = tmp_path / "run.pt"
    ticks = Ticks(4, interrupt)
    said = rf"^Interrupted after \d+ of \d+ pairs, which are saved in {path}: the same command goes"
    with pytest.raises(Interrupted, match=said) as stopped:
        searched(name, checkpoint=path, search_progress=ticks)
    sums = path.read_bytes()
    done = int(str(stopped.value).split()[2])
    assert done == ticks[-1][0] < ticks[-1][1]
    assert len(ticks) <= 6
    more = Ticks()
    assert searched(name, checkpoint=path, search_progress=more) == expected
    assert more[0][0] == done
    assert path.read_bytes() == sums  # which are written once


@pytest.mark.parametrize(
    "at",
    [
        "univfast.all_pairs.AllPairsCorrelation.co_moments",
        "univfast.runs.checkpoint.SavedRun.save_search",
    ],
    ids=["before it", "as its end is saved"],
)
def test_a_signal_beside_a_search(at: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected, path = searched("best"), tmp_path / "run.pt"
    owner, name = pkgutil.resolve_name(at.rpartition(".")[0]), at.rpartition(".")[2]
    does = getattr(owner, name)

    def interrupted(*given: Any) -> Any:
        interrupt()
        return does(*given)

    with monkeypatch.context() as patched:
        patched.setattr(at, interrupted)
        with pytest.raises(Interrupted, match=r"are saved in"):
            searched("best", checkpoint=path)
    ticks = Ticks()
    assert searched("best", checkpoint=path, search_progress=ticks) == expected
    assert (ticks[0] == ticks[-1]) == (name == "save_search")


def test_an_interrupt_does_not_wait_for_an_assignment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assign = "univfast.search.assignment.largest_sum"
    monkeypatch.setattr(assign, slowly(assign, 5.0))
    start = time.monotonic()
    with pytest.raises(Interrupted):
        searched("one-to-one", checkpoint=tmp_path / "run.pt", search_progress=Ticks(0, interrupt))
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("name", SOME)
def test_a_search_is_of_one_checkpoint(name: str, tmp_path: Path) -> None:
    path, other = tmp_path / "run.pt", tmp_path / "other.pt"
    left(path, name)
    left(other, name, 0.2)
    mine = torch.load(beside(path), weights_only=True)
    assert mine["checkpoint"] == torch.load(path, weights_only=True)["digest"]
    # Of the same sums under another name it says as much; of others, nothing.
    torch.save(sealed({**mine, "checkpoint": "0" * 64}), beside(path))
    ticks = Ticks()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert searched(name, checkpoint=path, search_progress=ticks) == searched(name)
    assert ticks[0][0] == 0


@pytest.mark.slow
def test_the_next_checkpoint_removes_the_search_before(tmp_path: Path) -> None:
    path, there = tmp_path / "run.pt", dict[int, bool]()
    options = {**SEARCHES["best"], "reverse": False, "memory_limit": 200e3}

    def look(done: int, total: int) -> None:
        there[done] = beside(path).exists()

    uf.correlate(*pair("best"), **options, checkpoint=path, checkpoint_every=0, progress=look)
    assert len(torch.load(path, weights_only=True)["plan"]) == 2
    # Told of the first slice of the second pass, nothing of it is saved.
    assert [done for done, exists in there.items() if exists] == [300, 364]
    assert {x.name for x in tmp_path.iterdir()} == {f"run.pt{x}" for x in SUFFIXES}


@pytest.mark.slow
@pytest.mark.parametrize("sealed_anew", [False, True], ids=["as it is", "sealed anew"])
@pytest.mark.parametrize("name", SOME)
def test_a_damaged_search_begins_anew_with_one_warning(
    name: str, sealed_anew: bool, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    left(path, name)
    content = torch.load(beside(path), weights_only=True)
    expected = searched(name)
    every = 131 if sealed_anew else 97
    for i, (where, edited) in enumerate(edits(content)):
        if i % every:
            continue
        try:
            torch.save(sealed(edited) if sealed_anew else edited, beside(path))
        except Exception:  # what no file can hold
            continue
        ticks = Ticks()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = searched(name, checkpoint=path, search_progress=ticks)
        said = [str(each.message) for each in caught]
        assert len(said) <= 1, where
        assert all(x.startswith(f"{beside(path)}: ") and "\n" not in x for x in said), where
        assert not said or ticks[0][0] == 0, where
        # Sealed anew, what was found can be other numbers that are as good.
        changed = ("/found", "/tensors", "/done", "/job", "/work")
        assert found == expected or (sealed_anew and where.startswith(changed)), where


def test_a_search_in_sums_of_before_is_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    left(path, "best", 0.0)
    beside(path).unlink(missing_ok=True)
    content = {**torch.load(path, weights_only=True), "version": 2}
    del content["digest"]
    torch.save(content, path)
    with pytest.raises(Interrupted):
        searched("best", checkpoint=path, search_progress=Ticks(4, interrupt))
    ticks = Ticks()
    assert searched("best", checkpoint=path, search_progress=ticks) == searched("best")
    assert ticks[0][0] > 0


def test_a_search_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    left(path, "best")
    os.truncate(beside(path), beside(path).stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"cannot be read as .*; the search of this pass begins"):
        assert searched("best", checkpoint=path) == searched("best")


# ---- shared --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")  # as torchrun's processes have, which go on from these sums
def test_processes_find_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {}
    for name in SEARCHES:
        path = tmp_path / f"{name}.pt"
        expected[name] = searched(name, checkpoint=path)
        beside(path).unlink()
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    out = finished(torchrun(3, TESTS / "support" / "search_ranks.py", tmp_path))
    assert "".join(out.split()) == "done" * 3  # lines of several processes may be mixed
    assert "dealt" in torch.load(tmp_path / "dealt.pt", weights_only=True)["plan"][0]
    for name, numbers_of_one in expected.items():
        for count in (2, 3):
            assert (tmp_path / f"{name}-{count}.txt").read_text() == numbers_of_one, (name, count)


SLOW = """
import sys, time
from support.searched import small
small()
from univfast.runs import searching
from univfast.search.partners import PartnersWork
searching._ROUND = 0.1
do = PartnersWork._do
def slowly(self, *given):
    time.sleep(0.1)
    return (yield from do(self, *given))
PartnersWork._do = slowly
from univfast.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_processes_are_interrupted_and_die_in_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    for name, model in zip("ab", pair("best"), strict=True):
        torch.save(model, tmp_path / f"{name}.pt")
    slow, path, out = tmp_path / "slow.py", tmp_path / "run.pt", tmp_path / "out"
    slow.write_text(SLOW)
    command = ["correlate", tmp_path / "a.pt", tmp_path / "b.pt", "--checkpoint", path]
    command += ["--checkpoint-every", "0", "--draws", "2", "--out", out]
    process = torchrun(2, slow, *command)
    searching(process, path)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.count("Interrupted") == 1  # though both are
    assert f" pairs, which are saved in {path}: the same command goes on" in err

    process = torchrun(3, slow, *command)
    searching(process, path, written_at(beside(path)))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "another one died or does not answer" in err
    assert not out.exists()

    # Gone on with by one, the search finds what it finds in the same sums from its beginning.
    files = [str(tmp_path / f"{name}.pt") for name in "ab"]
    sums = tmp_path / "sums.pt"
    shutil.copy(path, sums)
    ticks, whole = Ticks(), Ticks()
    found = uf.correlate(*files, draws=2, checkpoint=path, search_progress=ticks)
    expected = uf.correlate(*files, draws=2, checkpoint=sums, search_progress=whole)
    assert numbers(found) == numbers(expected)
    assert ticks[0][0] > whole[0][0] == 0


def searching(process: subprocess.Popen[str], path: Path, before: int | None = None) -> None:
    """Waits until a search was saved anew."""
    while written_at(beside(path)) in (None, before):
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]
