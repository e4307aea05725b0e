"""What charts are drawn from: the numbers of the result, exactly."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import univfast as uf
from support.made_up import TWO, made_up
from univfast.report.files import load, save_result
from univfast.report.html import report_html
from univfast.report.tables import as_written
from univfast.report.web.arrays import packed
from univfast.report.web.data import AXIS, BIN, listed, page_axis, page_data, thresholds
from univfast.report.web.matches import match_counts_by_layer
from univfast.result import CorrelationResult


def unpacked(values: dict[str, str]) -> Any:
    return np.frombuffer(base64.b64decode(values["data"]), dtype=f"<{values['kind']}")


def by_index() -> CorrelationResult:
    """Of layers that have fewer wrong partners than others, and one that has a single one."""
    g = np.random.default_rng(0)
    a = {f"l{i}": g.standard_normal((60, width)) for i, width in enumerate((12, 4, 2))}
    b = {name: x + 0.7 * g.standard_normal(x.shape) for name, x in a.items()}
    return uf.correlate(a, b, match="index", draws=3, threshold=0.2)


def test_arrays_keep_their_values() -> None:
    values = np.array([[0.1, -0.0], [np.nan, 1e300]])
    np.testing.assert_array_equal(unpacked(packed(values, "f8")).reshape(2, 2), values)
    signed = -np.array([np.nan])  # another NaN
    assert packed(signed, "f8") == packed(np.array([np.nan]), "f8")
    np.testing.assert_array_equal(unpacked(packed([3, -1], "i4")), [3, -1])


def test_thresholds() -> None:
    assert thresholds(0.5) == [i / 100 for i in range(101)]
    assert thresholds(0.125)[12:14] == [0.12, 0.125]
    assert thresholds(-0.5)[:2] == [-0.5, 0.0]
    assert thresholds(3.0)[-1] == 3.0


def test_chance_is_that_of_the_summary() -> None:
    """At its own threshold, and at others that of a result computed with them."""
    g = np.random.default_rng(1)
    a, b = g.standard_normal((40, 9)), g.standard_normal((40, 9))
    results = [by_index(), uf.correlate(a, b, match="best", draws=4, threshold=0.1)]
    for result in results:
        data = page_data(result)
        steps = data["steps"]
        chance = unpacked(data["chance"]).reshape(len(steps), -1)
        own = steps.index(result.summary["threshold"])
        assert abs(chance[own].sum() - result.summary["universal_by_chance"]) < 1e-12
        expected = [layer["universal_by_chance"] or 0.0 for layer in result.summary["layers"]]
        np.testing.assert_allclose(chance[own], expected, rtol=0, atol=1e-12)
    for threshold in (0.0, 0.05, 0.3):
        other = uf.correlate(a, b, match="best", draws=4, threshold=threshold)
        at = thresholds(0.1).index(threshold)
        assert abs(chance[at].sum() - other.summary["universal_by_chance"]) < 1e-12
    assert by_index().summary["universal_by_chance"] > 0


def test_axes_are_fixed_and_widen_for_what_is_outside() -> None:
    result = made_up(40, 5)
    inside = replace(
        result,
        correlation=result.correlation.clamp(0, 0.9),
        baseline=result.baseline.clamp(0, 0.1),
        excess=result.excess.clamp(-0.2, 1.0),
    )
    assert page_axis(inside) == [*AXIS]
    outside = replace(inside, excess=inside.excess.index_fill(0, inside.neuron[:1], -0.23))
    assert page_axis(outside) == [-0.3, 1.0]
    assert page_axis(made_up(12, 0, dead=12)) == [*AXIS]


def test_outlines_are_scaled_to_as_many_neurons() -> None:
    result = made_up(300, 10, dead=20)
    assert result.null_excess is not None
    (outline,) = page_data(result)["nulls"]
    low, high = page_axis(result)
    null = result.null_excess.numpy()
    null = null[~np.isnan(null)]
    edges = low + BIN * np.arange(round((high - low) / BIN) + 1)
    expected = np.histogram(null, np.round(edges, 9))[0] * 280 / len(null)
    np.testing.assert_allclose(outline["bars"], expected)
    assert abs(sum(outline["bars"]) - 280 * (1 - outline["outside"])) < 1e-9


def test_listed_neurons() -> None:
    result = made_up(300, 10, dead=20)
    rows = listed(result)
    assert len(rows) == 280
    assert rows == sorted(rows, key=lambda i: -float(result.excess[i]))
    bare = made_up(300, 10, draws=0)
    assert listed(bare)[0] == int(bare.correlation.argmax())
    assert listed(made_up(12, 0, dead=12)) == []


def test_matches_by_layer_of_each_model() -> None:
    result = made_up(90, 30, others=TWO, match="best")
    first, second = match_counts_by_layer(result)
    assert (first["model"], second["model"]) == ("b.pt", "c.pt")
    for table, model in ((first, result.by_model[0]), (second, result.by_model[1])):
        assert np.sum(table["all"]) == 90
        assert np.sum(table["universal"]) == int(model.universal.sum())
        assert model.mutual is not None
        assert np.sum(table["mutual"]) == int(model.mutual.sum())
    alone = match_counts_by_layer(replace(result, by_model=()))
    assert [one["universal"] for one in alone] == [None, None]
    assert match_counts_by_layer(made_up(20, 3)) == []


def test_it_is_json_without_nan() -> None:
    json.dumps(page_data(made_up(30, 3, dead=5, match="best")), allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dead": 7}, {"others": TWO}])
def test_what_was_read_back_whole_draws_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    result = made_up(60, 10, match="best", **options)
    save_result(result, tmp_path, published=False)
    assert report_html(load(tmp_path), pictures={}) == report_html(as_written(result), pictures={})
