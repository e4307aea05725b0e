"""What memory there is: of the machine, and of the control groups that this process is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import univfast as uf
from univfast.machine import memory

Write = Callable[[str, dict[str, object]], None]

MACHINE = 10**9


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files of a folder under the control groups' root; ``own`` is /proc/self/cgroup."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_available_on_machine", lambda: MACHINE)

    def write(folder: str, files: dict[str, object]) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (tmp_path / folder / name).write_text(f"{value}\n")

    return write


def v2(limit: object, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"anon 5\ninactive_file {cache}\nactive_file 3"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def v1(limit: int, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {cache}"
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": stat,
    }


def test_version_2(groups: Write) -> None:
    groups("", {"own": "0::/job/step"})
    groups("job/step", v2(5000, 2000, cache=700))
    assert memory.available_memory() == 3700


def test_a_group_above_may_have_less(groups: Write) -> None:
    groups("", {"own": "0::/job/step"})
    groups("job/step", v2("max", 2000))
    groups("job", v2(3000, 2500))
    assert memory.available_memory() == 500


def test_version_1(groups: Write) -> None:
    groups("", {"own": "7:cpu,cpuacct:/\n5:memory:/docker/abc\n0::/init"})
    groups("memory/docker/abc", v1(8000, 1000, cache=50))
    groups("memory", v1(9223372036854771712, 10**10))  # its way to say that there is no limit
    assert memory.available_memory() == 7050


def test_a_container_sees_its_group_as_the_root(groups: Write) -> None:
    groups("", {"own": "5:memory:/docker/abc"})
    groups("memory", v1(8000, 1000))
    assert memory.available_memory() == 7000


def test_more_than_the_limit_leaves_nothing(groups: Write) -> None:
    groups("", {"own": "0::/", **v2(1000, 1200)})
    assert memory.available_memory() == 0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"own": "0::/"},
        {"own": "0::/", **v2("max", 1000)},
        {"own": "0::/", **v2(10**12, 1000)},
        {"own": "0::/", "memory.max": 1000},
        {"own": "3:cpu:/", **v2(1000, 10)},
    ],
)
def test_without_a_smaller_limit_it_is_the_machines(
    files: dict[str, object], groups: Write
) -> None:
    groups("", files)
    assert memory.available_memory() == MACHINE


def test_the_default_limit_is_of_the_group(groups: Write) -> None:
    groups("", {"own": "0::/", **v2(10**6, 0)})
    x = {"x": torch.zeros(10, 40)}
    with pytest.raises(uf.InputError, match=r"memory_limit: layer .* the limit is 0.0008 GB"):
        uf.correlate(x, x, match="best")


@pytest.mark.parametrize(
    ("size", "least", "most"),
    [
        (0, "0 GB", "0 GB"),
        (0.047e9, "0.047 GB", "0.047 GB"),
        (47_012_345, "0.047 GB", "0.0471 GB"),
        (123_456_789_012, "123 GB", "124 GB"),
        (9_999_000_000_000, "9,990 GB", "10,000 GB"),
    ],
)
def test_bytes_in_messages(size: float, least: str, most: str) -> None:
    """What is needed is never rounded to less, nor what there is to more."""
    assert (memory.gigabytes(size), memory.needed(size)) == (least, most)


def test_this_machine_says_something() -> None:
    available, machine = memory.available_memory(), memory.machine_memory()
    assert available is None or available > 0
    assert available is None or machine is None or available <= machine
