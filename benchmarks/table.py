"""Tables of ratios: ``python benchmarks/table.py SAVED.json`` prints them as Markdown.

``SAVED.json`` comes from ``pytest benchmarks --benchmark-only --benchmark-json SAVED.json``. The
same tables stand at the end of every run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown(benchmarks: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    """A table a group and the size of what it measured, and a line that says on what machine.

    Args:
        benchmarks: entries of ``benchmarks`` in pytest-benchmark's JSON.
        machine: its ``machine_info``.
    """
    floors = {
        _floor(b["extra_info"]): b["stats"]["median"]
        for b in benchmarks
        if b["extra_info"]["line"] == b["extra_info"]["floor"]
    }
    groups: dict[str, list[dict[str, Any]]] = {}
    for b in benchmarks:
        groups.setdefault(b["group"], []).append(b)
    parts = [_group(name, members, floors) for name, members in groups.items()]
    return "\n\n".join([*parts, _conditions(benchmarks, machine)])


def _floor(info: dict[str, Any]) -> tuple[str, str, str]:
    """What a line is compared with: the floor of its name, for the same data."""
    return info["floor"], info["dtype"], info["size"]


def _group(
    name: str, members: list[dict[str, Any]], floors: dict[tuple[str, str, str], float]
) -> str:
    medians = {b["extra_info"]["line"]: b["stats"]["median"] for b in members}
    rows = []
    for b in sorted(members, key=lambda b: b["stats"]["median"]):
        median, info = b["stats"]["median"], b["extra_info"]
        error = info.get("max_error")
        rows.append(
            (
                info["line"],
                f"{median * 1e3:,.1f}",
                _ratio(median, floors.get(_floor(info))),
                _ratio(median, medians.get(info["against"])),
                "" if error is None else f"{error:.0e}",
            )
        )
    info = members[0]["extra_info"]
    header = (name, "median, ms", f"{info['floor']}s", "times univfast", "largest error of r")
    return f"{table(header, rows)}\n\n{info['size']}, {info['dtype']}."


def _ratio(time: float, unit: float | None) -> str:
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


def _conditions(benchmarks: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    ours = machine["univfast"]
    reads = {b["extra_info"]["read"]: None for b in benchmarks if "read" in b["extra_info"]}
    floor = f" Read floor: {', '.join(reads)}." if reads else ""
    return (
        f"{machine['cpu'].get('brand_raw', machine['machine'])}, {ours['cores']} cores,"
        f" SIMD level {ours['simd']}, torch {ours['torch']}, {ours['threads']} threads.{floor}"
    )


def main() -> None:
    saved = json.loads(Path(sys.argv[1]).read_text())
    print(markdown(saved["benchmarks"], saved["machine_info"]))
    print(f"Measured on {saved['datetime'][:10]}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/table.py SAVED.json")
    main()
