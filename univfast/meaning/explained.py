"""What was found of chosen pairs, a record each: contexts, and which features explain them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from univfast.machine.torch_state import PlainState
from univfast.meaning.chosen import Chosen
from univfast.meaning.columns import PairColumns
from univfast.meaning.examples import KINDS, Examples, ExampleSearch
from univfast.meaning.explanations import Explanation, FeatureSums
from univfast.meaning.features import TokenFeatures, TokenText
from univfast.native.place import numbers
from univfast.result import CorrelationResult

__all__ = ["Explained", "Pairs", "explain_pairs"]

FORMAT, VERSION = "univfast-contexts", 1
_DIGITS = 6  # of activations


@dataclass(frozen=True)
class Pairs:
    """What was found of the pairs with one other model.

    Attributes:
        chosen: the pairs.
        a, b: what explains each neuron of A, and its match; None for one that is constant.
        examples: of each of `KINDS`.
    """

    chosen: Chosen
    a: list[Explanation | None]
    b: list[Explanation | None]
    examples: list[Examples]


@dataclass(frozen=True)
class Explained:
    """What was found of all pairs that were looked at.

    Attributes:
        models: the names of A and of the others.
        tokens: the text of the run.
        around: tokens that a window has before and behind the marked one, at most.
        pairs: of each other model.
    """

    models: list[str]
    tokens: TokenText
    around: int
    pairs: list[Pairs]

    def __len__(self) -> int:
        return sum(len(found.chosen) for found in self.pairs)

    def head(self) -> dict[str, Any]:
        """What a file of records begins with."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "models": self.models,
            "around": self.around,
        }

    def records(self, result: CorrelationResult) -> Iterator[dict[str, Any]]:
        """A pair each, in the order of the result that they are of."""
        for name, found, own in zip(
            self.models[1:], self.pairs, result.by_model or (result,), strict=True
        ):
            for i, row in enumerate(found.chosen.rows.tolist()):
                yield {"model": name, **self._record(found, i, own, result, row)}

    def write(self, file: BinaryIO, result: CorrelationResult) -> None:
        """The head and all records, a line of JSON each."""
        file.write(_line(self.head()))
        for record in self.records(result):
            file.write(_line(record))

    def families(self) -> list[dict[str, Any]]:
        """How many of A's neurons, and of their matches, each family explains; and both alike.

        Over all pairs; None stands for those that none explains.
        """
        counts: dict[str | None, list[int]] = {}
        for found in self.pairs:
            for a, b in zip(found.a, found.b, strict=True):
                first, second = (None if x is None else x.family for x in (a, b))
                counts.setdefault(first, [0, 0, 0])[0] += 1
                counts.setdefault(second, [0, 0, 0])[1] += 1
                counts[first][2] += first == second
        order = sorted(counts, key=lambda name: (name is None, -counts[name][0], str(name)))
        names = ("neurons", "matches", "both")
        return [{"family": name, **dict(zip(names, counts[name], strict=True))} for name in order]

    def _record(
        self, found: Pairs, i: int, own: CorrelationResult, result: CorrelationResult, row: int
    ) -> dict[str, Any]:
        (layer, neuron), (match_layer, match_neuron) = found.chosen.a[i], found.chosen.b[i]
        explanations = [None if x is None else x.plain() for x in (found.a[i], found.b[i])]
        return {
            "layer": layer,
            "neuron": neuron,
            "match_layer": match_layer,
            "match_neuron": match_neuron,
            "correlation": _plain(float(own.correlation[row])),
            "excess": _plain(float(own.excess[row])),
            "universal": bool(result.universal[row]),
            "learned": None if result.learned is None else bool(result.learned[row]),
            "explanation": explanations[0],
            "match_explanation": explanations[1],
            "examples": self._examples(found, i),
        }

    def _examples(self, found: Pairs, pair: int) -> list[dict[str, Any]]:
        """Each marked token once, with all kinds that it is of."""
        places: dict[int, tuple[list[str], Examples, int]] = {}
        for kind, examples in zip(KINDS, found.examples, strict=True):
            for k, token in enumerate(examples.token[pair].tolist()):
                if token >= 0:
                    places.setdefault(token, ([], examples, k))[0].append(kind)
        return [
            self._example(token, kinds, examples, pair, k)
            for token, (kinds, examples, k) in places.items()
        ]

    def _example(
        self, token: int, kinds: Sequence[str], examples: Examples, pair: int, k: int
    ) -> dict[str, Any]:
        start, stop = int(examples.start[pair, k]), int(examples.stop[pair, k])
        window, text = self.tokens.window, self.tokens.text
        ids = self.tokens.ids[start:stop].tolist()
        return {
            "kinds": list(kinds),
            "token": token,
            "sample": token // window if window > 1 else None,
            "position": token % window if window > 1 else None,
            "at": token - start,
            "ids": ids,
            "tokens": None if text is None else [text(x) for x in ids],
            "activation": _rounded(examples.a[pair, k, : stop - start]),
            "match_activation": _rounded(examples.b[pair, k, : stop - start]),
        }


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
    search = ExampleSearch(means, columns.sample, columns.tokens, count, around)
    sums = [FeatureSums(features, len(chosen), mean, threads) for mean in means]
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
    with PlainState():
        explained = [side.explanations() for side in sums]
        return Pairs(chosen, explained[0], explained[1], search.found())


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


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(values: Tensor) -> list[float | None]:
    """As JSON has them: of tokens that a mask leaves out, they may be anything."""
    return [_plain(float(f"{x:.{_DIGITS}g}")) for x in values.tolist()]
