"""The table of weights as CSV."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from univfast.report.tables import csv_bytes

if TYPE_CHECKING:
    from univfast.neuron_weights.weight_table import WeightTable

__all__ = ["weights_csv"]


def weights_csv(table: WeightTable) -> bytes:
    """The table, a row a neuron, as `csv_bytes` writes it; a list in a cell is JSON."""
    columns = table.columns()
    cells = [
        [json.dumps(x, ensure_ascii=False) if isinstance(x, list) else x for x in column]
        for column in columns.values()
    ]
    return csv_bytes([*columns], [cells])
