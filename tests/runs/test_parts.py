"""The parts of a checkpoint, one a process: found again, or told that they are not those."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import univfast as uf
from univfast.machine.digests import sealed
from univfast.machine.processes import Processes
from univfast.runs.parts import Parts

STATES = [{"tokens": 40, "cross": torch.arange(6.0)}]


class Alike:
    """Stands for processes that all do what this one does."""

    count = 2

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def gather(self, value: object) -> list[object]:
        return [value] * self.count


def parts_at(path: Path, rank: int = 0) -> Parts:
    return Parts(str(path), cast("Processes", Alike(rank)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "run [1].pt"


def files(saved: Path) -> list[str]:
    return sorted(path.name.removeprefix(saved.name) for path in saved.parent.iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_part_is_found_again(rank: int, saved: Path) -> None:
    named = parts_at(saved, rank).save(STATES, 40)
    assert [state["tokens"] for state in named] == [40]
    assert files(saved) == [f".part-{rank + 1}-of-2.1"]
    found = parts_at(saved, rank).load(named)
    assert found is not None
    assert torch.equal(found[0]["cross"], STATES[0]["cross"])
    assert found[0]["tokens"] == 40


def test_those_of_the_checkpoint_before_are_kept(saved: Path) -> None:
    (saved.parent / f"{saved.name}.part-1-of-2.old").touch()
    (saved.parent / f"{saved.name}2.part-1-of-2.1").touch()
    others = files(saved)
    parts = parts_at(saved)
    for generation in (1, 2, 3):
        parts.named(parts.save(STATES, 40))
        kept = {max(generation - 1, 1), generation}
        assert files(saved) == sorted([*others, *(f".part-1-of-2.{i}" for i in kept)])
    last = parts.save(STATES, 40)
    parts.named(STATES)  # the next pass, whose states the checkpoint holds itself
    assert files(saved) == sorted([*others, ".part-1-of-2.3"])
    parts.named(STATES)
    assert files(saved) == sorted(others)
    assert last[0]["generation"] == 4


def test_of_a_run_that_was_killed_before_its_checkpoint_was_written(saved: Path) -> None:
    parts = parts_at(saved)
    named = parts.save(STATES, 40)
    parts.named(named)
    parts.save(STATES, 60)  # and the checkpoint still names the first
    again = parts_at(saved)
    assert again.load(named) is not None
    newest = again.save(STATES, 80)
    assert newest[0]["generation"] == 3
    again.named(newest)
    assert files(saved) == [".part-1-of-2.1", ".part-1-of-2.3"]


def damaged(path: Path, how: str) -> None:
    content = torch.load(path, weights_only=True)
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "flipped":
        content["states"][0]["cross"][3] += 1
        torch.save(content, path)
    elif how == "of another time":
        torch.save(sealed({**content, "generation": 7}), path)
    else:
        torch.save([1, 2], path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "is not there"),
        ("cut", "cannot be read"),
        ("flipped", "is not the one that was written with it"),
        ("of another time", "is not the one that was written with it"),
        ("none", "is none"),
    ],
)
def test_a_lost_part_is_warned_of(how: str, words: str, saved: Path) -> None:
    named = parts_at(saved).save(STATES, 40)
    part = saved.parent / f"{saved.name}.part-1-of-2.1"
    damaged(part, how)
    said = (
        f"{saved}: its part {part} {words}; going on with what was found before, the pass that was"
        " under way starts from its beginning"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$") as warned:
        assert parts_at(saved).load(named) is None
    assert len(warned) == 1


@pytest.mark.parametrize(
    "named",
    [STATES, [], [{"parts": 2}], [{"tokens": 40, "generation": 1, "parts": ["a", "b", "c"]}]],
)
def test_what_names_no_parts_of_these_processes(named: list[Any], saved: Path) -> None:
    with pytest.warns(UserWarning, match="parts of another number of processes; going on"):
        assert parts_at(saved).load(named) is None


def test_a_part_that_cannot_be_written(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = parts_at(saved.parent / "missing" / "run.pt")
    assert "is not a directory; make it" in str(nowhere.check_place())
    assert parts_at(saved).check_place() is None
    with pytest.raises(uf.InputError, match="cannot be written"):
        nowhere.save(STATES, 1)

    def gather(self: Alike, value: object) -> list[object]:
        return [value, None if isinstance(value, str) else value]  # no digest of the other

    monkeypatch.setattr(Alike, "gather", gather)
    with pytest.raises(uf.InputError, match="another process stopped; its message says why"):
        parts_at(saved).save(STATES, 1)
