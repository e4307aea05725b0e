"""Progress bars: on stderr, and only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

__all__ = ["Bar", "progress_bar"]


class Bar(Protocol):
    """Called with how much is done, of how much, and a note to show (such as a loss)."""

    def __call__(self, done: int, total: int | None, note: float | None = None) -> None: ...


@contextmanager
def progress_bar(name: str, unit: str, quiet: bool) -> Iterator[Bar]:
    """A bar that lasts as long as the block; nothing at all if ``quiet`` or not on a terminal.

    What goes wrong with it (a terminal that was closed) ends the bar, and not the work.
    """
    bar = None if quiet or sys.stderr is None or not sys.stderr.isatty() else _made(name, unit)

    def advance(done: int, total: int | None, note: float | None = None) -> None:
        nonlocal bar
        if bar is None:
            return
        if bar.total is None:  # what was done before does not count for the rate
            bar.initial = bar.n = done
        bar.total = total
        try:
            if note is not None:
                bar.set_postfix_str(f"loss {note:.3f}", refresh=False)
            bar.update(done - bar.n)
        except (OSError, ValueError):
            bar = None

    try:
        yield advance
    finally:
        if bar is not None:
            with suppress(OSError, ValueError):
                bar.close()


def _made(name: str, unit: str) -> Any:
    """A bar of tqdm; None where the terminal takes none."""
    from tqdm import tqdm

    try:
        return tqdm(desc=name, unit=unit, unit_scale=True, file=sys.stderr, leave=False)
    except (OSError, ValueError):
        return None
