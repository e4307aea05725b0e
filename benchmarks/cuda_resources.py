"""What each kernel takes of a multiprocessor, as a table: registers, shared memory, local memory.

    python benchmarks/cuda_resources.py [sm_90] [--cuobjdump PATH]

Needs ``cuobjdump`` (of the CUDA toolkit, or ``pip install nvidia-cuda-cuobjdump``) and ``c++filt``.
"""

from __future__ import annotations

import argparse
import re
import subprocess

from univfast import _native

USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
TYPES = {"__nv_bfloat16": "bfloat16", "__half": "float16", "float": "float32", "double": "float64"}


def plain(name: str) -> str:
    """``sum_pairs_kernel<float, float, 4>`` of a demangled kernel, in torch's names of types."""
    name = re.sub(r"\(anonymous namespace\)::|univfast::cuda::|^void ", "", name)
    kernel, _, arguments = re.split(r"\((?!anonymous)", name)[0].partition("<")
    arguments = re.sub(r"\((?:int|bool)\)", "", arguments.rstrip(">"))
    words = [TYPES.get(word, word) for word in arguments.split(", ") if word]
    return kernel.removesuffix("_kernel") + (f"<{', '.join(words)}>" if words else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", nargs="?", default="sm_90")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    arguments = parser.parse_args()
    command = [arguments.cuobjdump, "-arch", arguments.architecture, "-res-usage", _native.__file__]
    found = USAGE.findall(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    if not found:
        raise SystemExit(f"{_native.__file__} has no kernels for {arguments.architecture}")
    mangled = "\n".join(name for name, *_ in found)
    names = subprocess.run(
        ["c++filt"], input=mangled, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    print("| kernel | registers | stack | static shared | local |")
    print("|---|---:|---:|---:|---:|")
    rows = [(plain(name), *usage[1:]) for name, usage in zip(names, found, strict=True)]
    for row in sorted(rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
