"""Pickles that would do something."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Malicious:
    """Unpickling it creates the file that it names."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")
