"""Valid calls of the core at random, also under sanitizers."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fuzz import native_calls
from support import ROOT, TESTS
from support.shared import made_once
from univfast import native


@pytest.mark.parametrize("operation", list(native_calls.OPERATIONS))
def test_native_calls(operation: str) -> None:
    for number in range(9):  # the tenth is wide
        native_calls.call(operation, number)


@pytest.mark.slow
def test_every_operation_is_called() -> None:
    operations = {*native.cpu.__all__, *native.candidates.__all__}
    # Those on packed layers, and on entries of sparse features, are called together.
    assert set(native_calls.OPERATIONS) == {*operations, "packed_product", "sparse_features"}
    native_calls.main(["--calls", "600", "--seed", "1"])


Sanitized = tuple[str, Callable[..., subprocess.CompletedProcess[str]]]

COMPILER = shlex.split(os.environ.get("CXX", "")) or ["g++"]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
QUICK = ("-m", "quick")
TESTS_BELOW = ("tests/sums/test_chunks.py", "tests/sums/test_paired_inputs.py")


@pytest.fixture(params=list(SANITIZERS), scope="session")
def sanitized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Sanitized:
    """The name of a sanitizer, and what runs a module with the core that was built with it."""
    name = request.param
    if sys.platform != "linux" or not shutil.which(COMPILER[0]) or not shutil.which("cmake"):
        pytest.skip("needs Linux, GCC and CMake")
    found = [_library(file) for file in (LIBRARIES[name], "libstdc++.so")]
    if not all(map(os.path.isabs, found)):
        pytest.skip(f"needs GCC's {LIBRARIES[name]}")
    core = made_once(tmp_path_factory, f"core {name}", partial(_build, SANITIZERS[name]))
    # Old thread sanitizers do not know the address layouts of new kernels.
    start = ["setarch", platform.machine(), "-R"] if name == "thread" else []

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*start, sys.executable, "-m", "fuzz.with_core", str(core), *arguments],
            env={
                **{name: x for name, x in os.environ.items() if name[:7] != "PYTEST_"},
                "PYTHONPATH": str(TESTS),
                "OMP_NUM_THREADS": "1",  # those of torch's library, which no sanitizer knows
                "LD_PRELOAD": " ".join(found),
                "ASAN_OPTIONS": "detect_leaks=0",
                "TSAN_OPTIONS": "halt_on_error=1",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return name, run


def _library(name: str) -> str:
    """Where the compiler's own one is; its name alone where there is none."""
    command = [*COMPILER, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _build(sanitizer: str, folder: Path) -> Path:
    preset = "tsan" if sanitizer == "thread" else "asan"
    settings = {
        "CMAKE_CXX_COMPILER": COMPILER[0],
        "UNIVFAST_SANITIZE": sanitizer,
        "CMAKE_INSTALL_PREFIX": folder / "installed",
        "Python_EXECUTABLE": sys.executable,
    }
    given = [f"-D{name}={value}" for name, value in settings.items()]
    for command in (
        ["cmake", "--preset", preset, "-B", str(folder / "build"), *given],
        ["cmake", "--build", str(folder / "build"), "--target", "install", "-j", "2"],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (core,) = (folder / "installed").rglob("_native*")
    return core


@pytest.mark.slow
def test_under_sanitizers(sanitized: Sanitized) -> None:
    """No memory but the caller's, nothing undefined, no race; and the answers are right."""
    name, run = sanitized
    programs = [["fuzz.native_calls", "--calls", "500"]]
    if name == "address":  # the other does not bear PyTorch's threads, which tests use
        programs.append(["pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *QUICK, *TESTS_BELOW])
    for arguments in programs:
        done = run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
