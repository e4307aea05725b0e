"""Arrays as base64, which a page reads without parsing numbers."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from torch import Tensor

__all__ = ["Packed", "packed"]

Packed = dict[str, str]
Kind = Literal["f8", "f4", "i4", "u1"]


def packed(values: Any, kind: Kind) -> Packed:
    """Numbers, or a tensor of them, as ``{"kind": ..., "data": base64}``; little-endian, row-major.

    Args:
        values: of any shape; what reads them knows it.
        kind: ``f8``, ``f4``, ``i4`` or ``u1``: a float or an integer of so many bytes.
    """
    array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = np.array(array, dtype=f"<{kind}", order="C")
    if kind in ("f8", "f4"):
        array[np.isnan(array)] = np.nan  # one of the many, so that equal values are equal bytes
    data = array.tobytes()
    return {"kind": kind, "data": base64.b64encode(data).decode("ascii")}
