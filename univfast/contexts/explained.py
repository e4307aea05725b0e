"""What was found of chosen pairs, a record each: contexts, and which features explain them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from univfast.contexts.chosen import Chosen
from univfast.contexts.columns import PairColumns
from univfast.contexts.examples import Examples, ExampleSearch
from univfast.contexts.pair_record import (
    KINDS,
    Example,
    ExplanationRecord,
    FeatureRecord,
    PairRecord,
    rounded,
)
from univfast.contexts.records import write_records
from univfast.features.explanations import Explanation, FeatureSums
from univfast.features.token_features import TokenFeatures, TokenText
from univfast.machine.torch_state import PlainState
from univfast.native.place import numbers
from univfast.result import CorrelationResult

__all__ = ["Explained", "Pairs", "explain_pairs"]


@dataclass(frozen=True)
class Pairs:
    """What was found of the pairs with one other model.

    Attributes:
        chosen: the pairs.
        a, b: what explains each neuron of A, and its match; None for one that is constant.
        examples: of each of `KINDS`.
        r: the correlation of each pair, as it is here, float64.
    """

    chosen: Chosen
    a: list[Explanation | None]
    b: list[Explanation | None]
    examples: list[Examples]
    r: Tensor


@dataclass(frozen=True)
class Explained:
    """What was found of all pairs that were looked at.

    Attributes:
        tokens: the text of the run.
        around: tokens that a window has before and behind the marked one, at most.
        pairs: of each other model.
    """

    tokens: TokenText
    around: int
    pairs: list[Pairs]

    def records(self, result: CorrelationResult) -> Iterator[PairRecord]:
        """A pair each, in the order of the result that they are of."""
        names = result.summary["models"][1:]
        models = result.by_model or (result,)
        for name, found, own in zip(names, self.pairs, models, strict=True):
            for i in range(len(found.chosen)):
                yield self._record(name, found, i, own, result)

    def write(self, file: BinaryIO, result: CorrelationResult) -> None:
        """Writes ``contexts.jsonl``, a line at a time."""
        write_records(file, result.summary["models"], self.around, self.records(result))

    def families(self, result: CorrelationResult) -> list[dict[str, Any]]:
        """How many universal neurons of A, and how many of their matches, each family explains.

        ``neurons`` counts each neuron of A once, ``matches`` and ``both`` (a pair of one family)
        the pairs with each other model. None stands for those that no family explains.
        """
        counts: dict[str | None, list[int]] = {}
        seen: set[int] = set()
        for found in self.pairs:
            for row, a, b in zip(found.chosen.rows.tolist(), found.a, found.b, strict=True):
                if not result.universal[row]:
                    continue
                first, second = (None if x is None else x.family for x in (a, b))
                counts.setdefault(first, [0, 0, 0])[0] += row not in seen
                counts.setdefault(second, [0, 0, 0])[1] += 1
                counts[first][2] += first == second
                seen.add(row)
        order = sorted(counts, key=lambda name: (name is None, -counts[name][0], str(name)))
        names = ("neurons", "matches", "both")
        return [{"family": name, **dict(zip(names, counts[name], strict=True))} for name in order]

    def _record(
        self, name: str, found: Pairs, i: int, own: CorrelationResult, result: CorrelationResult
    ) -> PairRecord:
        (layer, neuron), (match_layer, match_neuron) = found.chosen.a[i], found.chosen.b[i]
        row = int(found.chosen.rows[i])
        return PairRecord(
            model=name,
            layer=layer,
            neuron=neuron,
            match_layer=match_layer,
            match_neuron=match_neuron,
            correlation=_finite(float(own.correlation[row])),
            excess=_finite(float(own.excess[row])),
            universal=bool(result.universal[row]),
            learned=None if result.learned is None else bool(result.learned[row]),
            explanation=_recorded(found.a[i]),
            match_explanation=_recorded(found.b[i]),
            examples=self._examples(found, i),
        )

    def _examples(self, found: Pairs, pair: int) -> tuple[Example, ...]:
        """Each marked token once, with all kinds that it is of."""
        places: dict[int, tuple[list[str], Examples, int]] = {}
        for kind, examples in zip(KINDS, found.examples, strict=True):
            for k, token in enumerate(examples.token[pair].tolist()):
                if token >= 0:
                    places.setdefault(token, ([], examples, k))[0].append(kind)
        return tuple(
            self._example(token, kinds, examples, pair, k)
            for token, (kinds, examples, k) in places.items()
        )

    def _example(
        self, token: int, kinds: list[str], examples: Examples, pair: int, k: int
    ) -> Example:
        start, stop = int(examples.start[pair, k]), int(examples.stop[pair, k])
        text = self.tokens.text
        sample, position = self.tokens.place(token)
        ids = tuple(self.tokens.ids[start:stop].tolist())
        a, b = (
            tuple(map(rounded, x[pair, k, : stop - start].tolist()))
            for x in (examples.a, examples.b)
        )
        return Example(
            kinds=tuple(kinds),
            token=token,
            sample=sample,
            position=position,
            at=token - start,
            ids=ids,
            tokens=None if text is None else tuple(text(x) for x in ids),
            activation=a,
            match_activation=b,
        )


def explain_pairs(
    columns: PairColumns,
    chosen: Chosen,
    features: TokenFeatures,
    means: tuple[Tensor, Tensor] | None,
    count: int,
    around: int,
    threads: int,
    progress: Callable[[int, int], None],
) -> Pairs:
    """Looks at pairs: two passes over their activations, or one where means are known.

    Args:
        columns: their activations.
        chosen: the pairs, at least one.
        features: of the tokens.
        means: float64 ``[pairs]`` of A's neurons and of their matches; None where not known.
        count: examples to keep of each kind.
        around: tokens of a window before the marked one and behind.
        threads: at most this many.
        progress: called with tokens done over all passes, and all.
    """
    passes = 1 if means is not None else 2
    total = passes * columns.tokens
    if means is None:
        means = _means(columns, lambda done: progress(done, total))
    with PlainState():
        breaks = features.tokens.breaks()
        search = ExampleSearch(means, columns.sample, columns.tokens, count, around, breaks)
        sums = [FeatureSums(features, len(chosen), mean, threads) for mean in means]
        products = torch.zeros(3, len(chosen), dtype=torch.float64, device="cpu")
    before = total - columns.tokens
    for part in columns.slices(lambda done: progress(before + done, total)):
        # Not the slices: models of users run in them, as users have set torch.
        with PlainState():
            search.add(part)
            rows = numbers(len(part.a))
            if part.keep is not None:
                rows = rows[part.keep]
            for side, values in zip(sums, (part.a, part.b), strict=True):
                side.add(values, rows, part.start)
            products += _products(part.a[rows] - means[0], part.b[rows] - means[1])
    with PlainState():
        explained = [side.explanations() for side in sums]
        r = products[2] / (products[0] * products[1]).sqrt()
        return Pairs(chosen, explained[0], explained[1], search.found(), r)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Sums of squares of both, and of their products, of deviations ``[tokens, pairs]``."""
    return torch.stack([(x * y).sum(dim=0) for x, y in ((a, a), (b, b), (a, b))])


def _means(columns: PairColumns, progress: Callable[[int], None]) -> tuple[Tensor, Tensor]:
    """Of the tokens that count."""
    sums: list[Tensor] | None = None
    count = 0
    for part in columns.slices(progress):
        sides = [x if part.keep is None else x[part.keep] for x in (part.a, part.b)]
        count += len(sides[0])
        more = [x.sum(dim=0, dtype=torch.float64) for x in sides]
        sums = more if sums is None else [x + y for x, y in zip(sums, more, strict=True)]
    assert sums is not None
    return sums[0] / count, sums[1] / count


def _recorded(found: Explanation | None) -> ExplanationRecord | None:
    if found is None:
        return None
    plain = found.plain()
    features = tuple(FeatureRecord(**each) for each in plain["features"])
    return ExplanationRecord(**{**plain, "features": features})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
