"""Progress bars: on stderr, and only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Bar", "progress_bar"]


class Bar(Protocol):
    """Called with how much is done, of how much, and a note to show (such as a loss)."""

    def __call__(self, done: int, total: int, note: float | None = None) -> None: ...


@contextmanager
def progress_bar(name: str, unit: str, quiet: bool) -> Iterator[Bar]:
    """A bar that lasts as long as the block; nothing at all if ``quiet`` or not on a terminal."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and not quiet
    with tqdm(
        desc=name, unit=unit, unit_scale=True, file=sys.stderr, disable=not shown, leave=False
    ) as bar:

        def advance(done: int, total: int, note: float | None = None) -> None:
            if bar.total is None:  # what was done before does not count for the rate
                bar.initial = bar.n = done
            bar.total = total
            if note is not None:
                bar.set_postfix_str(f"loss {note:.3f}", refresh=False)
            bar.update(done - bar.n)

        yield advance
