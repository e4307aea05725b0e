"""Writes `choices.md`: what can be chosen, as it is registered and declared.

python docs/tables.py > docs/choices.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from univfast import options
from univfast.columns import PUBLISHED, WEIGHTS, Column, Only, Table, columns_of
from univfast.docstrings import described
from univfast.inputs.formats import FORMATS
from univfast.inputs.stores import STORES
from univfast.nulls.kinds import ROTATIONS
from univfast.search.matchings import MATCHINGS

_TABLES: tuple[Table, ...] = ("neurons", "matches", "top")
# What a column needs, in words.
_ONLY: dict[Only, str] = {
    "models": " (several models)",
    "controls": " (with controls)",
    "details": " (with details)",
    "weights": " (with weights)",
}


def page() -> str:
    """The page, in Markdown."""
    parts = [
        "# What can be chosen\n\nWritten by `python docs/tables.py`; a test keeps it current.",
        _section(
            "Matchings", "`match=`, `--match`", ("name", "a neuron of A goes with"), _matchings()
        ),
        _section("Rotations", "`rotation=`, `--rotation`", ("name", "what it is"), _rotations()),
        _section(
            "Options", "Of `univfast.correlate`", ("Python", "default", "what it is"), _options()
        ),
        _section("Files", "Of activations, told by their content", ("suffix", "holds"), _formats()),
        _section(
            "Directories",
            "That other tools wrote ([stores.md](stores.md)), told by what is in them",
            ("kind", "holds"),
            [(store.name, store.help) for store in STORES.values()],
        ),
        *(_columns(table, columns_of(table, _ONLY.keys())) for table in _TABLES),
        _columns("published", PUBLISHED.values()),
        _columns("weights", WEIGHTS.values()),
    ]
    return "\n\n".join(parts) + "\n"


def _section(
    title: str, note: str, head: Sequence[str], rows: Iterable[Sequence[str]], level: int = 2
) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{'#' * level} {title}\n\n{note}:\n\n{table}"


def _matchings() -> list[tuple[str, str]]:
    return [(f"`{one.name}`", one.help) for one in MATCHINGS.values()]


def _rotations() -> list[tuple[str, str]]:
    return [(f"`{one.name}`", f"{one.help}. {one.meaning}") for one in ROTATIONS.values()]


def _options() -> list[tuple[str, str, str]]:
    declared = options.declared(options.CorrelateOptions)
    return [
        (f"`{name}`", f"`{option.default!r}`", described(option))
        for name, (_, option) in declared.items()
    ]


def _formats() -> list[tuple[str, str]]:
    return [(", ".join(f"`{x}`" for x in one.suffixes), one.help) for one in FORMATS.values()]


def _columns(table: str, columns: Iterable[Column]) -> str:
    rows = [
        (
            f"`{one.name}`",
            one.dtype,
            one.meaning + _ONLY.get(one.only, ""),
            str(one.since),
        )
        for one in columns
    ]
    head = ("column", "holds", "what it is", "since schema")
    return _section(f"Columns of {table}.csv", "In this order", head, rows)


if __name__ == "__main__":
    print(page(), end="")
