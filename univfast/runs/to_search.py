"""What is searched behind a pass."""

from __future__ import annotations

from typing import NamedTuple

from univfast.search.searches import Searches
from univfast.sums.co_moments import CoMoments

__all__ = ["ToSearch"]


class ToSearch(NamedTuple):
    """The sums of a pass, and what takes in what is found in them.

    Attributes:
        sums: of some layers of two models, each with the searches of these, over all passes.
        searches: all of the pass, in whatever process, in one order.
        dealt: each process has sums of its own; else all are in process 0.
    """

    sums: list[tuple[Searches, CoMoments]]
    searches: list[Searches]
    dealt: bool
