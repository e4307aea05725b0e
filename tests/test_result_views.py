"""What Python shows of results and accumulators, and parts of a result."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import univfast as uf
from support.made_up import TWO, made_up
from univfast.errors import InputError
from univfast.result import CorrelationResult

RESULT = made_up(40, 12, dead=3, unmatched=2, match="best")


def test_a_result_is_six_lines_with_its_counts() -> None:
    lines = repr(RESULT).splitlines()
    assert len(lines) == 6
    assert lines[0] == "CorrelationResult: a.pt with b.pt, 123,456 tokens"
    assert "12 of 37 live neurons (32.4%), 12 partners" in lines[2]
    assert "no controls" in lines[3]
    assert repr(made_up(40, 0, draws=0, dead=3, match="best")).splitlines()[1:3] == [
        "  settings: match best, rotation none, threshold 0.5",
        "  universal: unknown without a baseline, of 37 live neurons",
    ]
    long = made_up(40, 2, layers=["x" * 300, "\x1b[31m\n"], models=["a" * 500, "b\n"])
    assert all(len(line) < 150 and line.isprintable() for line in repr(long).splitlines())
    assert len(repr(long).splitlines()) == 6


@pytest.mark.parametrize(
    "result",
    [made_up(40, 0), made_up(40, 0, draws=0), made_up(4, 0, dead=4), made_up(40, 5, others=TWO)],
    ids=["none", "no baseline", "dead", "several"],
)
def test_every_result_can_be_shown(result: CorrelationResult) -> None:
    assert len(repr(result).splitlines()) == 6
    assert "None" not in repr(result)
    assert "nan" not in repr(result.top(3))
    assert result._repr_html_().count("<table>") == 2


def test_notebooks_get_tables_with_names_escaped() -> None:
    result = made_up(10, 2, layers=["<b>x</b>", "y"], match="best")
    html = result._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;/0" in html


def test_top_neurons_are_those_with_the_largest_excess() -> None:
    table = RESULT.top(5)
    assert len(table) == 5
    order = np.argsort(-np.nan_to_num(RESULT.excess.numpy(), nan=-np.inf), kind="stable")[:5]
    assert [row.excess for row in table] == RESULT.excess[torch.from_numpy(order)].tolist()
    row, i = table[0], int(order[0])
    assert (row.layer, row.neuron) == (RESULT.layer[i], int(RESULT.neuron[i]))
    assert (row.match_layer, row.match_neuron) == (
        RESULT.match_layer[i],
        int(RESULT.match_neuron[i]),
    )
    assert row.partners[0] == (row.match_layer, row.match_neuron, row.correlation)
    assert len(repr(table).splitlines()) == 6
    assert [x.neuron for x in table[1:3]] == [x.neuron for x in table][1:3]
    assert len(RESULT.top(1_000)) == 35  # those that have a correlation
    assert list(table.to_pandas().index) == [(x.layer, x.neuron) for x in table]
    no_baseline = made_up(40, 12, draws=0).top(3)
    assert [x.correlation for x in no_baseline] == sorted(
        (x.correlation for x in no_baseline), reverse=True
    )
    with pytest.raises(InputError, match=r"^n: got -1"):
        RESULT.top(-1)
    with pytest.raises(TypeError, match=r"^n: expected an int"):
        RESULT.top(1.5)  # type: ignore[arg-type]


def test_a_layer_is_a_part_of_everything() -> None:
    part = RESULT["mlp.1"]
    own = [i for i, name in enumerate(RESULT.layer) if name == "mlp.1"]
    assert len(part) == len(own) == 20
    for name in ("correlation", "baseline", "excess", "universal", "dead", "top_neuron"):
        got, whole = getattr(part, name), getattr(RESULT, name)
        np.testing.assert_array_equal(got.numpy(), whole[own].numpy())
    assert part.null_excess.shape == (5, 20)
    assert part.match_layer == [RESULT.match_layer[i] for i in own]
    assert part.learned is None
    assert part.summary == RESULT.summary["layers"][1]
    assert {row.layer for row in part.top(50)} == {"mlp.1"}
    assert part.to_pandas().index.get_level_values("layer").unique().tolist() == ["mlp.1"]
    assert "20" not in repr(part) or "live" in repr(part)
    assert "mlp.1" in RESULT
    assert "mlp" not in RESULT
    with pytest.raises(KeyError, match=r"no layer 'mlp' in A; there are 'mlp.0', 'mlp.1'"):
        RESULT["mlp"]
    with pytest.raises(TypeError, match=r"^layer: expected the name"):
        RESULT[0]  # type: ignore[index]
    with pytest.raises(AttributeError, match="no 'save'"):
        part.save("x")


def test_results_are_compared_number_by_number() -> None:
    assert len(RESULT) == 40
    same = copy.deepcopy(RESULT)
    same.summary["seconds"] = 99.0
    assert same == RESULT
    assert RESULT != "a result"
    assert made_up(40, 11, dead=3, unmatched=2, match="best") != RESULT
    other = copy.deepcopy(RESULT)
    other.correlation[3] = math.nextafter(float(other.correlation[3]), 2)
    assert other != RESULT
    assert replace(RESULT, mutual=None) != RESULT
    assert copy.deepcopy(made_up(40, 5, others=TWO)) == made_up(40, 5, others=TWO)
    with pytest.raises(TypeError):
        hash(RESULT)
    with pytest.raises(TypeError):
        iter(RESULT)  # type: ignore[call-overload]


def test_accumulators_say_what_they_have() -> None:
    paired = uf.PairedCorrelation(neurons=12, draws=2)
    paired.update(torch.randn(7, 12), torch.randn(7, 12))
    assert repr(paired).splitlines()[0] == "PairedCorrelation: 7 tokens"
    assert "hadamard x 2, seed 0" in paired._repr_html_()
    pairs = uf.AllPairsCorrelation({"<a>": 3}, {"b": 4})
    assert "layers a: <a> (3)" in repr(pairs)
    assert "<a>" not in pairs._repr_html_()
