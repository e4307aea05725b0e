"""What is searched behind a pass."""

from __future__ import annotations

from typing import NamedTuple

from univfast.search.searches import Searches
from univfast.sums.co_moments import CoMoments

__all__ = ["SearchJob"]


class SearchJob(NamedTuple):
    """The sums of some layers of two models, and what takes in what is found in them.

    Attributes:
        searches: of its models, over all passes.
        state: the sums, in process 0.
    """

    searches: Searches
    state: CoMoments
