"""Tables of rates: ``python benchmarks/device_table.py SAVED.json ...`` prints them as Markdown.

A ``SAVED.json`` comes from ``benchmarks/gpu.sh``, or from ``pytest benchmarks/test_gpu.py
--benchmark-only --benchmark-json SAVED.json``. The same tables stand at the end of every run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from univfast.bench.table import ratio, table


def markdown(benchmarks: Sequence[dict[str, Any]]) -> str:
    """A table a group and the size of what it measured, and a line that says on what device.

    Args:
        benchmarks: entries of ``benchmarks`` in pytest-benchmark's JSON that `DeviceMeasure` made,
            at least one.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for b in benchmarks:
        groups.setdefault(b["group"], []).append(b)
    parts = [_group(name, members) for name, members in groups.items()]
    return "\n\n".join([*parts, _conditions(benchmarks[0]["extra_info"])])


def _group(name: str, members: Sequence[dict[str, Any]]) -> str:
    medians = {b["extra_info"]["line"]: b["stats"]["median"] for b in members}
    rows = []
    for b in members:
        median, info = b["stats"]["median"], b["extra_info"]
        error = info.get("max_error")
        rows.append(
            (
                info["line"],
                f"{median * 1e3:,.2f}",
                _rate(info),
                _share(info),
                ratio(median, medians.get(info["against"])),
                "" if error is None else f"{error:.0e}",
            )
        )
    header = (name, "median, ms", "rate", "of the floor", "times univfast", "largest error of r")
    sizes = dict.fromkeys(b["extra_info"]["size"] for b in members)
    return f"{table(header, rows)}\n\n{'; '.join(sizes)}."


def _rate(info: dict[str, Any]) -> str:
    if not info["rate"]:
        return ""
    if info["floor"].startswith("product"):
        return f"{info['rate'] / 1e12:,.1f} TFLOP/s"
    return f"{info['rate'] / 1e9:,.1f} GB/s"


def _share(info: dict[str, Any]) -> str:
    if info["share"] is None or info["line"] == info["floor"]:
        return ""
    return f"{info['share']:.0%} of {info['floor']}"


def _conditions(info: dict[str, Any]) -> str:
    return (
        f"{info['device']}, driver {info['driver']}, CUDA {info['cuda']}, torch {info['torch']};"
        " GB are 10^9 bytes."
    )


def main() -> None:
    for name in sys.argv[1:]:
        saved = json.loads(Path(name).read_text())
        print(markdown([b for b in saved["benchmarks"] if "share" in b["extra_info"]]))
        print(f"Measured on {saved['datetime'][:10]}.\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/device_table.py SAVED.json ...")
    main()
