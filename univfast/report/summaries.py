"""What a summary holds: the kind of each of its values, for those that were edited or damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

from univfast.columns import SCHEMA
from univfast.method import Sums
from univfast.nulls.kinds import ROTATIONS
from univfast.search.matchings import MATCHINGS

__all__ = ["check_summary"]

_LARGEST = 2**63 - 1

# Whether a value is of a kind.
Kind = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= _LARGEST
    return isinstance(value, float) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _share(value: Any) -> bool:
    """A correlation, or a mean of some or of differences of two."""
    return _number(value) and abs(value) <= 2


def _maybe(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def _each(kind: Kind, least: int = 0) -> Kind:
    return lambda value: (
        isinstance(value, list) and len(value) >= least and all(kind(one) for one in value)
    )


def _having(**kinds: Kind) -> Kind:
    return lambda value: isinstance(value, dict) and not _wrong(value, kinds)


def _wrong(values: dict[str, Any], kinds: dict[str, Kind]) -> list[str]:
    return [name for name, kind in kinds.items() if name not in values or not kind(values[name])]


_BY_CHANCE: dict[str, Kind] = {
    "universal": _count,
    "universal_by_chance": _maybe(_number),
    "chance_counts": _maybe(_each(_number, least=1)),
    "fdr": _maybe(_number),
}
_MEANS: dict[str, Kind] = {
    f"mean_{name}": _maybe(_share) for name in ("correlation", "baseline", "excess")
}
_DETAILS = _having(
    follow_token=_maybe(_count),
    beyond_token_and_position=_maybe(_count),
    few_tokens=_count,
    few=_count,
    blocks=_count,
)
_CONTROLS = _having(
    tokens=_count,
    margin=_number,
    flagged_a=_each(_number),
    flagged_b=_each(_number),
    flagged_both=_each(_number),
    more_than_controls=_flag,
    smallest_p=_maybe(_number),
    warnings=_each(_text),
)
_LAYER = _having(
    layer=_text,
    neurons=_count,
    dead=_count,
    universal=_count,
    universal_by_chance=_maybe(_number),
    universal_by_control=_maybe(_number),
    learned=_maybe(_count),
    **_MEANS,
)
_FOUND: dict[str, Kind] = {
    "checked": _count,
    "found": _count,
    "shortfall": _share,
}
_SCREEN = _having(
    **_FOUND,
    tokens=_count,
    by_activity=_count,
    candidates=_count,
    chosen_alone=_maybe(_text),
    missed_limit=_maybe(_share),
    thirds=_each(_having(**_FOUND, lowest=_number, highest=_number, limit=_maybe(_share))),
    above=_having(**_FOUND, r=_number, limit=_maybe(_share)),
    rare=_count,
    few=_count,
)
_METHOD = _having(
    sums=lambda value: _text(value) and value in get_args(Sums),
    products=_each(_text),
    largest_error=_number,
    dealt=_maybe(_having(layers=_count, processes=_count, passes=_count)),
)
_COUNTED = _having(
    model=_text,
    dead=_count,
    unmatched=_count,
    mutual=_maybe(_count),
    universal=_count,
    universal_partners=_maybe(_count),
    universal_by_chance=_maybe(_number),
    chance_counts=_maybe(_each(_number, least=1)),
    universal_by_control=_maybe(_number),
    learned=_maybe(_count),
    **_MEANS,
)
_NAMES = _each(_text, least=1)


def _model(value: Any) -> bool:
    return _COUNTED(value) and ("screen" not in value or _SCREEN(value["screen"]))


def _match_table(value: Any) -> bool:
    if not _having(rows=_NAMES, columns=_NAMES, counts=_each(_each(_count)))(value):
        return False
    rows, columns, counts = value["rows"], value["columns"], value["counts"]
    return len(counts) == len(rows) and all(len(row) == len(columns) for row in counts)


_SUMMARY: dict[str, Kind] = {
    "univfast": _text,
    "models": _each(_text, least=2),
    "match": lambda value: _text(value) and value in MATCHINGS,
    "rotation": _having(
        kind=lambda value: _text(value) and value in ROTATIONS, draws=_count, seed=_maybe(_count)
    ),
    "threshold": _number,
    "tokens": _count,
    "neurons": _count,
    "dead": _count,
    "unmatched": _count,
    "universal_partners": _maybe(_count),
    "universal_mutual": _maybe(_count),
    "q_below_0.05": _maybe(_count),
    **_BY_CHANCE,
    **_MEANS,
    "universal_on_control_tokens": _maybe(_count),
    "universal_by_control": _maybe(_number),
    "fdr_control": _maybe(_number),
    "learned": _maybe(_count),
    "learned_by_control": _maybe(_number),
    "controls": _maybe(_CONTROLS),
    "mutual": _maybe(_count),
    "match_layers": lambda value: _each(_maybe(_match_table))(value) or _maybe(_match_table)(value),
    "details": _maybe(_DETAILS),
    "by_index": _maybe(_having(**_BY_CHANCE)),
    "device": _text,
    "seconds": _maybe(_number),
    "layers": _each(_LAYER, least=1),
}
_SOMETIMES: dict[str, Kind] = {
    "schema": lambda value: _count(value) and 3 <= value <= SCHEMA,  # the first two have none
    "shifts": _maybe(_count),
    "versions": _having(python=_text, torch=_text),
    "fingerprints": _each(_maybe(_text), least=2),
    "title": _text,
    "warnings": _each(_text),
    "by_model": _each(_model, least=2),
    "screen": _SCREEN,
    "method": _METHOD,
    "beside": _each(_having(directory=_text, title=_text)),
}

# What the first summaries did not have, and their rows of layers and models.
_LATER = (
    "universal_partners",
    "universal_mutual",
    "universal_on_control_tokens",
    "universal_by_control",
    "fdr_control",
    "learned",
    "learned_by_control",
    "controls",
    "by_index",
    "details",
)
_OF_LAYERS_LATER = ("universal_by_chance", "universal_by_control", "learned")
_OF_MODELS_LATER = (
    "chance_counts",
    "universal_partners",
    "universal_mutual",
    "universal_by_control",
    "learned",
    "details",
)


def check_summary(summary: dict[str, Any]) -> None:
    """Adds what a summary that was written before does not have, None; refuses what is no summary.

    Raises:
        ValueError: a value is missing, of another kind than results have, or does not go with the
            others; names it.
    """
    for name in _LATER:
        summary.setdefault(name, None)
    for rows, names in (("layers", _OF_LAYERS_LATER), ("by_model", _OF_MODELS_LATER)):
        for row in summary.get(rows) or () if isinstance(summary.get(rows), list) else ():
            if isinstance(row, dict):
                row.update({name: row.get(name) for name in names})
    there = {name: kind for name, kind in _SOMETIMES.items() if name in summary}
    for name in _wrong(summary, {**_SUMMARY, **there}):
        raise ValueError(f"{name} is {repr(summary[name])[:80] if name in summary else 'missing'}")
    others = len(summary["models"]) - 1
    several = {"by_model": len(summary.get("by_model", [0])), "match_layers": others}
    if isinstance(summary["match_layers"], list):
        several["match_layers"] = len(summary["match_layers"])
    for name, found in several.items():
        if found != others:
            raise ValueError(f"{name} is of {found} models, models has {others} beside A")
    for name in ("neurons", "dead", "universal"):
        total = sum(layer[name] for layer in summary["layers"])
        if total != summary[name]:
            raise ValueError(f"{name} is {summary[name]}, and {total} in all layers")
