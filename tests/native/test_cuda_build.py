"""The CUDA backend: what a build has of it, and how CMake decides. None of this needs a device."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import ROOT
from support.processes import printed, python
from univfast import _native, native

# What the project needs of pybind11 to be configured; the real one is only there while pip builds.
PYBIND11 = """
function(pybind11_add_module name)
  add_library(${name} ${ARGN})
endfunction()
"""

ABSENT = "/nowhere/nvcc"
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc") or ""
needs_cmake = pytest.mark.skipif(
    not (shutil.which("cmake") and (shutil.which("ninja") or shutil.which("make"))),
    reason="needs CMake, and Ninja or make",
)
needs_nvcc = pytest.mark.skipif(not NVCC, reason="needs a CUDA compiler")


# ---- this build ----------------------------------------------------------------------------------


def test_what_the_build_has() -> None:
    built_with = native.cuda_built_with()
    if built_with is None:
        assert native.cuda_unavailable() == "this build has no CUDA"
        assert native.cuda_devices() == []
    else:
        assert re.fullmatch(r"\d+\.\d for \w+( \w+)*", built_with)
        assert bool(native.cuda_unavailable()) or native.cuda_devices()


@pytest.mark.slow
@pytest.mark.skipif(native.cuda_built_with() is None, reason="this build has no CUDA")
def test_hidden_devices_are_none() -> None:
    code = "from univfast import native; print(native.cuda_devices(), native.cuda_unavailable())"
    found = printed(python(code, CUDA_VISIBLE_DEVICES=""))
    assert re.fullmatch(r"\[\] (no driver|no device|the driver is older .+)\n", found)


@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_the_extension_loads_without_a_driver() -> None:
    done = subprocess.run(["ldd", _native.__file__], capture_output=True, text=True, check=True)
    assert "libc" in done.stdout
    assert "cuda" not in done.stdout


# ---- the decision --------------------------------------------------------------------------------


def configure(folder: Path, nvcc: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs CMake in ``folder``, with CUDACXX set to ``nvcc``, up to where it would build."""
    (folder / "pybind11Config.cmake").write_text(PYBIND11)
    environment = {**os.environ, "CUDACXX": nvcc}
    environment.pop("CUDAARCHS", None)
    command = ["cmake", "-S", str(ROOT), "-B", str(folder / "build"), f"-Dpybind11_DIR={folder}"]
    command += ["-G", "Ninja" if shutil.which("ninja") else "Unix Makefiles"]
    command += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def compiled(folder: Path) -> dict[str, str]:
    """The sources of csrc/cuda/ that were configured, and how each is compiled."""
    units = json.loads((folder / "build" / "compile_commands.json").read_text())
    sources = {Path(unit["file"]): unit["command"] for unit in units}
    return {path.name: command for path, command in sources.items() if path.parent.name == "cuda"}


@needs_cmake
def test_an_unknown_value_is_an_error(tmp_path: Path) -> None:
    done = configure(tmp_path, ABSENT, "-DUNIVFAST_CUDA=yes")
    assert done.returncode != 0
    assert "UNIVFAST_CUDA is 'yes', and must be AUTO, ON or OFF" in done.stderr


@needs_cmake
def test_on_without_a_compiler_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = configure(tmp_path, ABSENT, "-DUNIVFAST_CUDA=ON")
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "UNIVFAST_CUDA is ON, but no CUDA compiler was found" in message
    assert "CUDACXX" in message
    assert "README.md" in message


@needs_cmake
def test_auto_without_a_compiler_builds_without(tmp_path: Path) -> None:
    done = configure(tmp_path, ABSENT)
    assert done.returncode == 0, done.stderr
    assert "Without CUDA: no CUDA compiler was found" in done.stdout
    assert set(compiled(tmp_path)) == {"absent.cpp"}


@pytest.mark.slow
@needs_cmake
@needs_nvcc
def test_a_compiler_is_found_where_an_earlier_run_found_none(tmp_path: Path) -> None:
    assert configure(tmp_path, ABSENT).returncode == 0
    done = configure(tmp_path, NVCC)
    assert done.returncode == 0, done.stderr
    assert "device.cu" in compiled(tmp_path)
    assert "absent.cpp" not in compiled(tmp_path)
    assert configure(tmp_path, NVCC, "-DUNIVFAST_CUDA=OFF").returncode == 0
    assert set(compiled(tmp_path)) == {"absent.cpp"}


@pytest.mark.slow
@needs_cmake
@needs_nvcc
@pytest.mark.parametrize(
    ("options", "codes", "told"),
    [
        ([], ["sm_80", "compute_90,sm_90"], "sm_80 sm_90 ptx_90"),
        (["80-virtual;86-real"], ["compute_80", "sm_86"], "ptx_80 sm_86"),
    ],
)
def test_architectures(tmp_path: Path, options: list[str], codes: list[str], told: str) -> None:
    defines = [f"-DCMAKE_CUDA_ARCHITECTURES={option}" for option in options]
    done = configure(tmp_path, NVCC, "-DUNIVFAST_CUDA=ON", *defines)
    assert done.returncode == 0, done.stderr
    command = compiled(tmp_path)["device.cu"]
    assert re.findall(r",code=\[?([\w,]+)", command) == codes
    assert told in command


@pytest.mark.slow
@needs_cmake
@needs_nvcc
def test_a_compiler_without_cpp20_does_not_serve(tmp_path: Path) -> None:
    old = tmp_path / "nvcc"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "release 11.8, V11.8.89" || exec {NVCC} "$@"\n'
    )
    old.chmod(0o755)
    done = configure(tmp_path, str(old), "-DUNIVFAST_CUDA=ON")
    assert done.returncode != 0
    assert "is of CUDA 11.8, and C++20 needs CUDA 12" in " ".join(done.stderr.split())
    done = configure(tmp_path, str(old), "-DUNIVFAST_CUDA=AUTO")
    assert done.returncode == 0, done.stderr
    assert set(compiled(tmp_path)) == {"absent.cpp"}
