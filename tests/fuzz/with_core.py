"""Runs a module with another build of the core: ``python -m fuzz.with_core CORE MODULE [ARGS]``."""

from __future__ import annotations

import importlib.util
import runpy
import sys


def main() -> None:
    _, core, module, *arguments = sys.argv
    name = "univfast._native"
    spec = importlib.util.spec_from_file_location(name, core)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)  # found before the installed one
    spec.loader.exec_module(sys.modules[name])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
