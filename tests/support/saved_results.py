"""Made-up results of every kind, and what is in the directories that they are saved to."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from support.made_up import NAMES, TWO, made_up
from univfast.result import CorrelationResult


def small(**options: Any) -> CorrelationResult:
    return made_up(30, 12, **options)


def with_reverse(match: str = "best") -> CorrelationResult:
    return replace(small(match=match), reverse=made_up(20, 3, match=match, models=["b", "a"]))


CASES = {
    "index": small(dead=3),
    "no draws": small(draws=0),
    "best": small(match="best", dead=3),
    "one-to-one": small(match="one-to-one", dead=2, unmatched=5),
    "several, by index": small(others=(NAMES, NAMES), dead=3),
    "several, best": small(others=TWO, match="best", dead=3),
    "reverse": with_reverse(),
}


def files(folder: Path) -> dict[str, bytes]:
    """Every file, by its path inside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def six(value: float) -> float:
    """With the digits that tables have."""
    return float(f"{value:.6g}")


def as_cells(values: Any) -> Any:
    """Numbers as tables have them, a NumPy array; what is no float as it is."""
    array = np.asarray(values)
    return np.vectorize(six)(array) if array.dtype.kind == "f" else array


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
