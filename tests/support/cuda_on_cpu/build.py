"""Compiles the CUDA kernels' own source for the CPU, with the C++ compiler of this machine."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"

ADDRESS = "address,undefined"
THREAD = "thread"

# All but what asks the CUDA runtime about devices, in whose place device.cpp stands.
_KERNELS = [path for path in sorted((CSRC / "cuda").glob("*.cu")) if path.stem != "device"]
_KERNELS += [CSRC / "cuda" / "plan.cpp"]
# The CPU core at its plainest level, which every processor has.
_OTHER_LEVELS = {"level_avx2", "level_avx512", "level_avx512bf16", "levels_x86"}
_CORE = [path for path in sorted((CSRC / "cpu").glob("*.cpp")) if path.stem not in _OTHER_LEVELS]

_FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-I", str(HERE)]
_FLAGS += ["-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas", "-Wno-psabi"]
_AT_ONCE = 2  # compilers: each takes some 300 MB

_PROBE = """
#include "fibers.h"
int main() { return static_cast<int>(sizeof(_Float16)) - 2; }
"""


def _compiler() -> list[str]:
    """The command, from CXX where that is set; empty where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    return next((command for command in candidates if shutil.which(command[0])), [])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr:
        print(shlex.join(command), done.stdout, done.stderr, sep="\n")
    done.check_returncode()


def _sanitized(sanitizer: str) -> list[str]:
    return [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g"] if sanitizer else []


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@lru_cache
def _probe(sanitizer: str) -> tuple[str, list[str]]:
    """Why nothing can be built and run here, or "", and what to start programs with."""
    compiler = _compiler()
    if not compiler:
        return "needs a C++ compiler", []
    with TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cpp"), str(Path(folder, "probe"))
        source.write_text(_PROBE)
        flags = [*_FLAGS, *_sanitized(sanitizer)]
        if not _runs([*compiler, *flags, str(source), "-o", program]):
            with_it = f" and the sanitizers {sanitizer}" if sanitizer else ""
            return f"needs a C++ compiler with C++20, _Float16{with_it}, and ucontext", []
        # Old thread sanitizers do not know the address layouts of new kernels.
        for start in ([], ["setarch", platform.machine(), "-R"]):
            if (not start or shutil.which(start[0])) and _runs([*start, program]):
                return "", start
    return f"programs with the sanitizers {sanitizer} do not run here", []


def unavailable(sanitizer: str = "") -> str:
    """Why the kernels cannot be built and run here, in one line; empty where they can."""
    return _probe(sanitizer)[0]


def command(program: Path, sanitizer: str) -> list[str]:
    """What runs a program that was built with a sanitizer."""
    return [*_probe(sanitizer)[1], str(program)]


def _compile(directory: Path, sources: Iterable[Path], flags: list[str]) -> list[str]:
    """The object files of some sources."""

    def one(number: int, source: Path) -> str:
        target = directory / f"{number}-{source.stem}.o"  # both halves have files of one name
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        _run([*_compiler(), *_FLAGS, *flags, *language, "-c", str(source), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(one, number, source) for number, source in enumerate(sources)]
        return [task.result() for task in tasks]


def build_module(directory: Path) -> Path:
    """The whole extension, ``_native``, with the CPU in the place of the one CUDA device."""
    import pybind11

    includes = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]]
    sources = [CSRC / "module.cpp", HERE / "device.cpp", *_KERNELS, *_CORE]
    objects = _compile(directory, sources, includes)
    module = directory / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    linking = ["-shared", "-pthread"]
    if sys.platform == "darwin":
        linking += ["-undefined", "dynamic_lookup"]
    _run([*_compiler(), *linking, *objects, "-o", str(module)])
    return module


def build_checks(directory: Path, sanitizer: str) -> Path:
    """The program of ``checks.cpp``, under ``ADDRESS`` or ``THREAD``."""
    flags = _sanitized(sanitizer)
    objects = _compile(directory, [*_KERNELS, *sorted(HERE.glob("checks*.cpp"))], flags)
    program = directory / "checks"
    _run([*_compiler(), *flags, "-pthread", *objects, "-o", str(program)])
    return program
