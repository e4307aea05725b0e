"""Where matches are: tables of layers of A by layers of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from univfast.result import CorrelationResult

__all__ = ["match_counts_by_layer"]


def match_counts_by_layer(result: CorrelationResult) -> list[dict[str, Any]]:
    """A table a model: all matches, the universal and the mutual ones; none by index.

    ``universal`` and ``mutual`` are None where that is not known: of several models that were read
    back without each by itself.
    """
    stored = result.summary["match_layers"]
    tables = stored if isinstance(stored, list) else [stored]
    models = result.by_model or ((result,) if len(tables) == 1 else ())
    found = []
    for i, table in enumerate(tables):
        if table is None:
            continue
        one = models[i] if i < len(models) else None
        mutual = None if one is None else one.mutual
        found.append(
            {
                "model": result.summary["models"][i + 1],
                "rows": table["rows"],
                "columns": table["columns"],
                "all": table["counts"],
                "universal": None if one is None else _of(one, table, one.universal.numpy()),
                "mutual": None if one is None or mutual is None else _of(one, table, mutual),
            }
        )
    return found


def _of(result: CorrelationResult, table: Mapping[str, Any], chosen: Any) -> list[list[int]]:
    """How many chosen neurons of each row have their match in each column."""
    rows, columns = (
        {name: place for place, name in enumerate(table[side])} for side in ("rows", "columns")
    )
    counts: NDArray[np.int64] = np.zeros((len(rows), len(columns)), dtype=np.int64)
    places = np.flatnonzero(np.asarray(chosen))
    there = [i for i in places.tolist() if result.match_layer[i] in columns]
    np.add.at(
        counts,
        (
            [rows[result.layer[i]] for i in there],
            [columns[result.match_layer[i]] for i in there],
        ),
        1,
    )
    found: list[list[int]] = counts.tolist()
    return found
