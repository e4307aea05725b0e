"""How far the work is, on stderr: bars where a person is watching, else a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from univfast.cli.printing import complain

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Bars", "progress_bar", "progress_bars"]

_EVERY = 30.0  # seconds between two lines
_REDRAWN = 0.1  # seconds between two states of the bars

_LARGE = ((1e9, "billion"), (1e6, "million"))
_SHORT = ((1e9, "G "), (1e6, "M "), (1e3, "k "))
_TIMES = ((172_800, 86_400, ".1f", "days"), (7_200, 3_600, ".1f", "h"), (120, 60, ".0f", "min"))


class Bar(Protocol):
    """Called with how much is done, of how much, and a note to show (such as a loss)."""

    def __call__(self, done: int, total: int | None, note: float | None = None) -> None: ...


class Bars(list[Bar]):
    """The bars of some work.

    Attributes:
        say: called with what is being done that no bar counts, with nothing at its end; shown
            beside the bar that was told of last.
    """

    def __init__(self, bars: Sequence[Bar], say: Callable[[str], None]) -> None:
        super().__init__(bars)
        self.say = say


@contextmanager
def progress_bar(name: str, unit: str, quiet: bool) -> Iterator[Bar]:
    """The bar of work that has one phase; as `progress_bars`."""
    with progress_bars(quiet, (name, unit)) as (bar,):
        yield bar


@contextmanager
def progress_bars(quiet: bool, *phases: tuple[str, str]) -> Iterator[Bars]:
    """A bar for each phase of some work, which last as long as the block.

    On a terminal they are drawn; elsewhere a line every 30 seconds says how far the phase at work
    is, and what is being done meanwhile that is not counted. Nothing at all if ``quiet``. What goes
    wrong with it (a terminal that was closed) ends the bars, and not the work.

    Args:
        quiet: show nothing.
        phases: of each its name, and what is counted.
    """
    made = [_Phase(name, unit) for name, unit in phases]
    current = made[0]
    shown = _Nowhere() if quiet or sys.stderr is None else _where(sys.stderr, made)
    last = time.monotonic()

    def bar(phase: _Phase) -> Bar:
        def advance(done: int, total: int | None, note: float | None = None) -> None:
            nonlocal last, current
            current = phase
            # What passed since any phase was told of is this one's.
            now, before = time.monotonic(), last
            last = now
            phase.advance(done, total, now - before, note)
            shown.show(phase, now)

        return advance

    def say(words: str) -> None:
        if words != current.doing:
            current.doing = words
            shown.say(current)

    try:
        yield Bars([bar(phase) for phase in made], say)
    finally:
        shown.close()


@dataclass
class _Phase:
    """How far a phase is.

    Attributes:
        name: of it.
        unit: what is counted.
        done, total: how much is, of how much.
        first: how much was when it was first told of; that does not count for the rate.
        seconds: that it worked since, while other phases waited.
        note: a number to show beside.
        doing: what is being done, where that is not counted.
    """

    name: str
    unit: str
    done: int = 0
    total: int | None = None
    first: int | None = None
    seconds: float = 0.0
    note: float | None = None
    doing: str = ""

    def advance(self, done: int, total: int | None, seconds: float, note: float | None) -> None:
        """Takes what is done, after so many seconds of work."""
        if self.first is None:
            self.first = done
        else:
            self.seconds += seconds
        self.done, self.total, self.note = done, total, note

    def words(self) -> str:
        """All that is known, as a line."""
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{_amount(self.done, self.total)} {self.unit}{share}", *self._pace()]
        return f"{self.name}: {', '.join(parts)}"

    def beside(self) -> str:
        """What a bar does not show."""
        amount = f"{_amount(self.done, self.total)} {self.unit}"
        return ", ".join([*([] if self.first is None else [amount]), *self._pace()])

    def _pace(self) -> Iterator[str]:
        """Rate, time left and the note, as far as they are known."""
        new = self.done - (self.first or 0)
        if new > 0 and self.seconds > 0:
            rate = new / self.seconds
            yield f"{_rate(rate)} {self.unit.split()[0]}/s"
            if self.total is not None and self.done < self.total:
                yield f"{_time((self.total - self.done) / rate)} left"
        if self.note is not None:
            yield f"loss {self.note:.3f}"
        if self.doing:
            yield self.doing


def _amount(done: int, total: int | None) -> str:
    most = done if total is None else total
    size, word = next(((size, f" {word}") for size, word in _LARGE if most >= size), (1, ""))
    digits = ".1f" if word else ".0f"
    parts = [f"{x / size:,{digits}}" for x in (done, total) if x is not None]
    return " of ".join(parts) + word


def _rate(rate: float) -> str:
    size, letter = next(((size, letter) for size, letter in _SHORT if rate >= size), (1, " "))
    value = rate / size
    return f"{value:.0f} {letter}".rstrip() if value >= 10 else f"{value:.2g} {letter}".rstrip()


def _time(seconds: float) -> str:
    for least, unit, digits, name in _TIMES:
        if seconds >= least:
            return f"{seconds / unit:{digits}} {name}"
    return f"{max(seconds, 1):.0f} s"


class _Nowhere:
    """Shows nothing."""

    def show(self, phase: _Phase, now: float) -> None:
        """Shows how far a phase is."""

    def say(self, phase: _Phase) -> None:
        """Shows what is being done in a phase, for as long as it says so."""

    def close(self) -> None:
        """Shows no more."""


class _Lines(_Nowhere):
    """A line every so often."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._said: _Phase | None = None
        self._ended = threading.Event()

    def show(self, phase: _Phase, now: float) -> None:
        if now - self._last >= _EVERY:
            self._last = now
            complain(phase.words())

    def say(self, phase: _Phase) -> None:
        if self._said is None:  # what is not counted is told of by nobody until it has ended
            threading.Thread(target=self._watch, daemon=True).start()
        self._said = phase

    def _watch(self) -> None:
        while not self._ended.wait(max(_EVERY / 10, _REDRAWN)):
            if self._said is not None and self._said.doing:
                self.show(self._said, time.monotonic())

    def close(self) -> None:
        self._ended.set()


