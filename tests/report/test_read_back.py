"""What is read back of a saved result: every number, partner, model and name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from support.saved_results import CASES, rows, six, small
from univfast.columns import SCHEMA, columns_of
from univfast.errors import InputError
from univfast.report.files import load, save_result
from univfast.result import CorrelationResult

pytestmark = pytest.mark.usefixtures("pictures_of_text")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_read_back(case: str, tmp_path: Path) -> None:
    result = CASES[case]
    save_result(result, tmp_path, published=False)
    loaded = load(tmp_path)
    several = result.correlation_min is not None
    assert several == case.startswith("several")
    for name in [c.name for c in columns_of("neurons", {"models", "controls"}) if c.value is None]:
        got, expected = getattr(loaded, name), getattr(result, name)
        if isinstance(expected, list) or expected is None:
            assert got == expected
        else:
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, [six(x) for x in expected], err_msg=name)
    lost = result.dead | result.correlation.isnan()
    if case not in ("index", "several, by index"):
        assert set(loaded.match_neuron[lost].tolist()) <= {-1}
        assert {loaded.match_layer[i] for i in lost.nonzero()[:, 0].tolist()} <= {""}
    assert loaded.summary == result.summary
    check_partners(loaded, result)
    assert len(loaded.by_model) == len(result.by_model)
    for got, expected in zip(loaded.by_model, result.by_model, strict=True):
        check_partners(got, expected)
        for name in ("correlation", "baseline", "excess", "q_value", "match_neuron"):
            np.testing.assert_array_equal(
                getattr(got, name), [six(x) for x in getattr(expected, name)], err_msg=name
            )
        assert got.universal.equal(expected.universal)
        assert got.dead.equal(expected.dead)
        assert got.verdict()
        for name in ("models", "universal", "universal_by_chance", "mutual", "match_layers"):
            assert got.summary[name] == expected.summary[name]
    assert (loaded.reverse is None) == (result.reverse is None)
    if loaded.reverse is not None and result.reverse is not None:
        check_partners(loaded.reverse, result.reverse)
        assert loaded.reverse.summary == result.reverse.summary


def check_partners(loaded: CorrelationResult, expected: CorrelationResult) -> None:
    """What ``matches.csv`` and ``top.csv`` have, and tables of neurons have not."""
    for name in ("mutual", "top_neuron", "top_layer", "top_correlation"):
        got, right = getattr(loaded, name), getattr(expected, name)
        if right is None:
            assert got is None, name
        elif name == "top_layer":  # where there is none, there is no name
            there = expected.top_neuron.numpy() >= 0
            assert (np.array(got)[there] == np.array(right)[there]).all()
            assert set(np.array(got)[~there].tolist()) <= {""}
        else:
            values = right.double() if right.is_floating_point() else right
            rounded = np.vectorize(six)(values) if right.is_floating_point() else values.numpy()
            np.testing.assert_array_equal(got.numpy(), rounded, err_msg=name)


def test_matches(tmp_path: Path) -> None:
    for case in ("best", "one-to-one", "several, best", "several, by index"):
        result = CASES[case]
        save_result(result, tmp_path, published=False)
        text = (tmp_path / "matches.csv").read_text().splitlines()[0]
        assert text == (
            "model,layer,neuron,match_layer,match_neuron,correlation,baseline,baseline_std,excess,"
            "p_value,q_value,mutual"
        )
        found = rows(tmp_path / "matches.csv")
        models = result.by_model or (result,)
        assert len(found) == 30 * len(models)
        for row, (model, i) in zip(found, ((m, i) for m in models for i in range(30)), strict=True):
            assert row.pop("model") == model.summary["models"][1]
            mutual = "" if model.mutual is None else str(bool(model.mutual[i])).lower()
            assert row.pop("mutual") == mutual
            columns = model.columns()
            for name, cell in row.items():
                value = columns[name][i]
                if name in ("layer", "match_layer"):
                    assert cell == value
                else:
                    np.testing.assert_equal(float(cell), six(value))
        assert {row["match_neuron"] for row in found[-2:]} == {"-1"}


def test_top_partners(tmp_path: Path) -> None:
    for case in ("one-to-one", "several, best"):
        result = CASES[case]
        save_result(result, tmp_path, published=False)
        head = (tmp_path / "top.csv").read_text().splitlines()[0]
        assert head == "model,layer,neuron,rank,match_layer,match_neuron,correlation"
        expected = []
        for model in result.by_model or (result,):
            assert model.top_neuron is not None
            assert model.top_layer is not None
            assert model.top_correlation is not None
            for i, rank in np.argwhere(model.top_neuron.numpy() >= 0).tolist():
                expected.append(
                    {
                        "model": model.summary["models"][1],
                        "layer": model.layer[i],
                        "neuron": str(int(model.neuron[i])),
                        "rank": str(rank + 1),
                        "match_layer": model.top_layer[i][rank],
                        "match_neuron": str(int(model.top_neuron[i, rank])),
                        "correlation": f"{float(model.top_correlation[i, rank]):.6g}",
                    }
                )
        assert rows(tmp_path / "top.csv") == expected
        ranks = [row["rank"] for row in expected]
        assert 0 < ranks.count("2") < ranks.count("1") + 5


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file name need not be UTF-8; commas, quotes and line breaks in names are kept."""
    names = ['a,"b"\n', "$x"]
    models = ["a", "b\udcff.pt"]
    result = small(match="best", layers=names, others=[names], models=models)
    save_result(result, tmp_path, published=True)
    assert load(tmp_path).layer == result.layer
    assert rows(tmp_path / "matches.csv")[0]["model"] == "b?.pt"
    assert {row["match_layer"] for row in rows(tmp_path / "top.csv")} == set(names)
    assert load(tmp_path).summary["models"] == models


