"""Assignments of one model's neurons to another's, each to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["largest_sum"]


def largest_sum(r: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of the assignment whose sum of r is largest, by SciPy's solver."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(r, maximize=True)
    return rows, columns
