"""Tables of ratios: ``python benchmarks/table.py SAVED.json ...`` prints them as Markdown.

A ``SAVED.json`` comes from ``pytest benchmarks --benchmark-only --benchmark-json SAVED.json``. The
same tables stand at the end of every run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from univfast.bench.table import ratio, table

# Groups whose lines stay as they were measured; the others are sorted by time.
_IN_ORDER = ("paired, time by width", "paired, threads")


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
    if name not in _IN_ORDER:
        members = sorted(members, key=lambda b: b["stats"]["median"])
    for b in members:
        median, info = b["stats"]["median"], b["extra_info"]
        error = info.get("max_error")
        rows.append(
            (
                info["line"],
                f"{median * 1e3:,.1f}",
                ratio(median, floors.get(_floor(info))),
                ratio(median, medians.get(info["against"])),
                "" if error is None else f"{error:.0e}",
            )
        )
    info = members[0]["extra_info"]
    header = (name, "median, ms", f"{info['floor']}s", "times univfast", "largest error of r")
    return f"{table(header, rows)}\n\n{info['size']}, {info['dtype']}."


def _conditions(benchmarks: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    ours = machine["univfast"]
    reads = {b["extra_info"]["read"]: None for b in benchmarks if "read" in b["extra_info"]}
    floor = f" Read floor: {', '.join(reads)}." if reads else ""
    return (
        f"{machine['cpu'].get('brand_raw', machine['machine'])}, {ours['cores']} cores,"
        f" SIMD level {ours['simd']}, torch {ours['torch']}, {ours['threads']} threads.{floor}"
    )


def main() -> None:
    for name in sys.argv[1:]:
        saved = json.loads(Path(name).read_text())
        print(markdown(saved["benchmarks"], saved["machine_info"]))
        print(f"Measured on {saved['datetime'][:10]}.\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/table.py SAVED.json ...")
    main()
