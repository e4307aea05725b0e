"""Natural order of names: ``h.2`` before ``h.10``."""

from __future__ import annotations

import re

__all__ = ["natural_key"]

# Digits as `int` reads them in any length that names have; others are text.
_NUMBERS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts by name, with the numbers in it as numbers; names of the same numbers as text."""
    # Text and numbers take turns in what split returns, so only like is compared with like.
    return [int(part) if i % 2 else part for i, part in enumerate(_NUMBERS.split(name))], name
