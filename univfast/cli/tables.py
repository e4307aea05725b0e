"""Tables and lines that fit the width they are printed on."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from univfast.cli.printing import say, shown
from univfast.contexts.shown import display_width, shorten

__all__ = [
    "Cell",
    "Column",
    "Fitted",
    "coloured",
    "decimal",
    "named",
    "print_flow",
    "print_table",
    "terminal_width",
    "wrapped",
]

_NARROWEST, _WIDEST, _ELSEWHERE = 40, 200, 100
_WIDEST_TEXT = 100  # of sentences, beyond which a line is hard to read
_APART = 3  # columns between the parts of a line
_GAP = 2  # between those of a table


def terminal_width() -> int:
    """Columns to print on: of the terminal, what COLUMNS says, or 100 where there is none."""
    columns = shutil.get_terminal_size((_ELSEWHERE, 24)).columns
    return min(max(columns, _NARROWEST), _WIDEST)


def coloured() -> bool:
    """Whether stdout is a terminal that takes colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


@dataclass(frozen=True)
class Fitted:
    """A cell that is shortened where its column is.

    Attributes:
        fit: gives the text, in at most so many columns.
        most: columns of the whole text.
    """

    fit: Callable[[int], str]
    most: int


Cell = str | Fitted


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: above it.
        least: of cells that are `Fitted` the columns that they keep, at the left; 0 for numbers, of
            which all is shown, at the right.
        extra: where not all columns fit, those of the highest number are left out first; 0 for
            those that stay.
    """

    title: str
    least: int = 0
    extra: int = 0

    def width(self, cells: Iterable[Cell]) -> int:
        """Columns that all of it takes."""
        widths = (x.most if isinstance(x, Fitted) else display_width(x) for x in cells)
        return max(display_width(self.title), *widths)


def named(name: str, alike: Sequence[str] = (), behind: str = "") -> Fitted:
    """A name as a cell, shortened so that it is told from others.

    Args:
        name: as it is; what would move a cursor is escaped.
        alike: the names of its column: what all share is shortened first.
        behind: stands behind it at any width.
    """
    text, others = shown(name), [shown(other) for other in alike]
    room = display_width(behind)

    def fit(width: int) -> str:
        return _short_name(text, others, width - room) + behind

    return Fitted(fit, display_width(text) + room)


def _short_name(name: str, alike: Sequence[str], width: int) -> str:
    if display_width(name) <= width:
        return name
    head, tail = _shared(alike) if len(alike) > 1 else ("", "")
    own = name[len(head) : len(name) - len(tail)]
    room = width - display_width(own)
    if not (head or tail) or room < bool(head) + bool(tail):
        return shorten(own or name, max(width, 0))
    tail = shorten(tail, max(room - display_width(head), room // 2)) if tail else ""
    return shorten(head, room - display_width(tail)) + own + tail


def _shared(names: Sequence[str]) -> tuple[str, str]:
    """How all begin and end, up to the end of a word or number."""
    head = _begin(names)
    return head, _begin([name[len(head) :][::-1] for name in names])[::-1]


def _begin(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # all others stand between
    same = next(
        (i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), len(first)
    )
    while same and first[same - 1].isalnum():
        same -= 1
    return first[:same]


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], total: bool) -> None:
    """Prints a table.

    Args:
        columns: its columns.
        rows: a cell of each column.
        total: whether the last row is one.
    """
    lines, width = list(rows), terminal_width()
    wanted = [column.width(row[i] for row in lines) for i, column in enumerate(columns)]
    least = [min(x.least or most, most) for x, most in zip(columns, wanted, strict=True)]
    used = [i for i, _ in enumerate(columns)]
    while sum(least[i] + _GAP for i in used) - _GAP > width:
        extra = max(used, key=lambda i: columns[i].extra)
        if not columns[extra].extra:
            break
        used.remove(extra)
    room = width - _GAP * (len(used) - 1)
    widths = _shared_out([least[i] for i in used], [wanted[i] for i in used], room)
    cells = [[_text(row[i], own) for i, own in zip(used, widths, strict=True)] for row in lines]
    _render([columns[i] for i in used], widths, cells, total)


def _shared_out(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """Widths between these limits: those that want more share what there is."""
    widths = list(least)
    left = room - sum(widths)
    while left > 0 and (short := [i for i, x in enumerate(widths) if x < most[i]]):
        narrowest = min(short, key=widths.__getitem__)
        widths[narrowest] += 1
        left -= 1
    return widths


def _text(cell: Cell, width: int) -> str:
    return cell.fit(width) if isinstance(cell, Fitted) else cell


def _render(
    columns: Sequence[Column], widths: Sequence[int], rows: Sequence[Sequence[str]], total: bool
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        side: Literal["left", "right"] = "left" if column.least else "right"
        table.add_column(Text(column.title), justify=side, vertical="bottom", width=width)
    for number, row in enumerate(rows):
        style = "bold" if total and number == len(rows) - 1 else None
        table.add_row(*(Text(cell, no_wrap=True) for cell in row), style=style)
    colours, file = coloured(), io.StringIO()
    Console(
        file=file,
        width=sum(widths) + _GAP * len(widths),
        height=len(rows) + 8,
        force_terminal=colours,
        color_system="standard" if colours else None,
        no_color=not colours,
        legacy_windows=False,
    ).print(table)
    for line in file.getvalue().splitlines():
        say(line.rstrip(), styled=colours)


def print_flow(parts: Iterable[str]) -> None:
    """Prints parts that stay whole beside each other; lines that follow are set in."""
    for line in _flow(parts, terminal_width()):
        say(line)


def _flow(parts: Iterable[str], width: int) -> Iterator[str]:
    """Lines of parts, three columns apart."""
    line = ""
    for part in parts:
        if line and display_width(line) + _APART + display_width(part) > width:
            yield line
            line = "  " + part
        else:
            line += " " * _APART * bool(line) + part
    if line:
        yield line


def wrapped(text: str) -> str:
    """Sentences, in lines that fit."""
    import click

    return click.wrap_text(text, width=min(terminal_width(), _WIDEST_TEXT))


def decimal(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A number as a table has it: no minus before zeros, and a dash where there is none."""
    if value is None or value != value:
        return "-"
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text if float(value.__round__(digits)) else text.replace("-", "+" if signed else "")
