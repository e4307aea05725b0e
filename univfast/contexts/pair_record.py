"""A pair of neurons as a record: what it holds, as JSON, and read from JSON with checks."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "KINDS",
    "Example",
    "ExplanationRecord",
    "FeatureRecord",
    "PairRecord",
    "as_count",
    "as_list",
    "as_text",
    "line_json",
    "parsed_record",
    "record_json",
    "rounded",
]

KINDS = ("top", "match_top", "only", "match_only")
"""Why an example is one: it is among the highest of A's neuron, or of its match; or it is high in
A's neuron where its match is at or below its mean, or the reverse."""

_MOST_NUMBER = 2**63 - 1


@dataclass(frozen=True)
class FeatureRecord:
    """A feature of the tokens, and the share of a neuron's variance that it explains."""

    family: str
    feature: str
    r2: float


@dataclass(frozen=True)
class ExplanationRecord:
    """What explains a neuron best.

    Attributes:
        family: of the best feature, where it explains half; "mixture" where several do together;
            None where nothing does.
        feature, r2: the best one.
        r2_together: of all ``features`` in one regression; None where that was not computed.
        features: the best ones, each with its own r2.
    """

    family: str | None
    feature: str
    r2: float
    r2_together: float | None
    features: tuple[FeatureRecord, ...]


@dataclass(frozen=True)
class Example:
    """A window of tokens around one of them, with both neurons' values at each.

    Attributes:
        kinds: why it is here, of `KINDS`.
        token: the number of the marked token in the run.
        sample, position: where that stands; None where samples are not known.
        at: its index in the lists below, which are all of one length.
        ids: token ids; None where they are not known.
        tokens: their text; None where no text is known.
        activation, match_activation: of A's neuron and of its match; None where they are no finite
            number, at tokens that a mask leaves out.
    """

    kinds: tuple[str, ...]
    token: int
    sample: int | None
    position: int | None
    at: int
    ids: tuple[int, ...] | None
    tokens: tuple[str, ...] | None
    activation: tuple[float | None, ...]
    match_activation: tuple[float | None, ...]

    def values(self, of_match: bool) -> list[float]:
        """Activations of A's neuron, or of its match; 0 where they are no finite number."""
        found = self.match_activation if of_match else self.activation
        return [0.0 if value is None else value for value in found]

    @property
    def place(self) -> str:
        """Where the marked token is, in words."""
        if self.sample is None or self.position is None:
            return f"token {self.token:,}"
        return f"sample {self.sample:,}, position {self.position:,}"


@dataclass(frozen=True)
class PairRecord:
    """A neuron of A and its match.

    Attributes:
        model: the name of the model that the match is in.
        layer, neuron, match_layer, match_neuron: both neurons.
        correlation, excess: as the result has them; None where there is none.
        universal, learned: so too; ``learned`` is None without controls.
        explanation, match_explanation: of both neurons; None where token ids are not known.
        examples: windows around tokens, of each kind from the highest on.
    """

    model: str
    layer: str
    neuron: int
    match_layer: str
    match_neuron: int
    correlation: float | None
    excess: float | None
    universal: bool
    learned: bool | None
    explanation: ExplanationRecord | None
    match_explanation: ExplanationRecord | None
    examples: tuple[Example, ...]


def record_json(record: PairRecord, plain: bool = False) -> str:
    """A record as a line of the file, without the line end.

    Activations have 6 significant digits. Where it is to be ``plain``, all characters are ASCII,
    and printable.
    """
    found = asdict(record)
    for example in found["examples"]:
        for name in ("activation", "match_activation"):
            example[name] = [rounded(value) for value in example[name]]
    return line_json(found, plain)


