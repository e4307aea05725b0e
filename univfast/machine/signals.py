"""Signals that ask a process to end: what it does then, and when it waits with it.

Imports little, for a process begins with it (`univfast.__main__`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

__all__ = ["end_at_once", "held", "noted", "unfinished"]

# What is being written, with how to remove it where a signal ends the process: last comes first.
unfinished: dict[str, Callable[[str], object]] = {}

# What a terminal, a batch system or a launcher sends to end a process. Windows lacks the last.
_ENDING: list[int] = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
# Seconds that the main thread may stay in native code, where it handles no signal.
_PATIENCE = 1.0


def end_at_once() -> None:
    """From now on such a signal ends this process, with one line, and leaves nothing half-written.

    Exit status 128 and the signal's number. Signals that are ignored, as in the background, stay
    so. No exception is raised: libraries catch them, and print those that come at a bad time.
    """
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    with suppress(OSError, RuntimeError):  # no more files, or threads: then signals may wait
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> None:
    """Ends the process where the main thread does not come to it: it waits for other processes."""
    while came := os.read(reader, 1):
        time.sleep(_PATIENCE)
        if signal.getsignal(came[0]) is _end:
            _end(came[0], None)


def _end(number: int, frame: FrameType | None) -> None:
    if threading.current_thread() is threading.main_thread():
        for other in _ENDING:
            signal.signal(other, signal.SIG_IGN)
    for path, remove in reversed(list(unfinished.items())):
        with suppress(OSError):
            remove(path)
    named = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    with suppress(OSError):
        start = "\n" if os.isatty(2) else ""  # behind ^C, or a progress bar
        os.write(2, f"{start}Interrupted{named}.\n".encode())
    os._exit(128 + number)


@contextmanager
def noted(repeated: float) -> Iterator[Callable[[], bool]]:
    """Has signals only be noted, so that work can be ended and saved.

    In the main thread, which alone gets signals. A second SIGINT interrupts at once.

    Args:
        repeated: seconds in which a second signal is taken for the first one sent again, as
            launchers do.

    Yields:
        Whether there was one.
    """
    first: float | None = None

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
        elif number == signal.SIGINT and now - first > repeated:
            earlier = before.get(number)
            (earlier if callable(earlier) else signal.default_int_handler)(number, frame)

    with _handled_by(note) as before:
        yield lambda: first is not None


@contextmanager
def held() -> Iterator[None]:
    """A short block that signals do not interrupt: they come after it."""
    came: list[int] = []
    try:
        with _handled_by(lambda number, frame: came.append(number)):
            yield
    finally:
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[dict[int, Any]]:
    """Has a function handle the signals within a block, in the main thread.

    Yields:
        What handled them before, by their numbers.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            earlier = signal.getsignal(number)
            # What is not Python's (None) could not be put back; nohup has SIGHUP be ignored.
            if earlier is None or (number == _ENDING[-1] and earlier is signal.SIG_IGN):
                continue
            before[number] = signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
