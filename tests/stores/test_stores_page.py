"""The commands of `docs/stores.md`, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from stores.test_memmaps import cache
from stores.test_saev import write as write_saev
from support import ROOT
from univfast.cli import main

TEXT = (ROOT / "docs" / "stores.md").read_text()
COMMANDS = re.findall(r"^univfast (.*)$", TEXT, re.MULTILINE)


def write(folder: Path) -> None:
    h5py, zarr, pa = (pytest.importorskip(name) for name in ("h5py", "zarr", "pyarrow"))
    pq = pytest.importorskip("pyarrow.parquet")
    for seed, side in enumerate("ab"):
        x = np.random.default_rng(seed).standard_normal((60, 6)).astype(np.float32)
        pq.write_table(pa.table({"activations": list(x)}), folder / f"{side}.parquet")
        with h5py.File(folder / f"{side}.h5", "w") as file:
            for i in range(2):
                file[f"blocks/{i}/mlp"] = x * (i + 1)
        made = zarr.create_array(folder / f"{side}.zarr", shape=x.shape, dtype=x.dtype)
        made[:] = x
        cache(folder / f"cache_{side}", pytest.importorskip("torch").from_numpy(x), [40, 20])
        write_saev(folder / f"saev_{side}")


@pytest.mark.slow
def test_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        assert main(shlex.split(command)) == 0, (command, capsys.readouterr())
    assert json.loads(Path("results/summary.json").read_text())["tokens"] == 60


@pytest.mark.slow
def test_the_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "stores.md", "exec"), {})
