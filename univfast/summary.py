"""What the summary of a result holds, key by key: that of ``summary.json``."""

from __future__ import annotations

from typing import Any, TypedDict

from univfast.method import Method

__all__ = [
    "ByIndexSummary",
    "ControlsSummary",
    "DetailsSummary",
    "LayerSummary",
    "MatchTable",
    "ModelSummary",
    "RotationSummary",
    "ScreenSummary",
    "Summary",
]


class RotationSummary(TypedDict):
    """The rotations of the baseline."""

    kind: str
    draws: int
    seed: int | None


class Means(TypedDict):
    """Means over neurons with a match; None where there are none, or no baseline."""

    mean_correlation: float | None
    mean_baseline: float | None
    mean_excess: float | None


class LayerSummary(Means):
    """A layer of A. None for counts that are not known."""

    layer: str
    neurons: int
    dead: int
    universal: int
    universal_by_chance: float | None
    universal_by_control: float | None
    learned: int | None


class MatchTable(TypedDict):
    """How many neurons of each layer of A have their match in each layer of B."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


class DetailsSummary(TypedDict):
    """What details say of universal neurons; None for what is not known."""

    follow_token: int | None
    beyond_token_and_position: int | None
    few_tokens: int
    few: int
    blocks: int


class ByIndexSummary(TypedDict):
    """Beside a search, what neuron i with neuron i gives."""

    universal: int
    universal_by_chance: float | None
    chance_counts: list[float] | None
    fdr: float | None
    mean_correlation: float | None


class ControlsSummary(TypedDict):
    """Networks that learned nothing: their names, and how many neurons each flags."""

    a: list[str]
    b: list[list[str]]
    tokens: int
    margin: float
    flagged_a: list[float]
    flagged_b: list[float]
    flagged_both: list[float]
    more_than_controls: bool
    not_compared: int
    smallest_p: float | None
    active: list[float | None]
    active_in_controls: list[list[float]]
    warnings: list[str]


class ScreenThird(TypedDict):
    """A third of the neurons that were searched whole, by effective tokens in the sample."""

    lowest: float
    highest: float
    checked: int
    found: int
    limit: float | None
    shortfall: float


class ScreenAbove(TypedDict):
    """Those of the neurons that were searched whole whose highest r is above ``r``."""

    r: float
    checked: int
    found: int
    limit: float | None
    shortfall: float


class ScreenSummary(TypedDict):
    """How pairs were screened, and what was missed of those neurons that were searched whole.

    ``tokens`` of the sample, ``by_activity`` of them where rare neurons are active; ``found`` of
    the neurons ``checked`` had their best match among the candidates, so that at most
    ``missed_limit`` of all are missed (95%, Clopper and Pearson), by ``shortfall`` of r at most;
    ``rare`` live neurons rest on fewer than ``few`` effective tokens of the sample;
    ``chosen_alone`` says why it was screened, where nobody asked.
    """

    tokens: int
    by_activity: int
    candidates: int
    chosen_alone: str | None
    checked: int
    found: int
    missed_limit: float | None
    shortfall: float
    thirds: list[ScreenThird]
    above: ScreenAbove
    rare: int
    few: int


class _Screened(TypedDict, total=False):
    """Of what was screened."""

    screen: ScreenSummary


class ModelSummary(Means, _Screened):
    """One of several other models by itself."""

    model: str
    neurons: int
    dead: int
    unmatched: int
    mutual: int | None
    universal: int
    universal_partners: int | None
    universal_mutual: int | None
    universal_by_chance: float | None
    chance_counts: list[float] | None
    universal_by_control: float | None
    learned: int | None
    details: DetailsSummary | None
    fdr: float | None


class Versions(TypedDict):
    """Of what computed it."""

    python: str
    torch: str


class _Sometimes(_Screened, total=False):
    """What not every result has."""

    by_model: list[ModelSummary]
    fingerprints: list[str | None]
    sources: dict[str, dict[str, str]]
    hooks: list[dict[str, object]]
    text: dict[str, Any]
    families: list[dict[str, Any]]
    site: str
    title: str
    beside: list[dict[str, str]]


# One key is no name: this form takes it.
_Q = TypedDict("_Q", {"q_below_0.05": int | None})


class Summary(Means, _Q, _Sometimes):
    """All of a result; None for what was not asked for, or cannot be known.

    ``unmatched`` neurons are live and have no partner; ``universal_partners`` are the different
    matches of universal neurons; ``match_layers`` is a table, or one of each of several models.
    """

    univfast: str
    schema: int
    versions: Versions
    models: list[str]
    match: str
    rotation: RotationSummary
    shifts: int | None
    threshold: float
    tokens: int
    neurons: int
    dead: int
    unmatched: int
    universal: int
    universal_partners: int | None
    universal_mutual: int | None
    universal_by_chance: float | None
    chance_counts: list[float] | None
    fdr: float | None
    universal_on_control_tokens: int | None
    universal_by_control: float | None
    fdr_control: float | None
    learned: int | None
    learned_by_control: float | None
    controls: ControlsSummary | None
    mutual: int | None
    match_layers: MatchTable | list[MatchTable | None] | None
    details: DetailsSummary | None
    by_index: ByIndexSummary | None
    method: Method
    device: str
    seconds: float | None
    layers: list[LayerSummary]
    warnings: list[str]