def _where(stream: TextIO, phases: Sequence[_Phase]) -> _Nowhere:
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return _Lines()
    return _Drawn(stream, phases)


class _Drawn(_Nowhere):
    """Bars on a terminal, which are gone in the end."""

    def __init__(self, stream: TextIO, phases: Sequence[_Phase]) -> None:
        self._stream = stream
        self._last = -_REDRAWN
        self._bars: Progress | None = _bars(stream)
        self._tasks = {
            phase.name: self._bars.add_task(phase.name, total=None, beside="") for phase in phases
        }
        self._attempt(self._bars.start)

    def show(self, phase: _Phase, now: float) -> None:
        ended = phase.done == phase.total
        if self._bars is None or (now - self._last < _REDRAWN and not ended):
            return
        self._last = now
        self._bars.update(
            self._tasks[phase.name],
            completed=phase.done,
            total=phase.total,
            beside=phase.beside(),
        )
        self._attempt(self._bars.refresh)

    def say(self, phase: _Phase) -> None:
        self._last = -_REDRAWN
        self.show(phase, time.monotonic())

    def close(self) -> None:
        if self._bars is not None:
            self._attempt(self._bars.stop)
        sys.stderr = self._stream

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, ValueError):
            bars, self._bars = self._bars, None
            if bars is not None:
                with suppress(OSError, ValueError):
                    bars.stop()
            sys.stderr = self._stream


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    class Terminal(Console):
        """One whose cursor stays: a signal may end the process before it is shown again."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

        def on_broken_pipe(self) -> None:
            raise  # the error at hand, where rich would end the process

    terminal = Terminal(file=stream, highlight=False)
    width = 24 if terminal.width >= 100 else 12
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=width, table_column=Column(no_wrap=True)),
        TextColumn("{task.percentage:>3.0f}%"),
        # Goes on in lines below where it is long: all else keeps its width.
        TextColumn("{task.fields[beside]}", markup=False, table_column=Column()),
        console=terminal,
        auto_refresh=False,  # by a thread, which fails by itself where the terminal is gone
        transient=True,
        redirect_stdout=False,
    )
