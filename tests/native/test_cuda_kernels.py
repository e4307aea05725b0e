"""The CUDA kernels' own source, compiled for the CPU and run under sanitizers."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

import pytest

from support.cuda_on_cpu import build
from support.processes import printed, python
from support.shared import made_once
from univfast import _native

pytestmark = pytest.mark.slow

Program = Callable[..., subprocess.CompletedProcess[str]]

# Of a block's shared memory. The least keeps all rows in global memory; every device has 48 KiB.
LEAST, EVERYWHERE = "4096", "49152"
SETTINGS: dict[str, dict[str, str]] = {
    "as on Hopper": {},
    "little shared memory": {"ON_CPU_SHARED_BYTES": LEAST},
    "more multiprocessors": {"ON_CPU_SHARED_BYTES": EVERYWHERE, "ON_CPU_MULTIPROCESSORS": "7"},
    "one multiprocessor": {"ON_CPU_MULTIPROCESSORS": "1"},
}


@pytest.fixture(scope="session")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Runs the program of the checks, built with a sanitizer when that is first asked for."""

    @lru_cache
    def program(sanitizer: str) -> list[str]:
        name = f"checks {sanitizer}"
        made = made_once(tmp_path_factory, name, partial(build.build_checks, sanitizer=sanitizer))
        return build.command(made, sanitizer)

    def run(sanitizer: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        if reason := build.unavailable(sanitizer):
            pytest.skip(reason)
        environment = {name: os.environ[name] for name in os.environ if name[:7] != "ON_CPU_"}
        environment |= settings
        # Looking for leaks needs rights that containers seldom have.
        environment |= {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
        return subprocess.run(
            [*program(sanitizer), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def digest(done: subprocess.CompletedProcess[str]) -> str:
    """Of all bits that were computed, where no check failed and no sanitizer complained."""
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = re.findall(r"^\d+ checks, 0 failed, digest (\w+)$", done.stdout, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("setting", SETTINGS)
def test_memory_and_answers(checks: Program, setting: str) -> None:
    """No memory but the caller's, nothing undefined, and the bits do not depend on the order."""
    forwards = checks(build.ADDRESS, **SETTINGS[setting])
    backwards = checks(build.ADDRESS, ON_CPU_BACKWARDS="1", **SETTINGS[setting])
    assert digest(forwards) == digest(backwards)


@pytest.mark.parametrize("setting", ["as on Hopper", "little shared memory"])
def test_threads(checks: Program, setting: str) -> None:
    digest(checks(build.THREAD, **SETTINGS[setting]))


# ---- what the sanitizers find --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("barrier", "group"),
    [("0", "paired"), ("0", "rotation"), ("0", "pairs"), ("1", "paired"), ("2", "paired")],
)
def test_a_barrier_left_out_is_found(checks: Program, barrier: str, group: str) -> None:
    done = checks(build.THREAD, group, ON_CPU_WITHOUT_BARRIER=barrier)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr


MEMORIES = {
    "paired": "a b keep signs leads lags before after counters",
    "rotation": "x signs output",
    "pairs": "c product row_scale column_scale row_delta column_delta row_inverse column_inverse "
    "skip best best_column column_best best_row",
}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in MEMORIES for name in MEMORIES[group].split()]
)
def test_memory_that_is_too_short_is_found(checks: Program, group: str, name: str) -> None:
    done = checks(build.ADDRESS, group, "--short", name)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


# ---- the whole extension -------------------------------------------------------------------------


def test_the_extension_with_the_cpu_as_device(core_on_cpu: ModuleType) -> None:
    """In a process that has no other extension of that name."""
    assert core_on_cpu.__file__ is not None
    code = (
        "import _native; print(_native.cuda.built_with()); print(*dir(_native), *dir(_native.cuda))"
    )
    done = python(code, PYTHONPATH=str(Path(core_on_cpu.__file__).parent))
    built_with, names = printed(done).splitlines()
    assert built_with == "the CPU in CUDA's place, for tests"
    assert names.split() == [*dir(_native), *dir(_native.cuda)]
