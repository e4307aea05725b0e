"""`univfast export`: files for other programs, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.command import error_line, run
from support.contexts import record, write


def test_neuronpedia(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "contexts.jsonl", record(layer="act", match_layer="act"))
    out = tmp_path / "features"
    assert run("export", tmp_path, "--to", "neuronpedia", "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{out}/A-a.pt/act: 1 features", f"{out}/B-b.pt/act: 1 features"]
    batch = json.loads((out / "A-a.pt/act/batch-0.json").read_text())
    assert batch["layer"] == 0
    assert run("export", tmp_path, "--to", "neuronpedia", "--out", out) == 2
    assert "not empty" in error_line(capsys)
    out = tmp_path / "again"
    arguments = ("--to", "neuronpedia", "--out", out, "--layer-number", "act=7")
    assert run("export", tmp_path / "contexts.jsonl", *arguments) == 0
    assert json.loads((out / "B-b.pt/act/batch-0.json").read_text())["layer"] == 7


@pytest.mark.slow
def test_a_result_with_details_tells_more(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    assert run("correlate", *pair, "--details", "--quiet", "--out", out) == 0
    models = json.loads((out / "summary.json").read_text())["models"]
    one = record(0, match_layer="mlp.0", match_neuron=0, model=models[1])
    write(out / "contexts.jsonl", one, models=models)
    assert run("export", out, "--to", "neuronpedia", "--out", tmp_path / "features") == 0
    for name in ("A-a.pt", "B-b.pt"):
        path = tmp_path / "features" / name / "mlp.0" / "batch-0.json"
        (feature,) = json.loads(path.read_text())["features"]
        assert 0.4 < feature["frac_nonzero"] < 0.6  # of normal variables
        (cosine,) = feature["correlated_neurons_l1"]
        assert 0.8 < cosine < 1
    assert run("report", out) == 0
    assert "What they do" in (out / "report.html").read_text()
    capsys.readouterr()
    assert run("show", out, "mlp.0/0") == 0
    assert "Agreement" in capsys.readouterr().out


@pytest.mark.slow  # pyarrow takes a while to import
def test_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "contexts.jsonl", record())
    out = tmp_path / "x.parquet"
    assert run("export", tmp_path, "--to", "parquet", "--out", out) == 0
    assert capsys.readouterr().out == f"Written to {out}: a row an example.\n"
    assert pq.read_table(out).num_rows == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "csv", "--out", "x"], "'--to'"),
        (["--to", "parquet"], "'--out'"),
        (["--out", "x"], "'--to'"),
        (["--to", "neuronpedia", "--out", "x", "--layer-number", "3"], "'3' is no LAYER=N"),
        (["--to", "neuronpedia", "--out", "x", "--layer-number", "a=b"], "'a=b' is no LAYER=N"),
        (["--to", "neuronpedia", "--out", "x", "--layer-number", "a=1"], "layer 'a': has a number"),
        (["--to", "parquet", "--out", "x", "--layer-number", "a=1"], "is for --to neuronpedia"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "contexts.jsonl", record())
    assert run("export", tmp_path, *arguments) == 2
    assert re.search(re.escape(said), error_line(capsys))
    assert [path.name for path in tmp_path.iterdir()] == ["contexts.jsonl"]
