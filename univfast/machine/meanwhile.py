"""Work that says nothing until it has ended, in a thread: who waits for it stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from univfast.machine.torch_state import PlainState

__all__ = ["meanwhile"]

R = TypeVar("R")

_LOOK = 0.1  # seconds between two looks


def meanwhile(work: Callable[[], R]) -> Generator[int, None, R]:
    """Yields 0, every so often, until the work has ended; returns what it gave, or raises.

    Where it is left before, nothing waits for the work any more, and it does not keep the process
    alive: it must change nothing that is used elsewhere.
    """
    task = _Task(work)
    while not task.ended():
        yield 0
    return task.result()


class _Task(Generic[R]):
    """Some work in a thread of its own."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._found: list[R] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with PlainState():
                self._found.append(self._work())
        except BaseException as error:  # raised where it is waited for
            self._failure = error

    def ended(self) -> bool:
        self._thread.join(_LOOK)
        return not self._thread.is_alive()

    def result(self) -> R:
        if self._failure is not None:
            raise self._failure
        return self._found[0]
