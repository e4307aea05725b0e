"""Saved results: read back as written, by other tools too, and never lost to a failure."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import univfast as uf
from support.made_up import FILES, PARTNERS
from support.small_layers import pair, with_dead
from univfast.columns import columns_of
from univfast.errors import InputError
from univfast.report.files import load

COLUMNS = [column.name for column in columns_of("neurons")]


@pytest.mark.parametrize(("match", "more"), [("index", set()), ("best", PARTNERS)])
@pytest.mark.parametrize("options", [{"draws": 3}, {"draws": 1}, {"rotation": "none"}])
def test_what_is_saved_is_read_back_with_six_digits(
    options: dict[str, Any], match: Any, more: set[str], tmp_path: Path
) -> None:
    names = ["mlp,0", 'le "résumé"\n1']  # what a careless CSV writer breaks on
    a, b = (dict(zip(names, x.values(), strict=True)) for x in with_dead())
    b = dict(zip(names, (b[names[1]], b[names[0]]), strict=True))
    result = uf.correlate(a, b, match=match, **options)
    result.save(tmp_path / "new" / "out")
    assert set(os.listdir(tmp_path / "new" / "out")) == FILES | more
    loaded = load(tmp_path / "new" / "out")
    for name in [column.name for column in columns_of("neurons") if column.value is None]:
        got, expected = getattr(loaded, name), getattr(result, name)
        if isinstance(expected, list):
            assert got == expected
        else:
            assert got.dtype == expected.dtype
            rounded = [float(f"{float(x):.6g}") for x in expected]
            np.testing.assert_array_equal(got.numpy(), rounded, err_msg=name)
    assert loaded.summary == result.summary
    if result.null_excess is None:
        assert loaded.null_excess is None
    else:
        assert loaded.null_excess is not None
        np.testing.assert_array_equal(loaded.null_excess.numpy(), result.null_excess.numpy())
    assert loaded.verdict() == result.verdict()


def test_other_tools_can_read_the_files(tmp_path: Path) -> None:
    result = uf.correlate(*with_dead(), match="index", draws=3)
    result.save(tmp_path)
    text = (tmp_path / "neurons.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert len(list(csv.reader(text.splitlines()))) == 28
    frame = pd.read_csv(tmp_path / "neurons.csv")
    pd.testing.assert_frame_equal(
        frame.set_index(["layer", "neuron"]), result.to_pandas(), rtol=5e-6, atol=0
    )
    summary = json.loads(
        (tmp_path / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert summary == result.summary
    for name in ("correlation.png", "excess.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.slow
def test_a_failing_write_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uf.correlate(*pair(), match="index", draws=2).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = uf.correlate(*pair(seed=3), match="index", draws=3)

    real, calls = os.fsync, []

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # the fourth of six files
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot be written .No space left on device.") as caught:
        result.save(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    monkeypatch.setattr("univfast.report.html.report_html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    result.save(tmp_path)
    assert load(tmp_path).summary["rotation"]["draws"] == 3
    assert set(os.listdir(tmp_path)) == FILES


@pytest.mark.slow
def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    result = uf.correlate(*pair(), draws=2)
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=f"^{place}"):
            result.save(place)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report.html: cannot be written"):
        result.save(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["report.html"]
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: (d / "summary.json").unlink(),
        lambda d: (d / "neurons.csv").unlink(),
        lambda d: (d / "summary.json").write_text("{"),
        lambda d: (d / "neurons.csv").write_text("layer,neuron\nx,1\n"),
        lambda d: (d / "neurons.csv").write_bytes((d / "neurons.csv").read_bytes()[:-30]),
        lambda d: (d / "neurons.csv").write_bytes((d / "neurons.csv").read_bytes()[:-7]),
        lambda d: (d / "neurons.csv").write_bytes(b"\xff\xfe\x00"),
    ],
    ids=[
        "no summary",
        "no table",
        "half summary",
        "other columns",
        "cut table",
        "cut row",
        "no text",
    ],
)
def test_spoilt_results_are_refused(spoil: Any, tmp_path: Path) -> None:
    uf.correlate(*pair(), draws=2).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dead", ["a", "b", "second"])
def test_a_model_without_partners_is_read_back(dead: str, tmp_path: Path) -> None:
    live, other = pair()
    constant = torch.ones_like(live)
    others: Any = [live, constant, other] if dead == "second" else constant
    result = (
        uf.correlate(constant, live, draws=2, match="best")
        if dead == "a"
        else uf.correlate(live, others, draws=2, match="best")
    )
    result.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.summary == result.summary
    models, read = (x.by_model or (x,) for x in (result, loaded))
    partners = [int((x.top_correlation > -1).sum()) for x in models]
    assert partners == ([200, 0, 200] if dead == "second" else [0])
    assert [int((x.top_correlation > -1).sum()) for x in read] == partners
    for own, one in zip(models, read, strict=True):
        assert one.top_layer == own.top_layer or one.top_layer == [[]] * len(own)
