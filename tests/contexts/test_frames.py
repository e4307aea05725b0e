"""Records as tables: a row an example, with pandas and as Parquet."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest

import univfast as uf
from support.contexts import example, record, write
from univfast.contexts.frames import write_parquet
from univfast.errors import InputError

COLUMNS = [
    *("model", "layer", "neuron", "match_layer", "match_neuron", "correlation", "excess"),
    *("universal", "learned", "family", "feature", "r2", "match_family", "match_feature"),
    *("match_r2", "kinds", "token", "sample", "position", "at", "ids", "tokens", "activation"),
    "match_activation",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    unknown = record(
        7,
        explanation=None,
        match_explanation=None,
        learned=True,
        examples=[example(50, ids=None, tokens=None)],
    )
    odd = record(8, examples=[example(51, tokens=["\ud800"] * 7)])
    return write(tmp_path / "contexts.jsonl", record(), unknown, odd, record(9, examples=[]))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package were not installed."""
    real = builtins.__import__

    def importing(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.slow  # pandas takes a second to import
def test_pandas(path: Path) -> None:
    records = uf.load_contexts(path.parent)
    assert [one.neuron for one in records] == [3, 7, 8, 9]
    table = uf.contexts_to_pandas(records)
    assert list(table.columns) == COLUMNS
    assert table["neuron"].tolist() == [3, 3, 7, 8]
    assert table["token"].tolist() == [40, 60, 50, 51]
    both = ["top", "match_top"]
    assert table["kinds"].tolist() == [both, ["only"], both, both]
    assert table["activation"][0] == [0.0, 0.3, 0.0, 1.5, 0.0, 0.75, 0.0]
    assert table["r2"].isna().tolist() == [False, False, True, False]
    assert table["match_r2"][0] == 0.84
    assert table["tokens"][2] is None
    assert table["tokens"][3] == ["?"] * 7
    assert uf.contexts_to_pandas([]).columns.tolist() == COLUMNS


@pytest.mark.slow
def test_parquet(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("univfast.contexts.frames._AT_ONCE", 1)
    write_parquet(path, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [row["neuron"] for row in rows] == [3, 3, 7, 8]
    assert rows[2]["learned"] is True
    assert rows[2]["tokens"] is rows[2]["feature"] is None
    assert rows[0]["match_activation"] == [0.0, 0.0, 4.0, 20.0, 0.0, 0.0, 1.0]
    write_parquet(write(tmp_path / "none.jsonl"), tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").schema == table.schema


@pytest.mark.slow
def test_parquet_is_whole_or_not_there(path: Path, tmp_path: Path) -> None:
    with open(path, "a") as file:
        file.write("{\n")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match="line 6: "):
        write_parquet(path, tmp_path / "x.parquet")
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_not_installed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pandas")
    with pytest.raises(ImportError, match="contexts_to_pandas needs pandas: pip install"):
        uf.contexts_to_pandas([])
    without(monkeypatch, "pyarrow")
    with pytest.raises(InputError, match="parquet: needs pyarrow to be written; pip install"):
        write_parquet(path, tmp_path / "x.parquet")
