"""How much of a neuron the features of the tokens explain: sums over a stream, and what they say.

r2 of a feature is its squared correlation with the neuron. All of it follows from the neuron's sums
over the tokens of each group, and its products with columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.checks import as_integer
from univfast.errors import InputError
from univfast.features.ranking import HALF, Choice, ranked
from univfast.features.regression import together
from univfast.features.tallies import ColumnTally, GroupTally, Tallies
from univfast.features.token_features import TokenFeatures
from univfast.machine.torch_state import methods_in_plain_state
from univfast.native.place import numbers

__all__ = ["Explanation", "FeatureShare", "FeatureSums", "explanation_bytes"]

# Bytes of a batch that are taken in float64 at a time.
_SLAB = 1 << 24


@dataclass(frozen=True)
class FeatureShare:
    """How much of a neuron's variance a feature explains.

    Attributes:
        family: whose feature it is.
        feature: its name.
        r2: from 0 to 1. Of all groups of a family together, less what as many random groups would
            explain.
    """

    family: str
    feature: str
    r2: float

    def plain(self) -> dict[str, Any]:
        """As a record has it, to 6 digits."""
        return {"family": self.family, "feature": self.feature, "r2": round(self.r2, 6)}


@dataclass(frozen=True)
class Explanation:
    """What a neuron follows.

    Attributes:
        family: of the best feature, if it explains at least half of the variance; "mixture" if only
            up to three features together do; None: nothing known does.
        feature, r2: the best feature; "none", 0, where nothing that is known of the tokens varies.
        r2_together: the most that a regression on up to three of ``features``, each the best of its
            family, explains.
        features: at most 5: the best of each family, best first, then others.
    """

    family: str | None
    feature: str
    r2: float
    r2_together: float
    features: tuple[FeatureShare, ...]

    @staticmethod
    def of(features: tuple[FeatureShare, ...], r2_together: float) -> Explanation:
        """That of its features and what they explain together."""
        best = features[0] if features else FeatureShare("", "none", 0.0)
        family = None
        if best.r2 >= HALF:
            family = best.family
        elif r2_together >= HALF:
            family = "mixture"
        return Explanation(family, best.feature, best.r2, r2_together, features)

    def plain(self) -> dict[str, Any]:
        """As a record has it, numbers to 6 digits."""
        return {
            "family": self.family,
            "feature": self.feature,
            "r2": round(self.r2, 6),
            "r2_together": round(self.r2_together, 6),
            "features": [each.plain() for each in self.features],
        }


def explanation_bytes(features: TokenFeatures, neurons: int) -> int:
    """Of the sums of so many neurons; beside them, one byte a token of the run."""
    groups = sum(grouping.groups for grouping in features.groupings)
    columns = len(features.names)
    return 8 * ((groups + columns + 4) * (neurons + columns) + groups)


@methods_in_plain_state
class FeatureSums:
    """Sums of neurons over the groups of tokens and the columns that `TokenFeatures` has.

    Holds `explanation_bytes`, and which tokens came. Batches come in any order, each token once;
    what is found depends on them, and on threads, by rounding alone. Whole samples are best: of one
    that is cut, all tokens are looked at for each part.

    Args:
        features: of the tokens of the run.
        neurons: how many.
        pivot: float64 ``[neurons]``: their means, or near: sums are taken about them.
        threads: at most this many.
    """

    def __init__(self, features: TokenFeatures, neurons: int, pivot: Tensor, threads: int) -> None:
        as_integer("neurons", neurons, 1)
        as_integer("threads", threads, 1)
        if pivot.dtype != torch.float64 or pivot.shape != (neurons,):
            raise InputError(
                f"pivot: got {pivot.dtype} of shape {list(pivot.shape)}, expected float64"
                f" [{neurons}]"
            )
        self._features, self._threads = features, threads
        self._pivot = pivot.cpu().contiguous()
        columns = len(features.names)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device="cpu")

        self._groups = [
            GroupTally.zero(grouping.groups, neurons, columns) for grouping in features.groupings
        ]
        self._columns = ColumnTally(columns, neurons)
        self._sum, self._square = zeros(neurons), zeros(neurons)
        self._lowest, self._highest = zeros(neurons) + torch.inf, zeros(neurons) - torch.inf
        self._used = torch.zeros(len(features), dtype=torch.bool, device="cpu")

    def add(self, x: Tensor, rows: Tensor, first_token: int) -> None:
        """Takes in some tokens of a batch.

        Args:
            x: ``[tokens, neurons]``, float32, neuron stride 1.
            rows: int64: those of them that are used, each once.
            first_token: number of the first of ``x`` in the run.

        Raises:
            InputError: other shapes, tokens that are not of the run or came before, or what a
                user's feature gives that cannot be used. What was added before stays as it was.
        """
        stop = first_token + len(x)
        if x.dim() != 2 or x.shape[1] != len(self._pivot):
            raise InputError(f"x: got shape {list(x.shape)}, expected [tokens, {len(self._pivot)}]")
        if first_token < 0 or stop > len(self._used):
            raise InputError(
                f"add: tokens {first_token} to {stop} are not within the {len(self._used)} of the"
                " run"
            )
        x, rows = x.cpu(), rows.cpu()
        tokens = rows + first_token
        if bool(self._used[tokens].any()):
            raise InputError("add: some tokens came before; give each once")
        if len(rows) == 0:
            return
        columns = self._features.columns(first_token, stop)
        if not self._used.any():
            self._columns.set_pivot(columns[rows])
        self._used[tokens] = True
        for grouping, sums in zip(self._features.groupings, self._groups, strict=True):
            self._add_groups(sums, x, columns, rows, grouping.of(tokens))
        at_a_time = max(1, _SLAB // (8 * x.shape[1]))
        for first in range(0, len(rows), at_a_time):
            part = rows[first : first + at_a_time]
            values, own = x[part].double(), columns[part]
            self._lowest = torch.minimum(self._lowest, values.amin(dim=0))
            self._highest = torch.maximum(self._highest, values.amax(dim=0))
            values -= self._pivot
            self._sum += values.sum(dim=0)
            self._square += values.square().sum(dim=0)
            self._columns.add(own, values)

    def _add_groups(
        self, sums: GroupTally, x: Tensor, columns: Tensor, rows: Tensor, groups: Tensor
    ) -> None:
        """Adds ``rows`` to their groups, int64 ``[rows, most]``, -1 for none."""
        there = groups >= 0
        places = numbers(len(rows))[:, None].expand_as(groups)[there]
        found, order = groups[there].sort(stable=True)
        if len(found) == 0:
            return
        members = rows[places[order]]
        sums.counts.add_(torch.bincount(found, minlength=len(sums.counts)))
        native.group_sums(x, members, found, self._pivot, sums.neurons, self._threads)
        if columns.shape[1]:
            pivot = self._columns.pivot
            native.group_sums(columns, members, found, pivot, sums.columns, self._threads)

    def explanations(self) -> list[Explanation | None]:
        """Of each neuron so far; None for one that is constant. More batches may follow.

        Raises:
            InputError: no tokens were added, or values so large that their squares are infinite.
        """
        tokens = int(self._used.sum())
        if tokens == 0:
            raise InputError("explanations: no tokens were added; call add first")
        m2 = self._square - self._sum * (self._sum / tokens)
        if not bool(m2.isfinite().all()):
            raise InputError("explanations: activations have no finite sum of squares")
        m2 = torch.where(self._lowest < self._highest, m2.clamp(min=0), 0)
        names = self._features.names
        tallies = Tallies.of(tokens, (self._sum, m2), self._groups, self._columns, names)
        choices = ranked(tallies, self._features)
        most = together(tallies, self._features, self._used, choices)
        return [
            Explanation.of(tuple(map(self._share, own)), r2) if alive else None
            for own, r2, alive in zip(choices, most, (m2 > 0).tolist(), strict=True)
        ]

    def _share(self, choice: Choice) -> FeatureShare:
        name = self._features.name(choice.block, choice.at)
        return FeatureShare(choice.family, name, choice.r2)
