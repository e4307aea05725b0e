"""Runs that are stopped on purpose."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["StopError", "stopping"]


class StopError(Exception):
    """Stands for whatever ends a process."""


def stopping(after: int) -> Callable[[int, int], None]:
    """A progress callback that ends the run once so many tokens are done, of all passes."""

    def progress(done: int, total: int) -> None:
        if after <= done < total:
            raise StopError

    return progress
