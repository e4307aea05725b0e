"""What neurons are matched with where networks that learned nothing take a side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.columns import COLUMNS
from univfast.nulls.controls import ControlStatistics, Trial, Trials, control_statistics
from univfast.nulls.statistics import statistics
from univfast.result import CorrelationResult
from univfast.search.matches import Matches

if TYPE_CHECKING:
    from univfast.runs.comparisons import Comparison, Lineup

__all__ = ["ControlMatches", "control_counts", "shifted_of", "with_controls"]


@dataclass(frozen=True)
class ControlMatches:
    """What neurons are matched with where networks that learned nothing take a side.

    Attributes:
        tokens: that all of it was measured on.
        margin: over controls, of a neuron that is learned.
        names_a: of the controls of A; empty where there are none.
        names_b: of each control of the others, one for each of them; so too.
        real: of A in each other model.
        a: of each control of A, in each other model.
        b: of A, in each control of the others.
        both: of each control of A, in that of each other model.
        activity: how active models and controls are, for the summary.
    """

    tokens: int
    margin: float
    names_a: Sequence[str]
    names_b: Sequence[Sequence[str]]
    real: Sequence[Matches]
    a: Sequence[Sequence[Matches]]
    b: Sequence[Sequence[Matches]]
    both: Sequence[Sequence[Matches]]
    activity: dict[str, Any]

    @staticmethod
    def of(
        lineup: Lineup,
        found: Mapping[Comparison, Matches],
        tokens: int,
        margin: float,
        activity: dict[str, Any],
    ) -> ControlMatches:
        """What the comparisons of a task with controls found, on so many tokens."""

        def those(comparisons: Sequence[Comparison]) -> list[Matches]:
            return [found[one] for one in comparisons]

        controls = lineup.rounds[1:]
        names = [model.name for model in lineup.models]
        return ControlMatches(
            tokens,
            margin,
            [names[one.a[0].first] for one in controls if one.a],
            [[names[x.second] for x in one.b] for one in controls if one.b],
            # Where there are fewer tokens for controls, the real ones were compared on these again.
            those(lineup.rounds[0].real),
            [those(one.a) for one in controls if one.a],
            [those(one.b) for one in controls if one.b],
            [those(one.both) for one in controls if one.both],
            activity,
        )

    def swapped(self) -> ControlMatches:
        """As it is seen from B, whose controls come first then; of two models."""
        return replace(
            self,
            names_a=[names[0] for names in self.names_b],
            names_b=[[name] for name in self.names_a],
            a=self.b,
            b=self.a,
            activity=self._activity_of([1, 0]),
        )

    def of_model(self, i: int) -> ControlMatches:
        """Those of one of the other models."""

        def only(trials: Sequence[Sequence[Matches]]) -> list[list[Matches]]:
            return [[matches[i]] for matches in trials]

        return replace(
            self,
            names_b=[[names[i]] for names in self.names_b],
            real=[self.real[i]],
            a=only(self.a),
            b=only(self.b),
            both=only(self.both),
            activity=self._activity_of([0, i + 1]),
        )

    def _activity_of(self, models: Sequence[int]) -> dict[str, Any]:
        """How active some models and their controls are, in that order; all warnings."""
        names = ("active", "active_in_controls")
        chosen = {name: [self.activity[name][i] for i in models] for name in names}
        return {**self.activity, **chosen}

    def statistics(
        self, widths: Sequence[int], threshold: float, universal: Tensor
    ) -> tuple[ControlStatistics, Trials]:
        """What follows for neurons of layers of these widths, ``universal`` on all tokens."""

        def trial(matches: Sequence[Matches]) -> Trial:
            return _trial(matches, widths, threshold)

        trials = Trials(
            trial(self.real),
            [trial(matches) for matches in self.a],
            [trial(matches) for matches in self.b],
            [trial(matches) for matches in self.both],
        )
        return control_statistics(trials, universal, self.margin), trials


def _trial(matches: Sequence[Matches], widths: Sequence[int], threshold: float) -> Trial:
    """The matches of a network, real or not, and what follows of them."""
    correlations = torch.stack([m.correlation for m in matches])
    rotated = torch.stack([m.rotated for m in matches])
    stats = statistics(correlations, rotated, widths, threshold, shifted_of(matches))
    places = [m.place for m in matches if m.place is not None]
    backs = [m.back for m in matches if m.back is not None]
    return Trial(correlations, stats.baseline, stats.universal, torch.stack(places), backs)


def shifted_of(matches: Sequence[Matches]) -> Tensor | None:
    """r with wrong partners, ``[models, shifts, neurons]``; None where there are none."""
    found = [m.shifted for m in matches if m.shifted is not None]
    return torch.stack(found) if found else None


def with_controls(result: CorrelationResult, found: ControlStatistics) -> CorrelationResult:
    """The result with the columns of controls."""
    names = [column.name for column in COLUMNS.values() if column.only == "controls"]
    return replace(result, **{name: getattr(found, name) for name in names})


def control_counts(
    controls: ControlMatches | None, found: ControlStatistics | None, universal: Tensor
) -> dict[str, Any]:
    """What the summary says of networks that learned nothing; of neurons that are ``universal``."""
    if controls is None or found is None:
        absent = ("universal_on_control_tokens", "universal_by_control", "fdr_control")
        return dict.fromkeys([*absent, "learned", "learned_by_control", "controls"])
    counts = found.counts
    return {
        "universal_on_control_tokens": counts.real,
        "universal_by_control": counts.by_control,
        "fdr_control": counts.fdr,
        "learned": int(found.learned.sum()),
        "learned_by_control": found.learned_by_control,
        "controls": {
            "a": list(controls.names_a),
            "b": [list(names) for names in controls.names_b],
            "tokens": controls.tokens,
            "margin": controls.margin,
            "flagged_a": list(counts.a),
            "flagged_b": list(counts.b),
            "flagged_both": list(counts.both),
            "more_than_controls": counts.more,
            "not_compared": int((universal & found.excess_control.isnan()).sum()),
            "smallest_p": None if counts.number < 2 else 1 / (1 + counts.number),
            **controls.activity,
        },
    }
