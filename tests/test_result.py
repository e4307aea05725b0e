"""The result itself: as a table, and as pictures."""

from __future__ import annotations

import matplotlib.figure
import pytest

import univfast as uf
from support.made_up import HEADER
from support.small_layers import pair, with_dead
from univfast.columns import columns_of
from univfast.errors import InputError

FLOATS = ("correlation", "baseline", "baseline_std", "excess", "p_value", "q_value")
COLUMNS = [column.name for column in columns_of("neurons")]


def test_to_pandas() -> None:
    result = uf.correlate(*with_dead(), draws=3)
    frame = result.to_pandas()
    assert frame.index.names == ["layer", "neuron"]
    assert ["layer", "neuron", *frame.columns] == list(COLUMNS)
    assert len(frame) == 27
    row = frame.loc[("mlp.1", 2)]
    assert row["correlation"] == result.correlation[22]
    assert row["match_layer"] == "mlp.1"
    assert frame["dead"].dtype == bool
    assert frame["universal"].sum() == result.summary["universal"]
    assert frame.loc[("mlp.0", 3), list(FLOATS)].isna().all()


def test_columns_are_those_of_the_contract() -> None:
    assert ",".join(COLUMNS) == HEADER


@pytest.mark.slow
def test_plot() -> None:
    result = uf.correlate(*pair(), draws=2)
    for figure in (result.plot(), result.plot("correlation"), result.plot("excess")):
        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure.axes
    with pytest.raises(
        InputError, match="kind: got 'heat', this result has 'correlation', 'excess'"
    ):
        result.plot("heat")