def rounded(value: float | None) -> float | None:
    """An activation to 6 significant digits; None where it is no finite number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def line_json(value: object, plain: bool = False) -> str:
    """A value as JSON, of characters that UTF-8 has."""
    text = json.dumps(value, ensure_ascii=plain, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # names of files need not be text, nor half a token
        return json.dumps(value, allow_nan=False)
    return text


def parsed_record(found: dict[str, Any]) -> PairRecord:
    """The record of an object that was JSON. Raises ValueError or KeyError where it is none."""
    return PairRecord(
        model=as_text(found["model"]),
        layer=as_text(found["layer"]),
        neuron=as_count(found["neuron"]),
        match_layer=as_text(found["match_layer"]),
        match_neuron=as_count(found["match_neuron"]),
        correlation=_number_or_none(found["correlation"], 1),
        excess=_number_or_none(found["excess"], 2),
        universal=_flag(found["universal"]),
        learned=None if found["learned"] is None else _flag(found["learned"]),
        explanation=_explanation(found["explanation"]),
        match_explanation=_explanation(found["match_explanation"]),
        examples=tuple(_example(_object(one)) for one in as_list(found, "examples")),
    )


def _explanation(found: object) -> ExplanationRecord | None:
    if found is None:
        return None
    whole = _object(found)
    features = (_object(one) for one in as_list(whole, "features"))
    family = None if whole["family"] is None else as_text(whole["family"])
    return ExplanationRecord(
        **{**_feature({**whole, "family": ""}), "family": family},
        r2_together=_number_or_none(whole["r2_together"], 1),
        features=tuple(FeatureRecord(**_feature(one)) for one in features),
    )


def _feature(found: dict[str, Any]) -> dict[str, Any]:
    r2 = _number(found["r2"], 1)
    return {"family": as_text(found["family"]), "feature": as_text(found["feature"]), "r2": r2}


def _example(found: dict[str, Any]) -> Example:
    kinds = tuple(as_text(kind) for kind in as_list(found, "kinds"))
    if not kinds or len({*kinds}) < len(kinds) or not {*kinds} <= {*KINDS}:
        raise ValueError(f"kinds {list(kinds)!r}")
    ids = None if found["ids"] is None else _counts(as_list(found, "ids"))
    tokens = None if found["tokens"] is None else _texts(as_list(found, "tokens"))
    values, of_match = (_values(as_list(found, x)) for x in ("activation", "match_activation"))
    if len({len(one) for one in (ids, tokens, values, of_match) if one is not None}) > 1:
        raise ValueError("the lists of an example differ in length")
    at = as_count(found["at"])
    if at >= len(values):
        raise ValueError(f"at {at}, of {len(values)} tokens")
    sample, position = (
        None if found[name] is None else as_count(found[name]) for name in ("sample", "position")
    )
    token = as_count(found["token"])
    return Example(kinds, token, sample, position, at, ids, tokens, values, of_match)


# Of lists, whose values are many, all are looked at at once; what is wrong is then said of one.
def _counts(values: list[Any]) -> tuple[int, ...]:
    whole = {*map(type, values)} <= {int}
    if whole and min(values, default=0) >= 0 and max(values, default=0) <= _MOST_NUMBER:
        return tuple(values)
    return tuple(map(as_count, values))


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(values) if {*map(type, values)} <= {str} else tuple(map(as_text, values))


def _values(values: list[Any]) -> tuple[float | None, ...]:
    if {*map(type, values)} <= {float} and all(map(math.isfinite, values)):
        return tuple(values)
    return tuple(map(_number_or_none, values))


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("something is no JSON object")
    return value


def as_list(found: dict[str, Any], name: str) -> list[Any]:
    """The list of that name. Raises ValueError where it is none."""
    if not isinstance(found[name], list):
        raise ValueError(f"{name} is no list")
    return found[name]  # type: ignore[no-any-return]


def as_text(value: object) -> str:
    """The value, a text. Raises ValueError where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} where a text belongs")
    return value


def as_count(value: object) -> int:
    """The value, a number from 0 on. Raises ValueError where it is none."""
    if type(value) is not int or not 0 <= value <= _MOST_NUMBER:
        raise ValueError("something is no number of 0 or more")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("something is neither true nor false")
    return value


def _number(value: object, most: float = math.inf) -> float:
    """A finite number, in size at most this (and its rounding)."""
    if type(value) not in (int, float):
        raise ValueError(f"a {type(value).__name__} where a number belongs")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number) or abs(number) > most + 1e-6:
        raise ValueError(f"the number {number}")
    return number


def _number_or_none(value: object, most: float = math.inf) -> float | None:
    return None if value is None else _number(value, most)