def test_a_result_of_a_later_version_is_told(tmp_path: Path) -> None:
    small().save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["schema"] == SCHEMA
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "schema": SCHEMA + 1}))
    with pytest.raises(InputError, match=rf"^{tmp_path}: was written by a later version"):
        load(tmp_path)
    del summary["schema"]  # as of the first two
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert load(tmp_path).layer == small().layer


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("matches.csv", lambda x: x.replace("true", "false", 1), "another number"),
        ("matches.csv", lambda x: x.replace("b.pt", "c.pt"), "its models are not"),
        ("matches.csv", lambda x: "".join(x.splitlines(True)[:-1]), "not the neurons"),
        ("top.csv", lambda x: "\n".join(x.split("\n")[:1] + x.split("\n")[:0:-1][1:]), "models"),
        ("top.csv", lambda x: x.replace(",1,", ",9999999,", 1), "9999999"),
        ("top.csv", lambda x: x.replace("mlp.0", "mlp.7", 1), "mlp.7"),
        ("top.csv", lambda x: x + "b.pt,mlp.0\n", "cells"),
    ],
)
def test_edited_partners_are_refused(
    name: str, edit: Callable[[str], str], message: str, tmp_path: Path
) -> None:
    small(match="best").save(tmp_path)
    (tmp_path / name).write_text(edit((tmp_path / name).read_text()))
    with pytest.raises(InputError, match=rf"(?s)^{tmp_path}: does not hold .*{name}.*{message}"):
        load(tmp_path)


@pytest.mark.slow
def test_large_tables_are_parquet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfast.report.parquet.LARGE", 29)
    CASES["best"].save(tmp_path)
    for name in ("matches", "top"):
        text = pd.read_csv(tmp_path / f"{name}.csv")
        binary = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(binary) == list(text)
        pd.testing.assert_frame_equal(binary, text, check_dtype=False, rtol=1e-5, atol=1e-12)
    monkeypatch.setattr("univfast.report.parquet.LARGE", 30)
    CASES["best"].save(tmp_path)
    assert not (tmp_path / "matches.parquet").exists()
    assert (tmp_path / "top.parquet").exists()
