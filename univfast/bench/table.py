"""Tables of times and ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["ratio", "table"]


def ratio(time: float, unit: float | None) -> str:
    """As it stands in a table; empty where there is nothing to compare with."""
    if unit is None:
        return ""
    ratio = time / unit
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown whose columns line up as plain text too: names to the left, numbers to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return f"| {' | '.join([row[0].ljust(widths[0]), *numbers])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *(line(row) for row in cells[1:])])
