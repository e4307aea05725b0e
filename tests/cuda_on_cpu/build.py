"""Compiles the kernels for the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["build_module", "compiler"]

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi")
KERNELS = [
    CSRC / "cuda" / f"{name}.cu" for name in ("moments", "paired", "pairs", "rotate", "rotated")
]
HOST = [CSRC / "cuda" / "plan.cpp", HERE / "device.cpp"]
CPU = (
    "chunk",
    "dispatch",
    "level_baseline",
    "levels_other",
    "neurons",
    "paired",
    "pairs",
    "rotate",
)


def compiler() -> str:
    """The machine's C++ compiler."""
    return os.environ.get("CXX", "c++")


def build_module(directory: Path) -> Path:
    """The extension, with the plainest CPU core."""
    includes = subprocess.run(
        [sys.executable, "-m", "pybind11", "--includes"], capture_output=True, text=True, check=True
    ).stdout.split()
    sources = [CSRC / "module.cpp", *(CSRC / "cpu" / f"{name}.cpp" for name in CPU)]
    objects = _compile([*KERNELS, *HOST, *sources], directory, includes)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    path = directory / f"_native{suffix}"
    _run([compiler(), "-shared", *map(str, objects), "-pthread", "-o", str(path)])
    return path


def _compile(sources: list[Path], directory: Path, flags: list[str]) -> list[Path]:
    objects = []
    for source in sources:
        target = directory / f"{source.parent.name}_{source.name}.o"
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        command = [compiler(), *FLAGS, "-Wno-unknown-pragmas", f"-I{HERE}", *flags, *language]
        _run([*command, "-c", str(source), "-o", str(target)])
        objects.append(target)
    return objects


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
