"""Windows of tokens where chosen pairs are highest, and where they disagree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.contexts.columns import Slice
from univfast.contexts.pair_record import KINDS
from univfast.native.place import numbers

__all__ = ["ExampleSearch", "Examples"]

_VALUES = 1 << 24  # that are looked at together


@dataclass(frozen=True)
class Examples:
    """Windows of tokens of one kind, a pair each, the highest first.

    Attributes:
        token: number of the marked token in the run, int64 ``[pairs, examples]``; -1 for none.
        start, stop: the window around it, int64 of the same shape.
        a, b: the activations in the window ``[pairs, examples, most]``, from its start on; float32
            or float64.
    """

    token: Tensor
    start: Tensor
    stop: Tensor
    a: Tensor
    b: Tensor


class ExampleSearch:
    """Searches a stream for the examples of pairs, at most one of a kind in a sample.

    Args:
        means: float64 ``[pairs]`` of A's neurons and of their matches.
        window: tokens of a sample.
        tokens: of the run.
        count: examples to keep of each kind.
        around: tokens of a window before the marked one and behind, within the sample.
        breaks: int64, ascending: tokens that no window reaches across, as those before them did not
            stand there in the text; None for none.
    """

    def __init__(
        self,
        means: tuple[Tensor, Tensor],
        window: int,
        tokens: int,
        count: int,
        around: int,
        breaks: Tensor | None = None,
    ) -> None:
        self._means, self._window, self._tokens = means, window, tokens
        ends = torch.tensor([0, tokens], dtype=torch.int64, device="cpu")
        self._bounds = ends if breaks is None else torch.cat([ends[:1], breaks, ends[1:]])
        # No more than one of a sample is kept.
        self._count, self._around = min(count, -(-tokens // window)), around
        self._most = min(2 * around + 1, window, tokens)
        self._kept: list[_Kept] | None = None

    def add(self, part: Slice) -> None:
        """Takes in whole samples."""
        if self._kept is None:
            self._kept = [self._none(part) for _ in KINDS]
        pairs = part.a.shape[1]
        samples = -(-len(part.a) // self._window)
        step = max(1, _VALUES // (samples * self._window))
        for first in range(0, pairs, step):
            columns = slice(first, min(first + step, pairs))
            self._add(part, columns)

    def found(self) -> list[Examples]:
        """Of each kind.

        Of the highest, those above the mean; of those that are high alone, such as are nearer to
        the neuron's highest value than to its mean.
        """
        assert self._kept is not None
        top, match_top, only, match_only = self._kept
        for highest, alone, mean in zip(
            (top, match_top), (only, match_only), self._means, strict=True
        ):
            mean = mean.to(highest.score.dtype)
            alone.drop_below((mean + highest.score[0]) / 2)
            highest.drop_below(mean)
        return [self._examples(kept) for kept in self._kept]

    def _none(self, part: Slice) -> _Kept:
        shape = (self._count, part.a.shape[1])
        return _Kept(
            torch.full(shape, -torch.inf, dtype=part.a.dtype, device="cpu"),
            torch.full(shape, -1, dtype=torch.int64, device="cpu"),
            torch.zeros(self._count, self._most, shape[1], dtype=part.a.dtype, device="cpu"),
            torch.zeros(self._count, self._most, shape[1], dtype=part.b.dtype, device="cpu"),
        )

    def _add(self, part: Slice, columns: slice) -> None:
        a, b = part.a[:, columns], part.b[:, columns]
        alone_a, alone_b = (
            other <= mean[columns].to(other.dtype)
            for other, mean in ((b, self._means[1]), (a, self._means[0]))
        )
        assert self._kept is not None
        for kept, values, among in zip(
            self._kept, (a, b, a, b), (None, None, alone_a, alone_b), strict=True
        ):
            self._one(kept, part, columns, self._scores(values, among, part.keep))

    def _scores(self, values: Tensor, among: Tensor | None, keep: Tensor | None) -> Tensor:
        """Values by sample ``[samples, window, pairs]``, -inf for tokens that are left out."""
        short = -len(values) % self._window
        scores = torch.nn.functional.pad(values, (0, 0, 0, short), value=-torch.inf)
        if among is not None:
            scores[: len(values)].masked_fill_(~among, -torch.inf)
        if keep is not None:
            scores[: len(values)].masked_fill_(~keep[:, None], -torch.inf)
        return scores.view(-1, self._window, values.shape[1])

    def _one(self, kept: _Kept, part: Slice, columns: slice, scores: Tensor) -> None:
        best, place = scores.max(dim=1)  # [samples, pairs]; of equal ones, any: made the first
        place = (scores == best[:, None]).to(torch.uint8).argmax(dim=1)
        order = best.argsort(dim=0, descending=True, stable=True)[: self._count]
        best = best.gather(0, order)
        local = place.gather(0, order) + order * self._window  # rows of the slice
        token = torch.where(best > -torch.inf, local + part.start, -1)
        begin, end = self._around_of(token)
        rows = (begin - part.start)[:, None] + numbers(self._most)[:, None]  # [count, most, pairs]
        inside = (rows < (end - part.start)[:, None]) & (token >= 0)[:, None]
        flat = torch.where(inside, rows, 0).reshape(-1, rows.shape[2])
        windows = [
            torch.where(inside, x[:, columns].gather(0, flat).view(rows.shape), 0)
            for x in (part.a, part.b)
        ]
        kept.merge(columns, _Kept(best, token, *windows))

    def _around_of(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """The window of tokens; empty at -1."""
        there = token >= 0
        first = token // self._window * self._window
        run = torch.searchsorted(self._bounds, token.clamp(min=0).contiguous(), right=True)
        last = torch.minimum(first + self._window, self._bounds[run])
        first = torch.maximum(first, self._bounds[run - 1])
        begin = torch.maximum(token - self._around, first)
        end = torch.minimum(token + self._around + 1, last)
        return torch.where(there, begin, 0), torch.where(there, end, 0)

    def _examples(self, kept: _Kept) -> Examples:
        begin, end = self._around_of(kept.token)
        # [count, most, pairs] -> [pairs, count, most]
        a, b = (x.permute(2, 0, 1).contiguous() for x in (kept.a, kept.b))
        return Examples(kept.token.T, begin.T, end.T, a, b)


@dataclass
class _Kept:
    """The highest so far: ``[count, pairs]``, and their windows ``[count, most, pairs]``."""

    score: Tensor
    token: Tensor
    a: Tensor
    b: Tensor

    def drop_below(self, least: Tensor) -> None:
        """Leaves out what is not above a value of each pair."""
        self.token[~(self.score > least)] = -1

    def merge(self, columns: slice, other: _Kept) -> None:
        """Takes in what comes later in the stream, of some pairs."""
        score = torch.cat([self.score[:, columns], other.score])
        order = score.argsort(dim=0, descending=True, stable=True)[: len(self.score)]
        self.score[:, columns] = score.gather(0, order)
        self.token[:, columns] = torch.cat([self.token[:, columns], other.token]).gather(0, order)
        for own, more in ((self.a, other.a), (self.b, other.b)):
            both = torch.cat([own[:, :, columns], more])
            index = order[:, None].expand(-1, own.shape[1], -1)
            own[:, :, columns] = both.gather(0, index)
