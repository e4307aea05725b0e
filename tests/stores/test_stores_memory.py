"""Stores are read in memory that does not grow with their tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.processes import memory
from univfast.inputs.activations import open_activations

TOKENS, NEURONS, PART = 300_000, 512, 20_000
MIB = 1 << 20


def part(start: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rows = np.arange(start, start + PART, dtype=np.float32)[:, None]
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = rows + np.zeros(
        (1, NEURONS), np.float32
    )
    return found


def parquet(path: Path) -> None:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    schema = pa.schema([("h", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, TOKENS, PART):
            values = pa.array(part(start).ravel())
            ends = pa.array(np.arange(0, PART * NEURONS + 1, NEURONS), pa.int32())
            column = pa.ListArray.from_arrays(ends, values)
            writer.write_table(pa.table({"h": column}, schema=schema), row_group_size=PART)


def hdf5(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        made = file.create_dataset("h", (TOKENS, NEURONS), "f4", chunks=(4000, 64), compression=1)
        for start in range(0, TOKENS, PART):
            made[start : start + PART] = part(start)


@pytest.mark.slow
@pytest.mark.parametrize("write", [parquet, hdf5])
def test_memory_is_bounded(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "a")
    layer = open_activations(tmp_path / "a", "a").layers["h"]
    assert layer.tokens == TOKENS
    layer.release(0, TOKENS)
    before, most = memory("VmRSS"), 0
    for start in range(0, TOKENS, 4096):
        stop = min(start + 4096, TOKENS)
        rows = layer.read(start, stop)
        assert rows[:, 5].tolist() == list(range(start, stop))
        most = max(most, memory("VmRSS") - before)
        layer.release(start, stop)
    assert most < 350 * MIB < TOKENS * NEURONS * 4
