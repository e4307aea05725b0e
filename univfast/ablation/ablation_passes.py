"""The passes of a model over a text: for means, and without each of some sets of neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from univfast.ablation.activity import Activity
from univfast.ablation.effects import DocumentSums, Effect
from univfast.ablation.next_token import Predictions, logits_of, predicted, token_ids, with_ids
from univfast.ablation.replacing import Replaced, Replacing, replacing
from univfast.errors import InputError
from univfast.feeding import BatchProgress, arguments, has_tokens, run_batch, with_masks
from univfast.hooks import Site, capture
from univfast.machine.torch_state import PlainState
from univfast.row_check import RowCheck, rows_of

__all__ = ["Guard", "Passes", "Text"]

# A block that runs the model on so many tokens, and words its errors.
Guard = Callable[[int], AbstractContextManager[object]]


@dataclass(frozen=True)
class Text:
    """Batches with their masks, as `correlate_models` takes them.

    Raises:
        InputError: they can be gone through only once.
    """

    batches: Iterable[Any]
    mask: Any = None

    def __post_init__(self) -> None:
        for name, value in (("batches", self.batches), ("mask", self.mask)):
            if isinstance(value, Iterator):
                raise InputError(
                    f"{name}: is an iterator, which can be used only once, and the model reads"
                    " twice: means first; give a list, or a DataLoader"
                )

    @property
    def length(self) -> int | None:
        return len(self.batches) if isinstance(self.batches, Sized) else None

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Each batch that has tokens, with those whose next one is predicted."""
        name = "mask" if self.mask is not None else "batches: attention_mask"
        for batch, keep in with_masks(self.batches, self.mask):
            if has_tokens(batch):
                yield batch, predicted(batch, keep, name)


class Passes:
    """The runs of a model over all batches: once for means, and once with all sets of neurons.

    Args:
        model: in evaluation mode.
        text: what it reads.
        places: the sites of layers.
        sets: how many sets there will be, for progress alone.
        guard: makes the block that a run is in.
        progress: called after each run.
    """

    def __init__(
        self,
        model: nn.Module,
        text: Text,
        places: Mapping[str, Site],
        sets: int,
        guard: Guard,
        progress: BatchProgress | None,
    ) -> None:
        self._model, self._text, self._places = model, text, places
        self._guard, self._progress = guard, progress
        self._done, self._total = 0, None if text.length is None else text.length * (2 + sets)
        self.documents = self.tokens = 0

    def check(self) -> None:
        """Runs the model on the first batch.

        Raises:
            InputError: there is none, it gives no logits, they follow from tokens that come later,
                or a layer is one in which no neuron can be set.
        """
        batch, counts = next(((b, c) for b, c in self._text if bool(c.any())), (None, None))
        if batch is None or counts is None:
            raise InputError(
                "batches: no token counts whose next one is in the same sample; give samples of two"
                " tokens or more, and a mask that leaves some"
            )
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        nothing: Replaced = {site.layer: (none, none.double()) for site in self._places.values()}
        with replacing(self._model, [*self._places.values()]) as hooks, hooks.of(nothing):
            ids = token_ids(batch)
            whole = Predictions(self._logits(batch, ids), ids, counts)
            with PlainState():
                changed, last = _other_ending(ids, counts)
            given = changed.to(ids.device)
            others = self._logits(with_ids(batch, given), changed)
            if not whole.same_before(others, last):
                raise InputError(
                    "model: what it predicts of a token follows from that token and later ones, as"
                    " of models that fill gaps; use a causal language model"
                )

    def activities(self, most: int) -> dict[str, Activity]:
        """How active the neurons of each layer are, on the first ``most`` tokens that count."""
        found = {layer: Activity(site.layer) for layer, site in self._places.items()}
        names = [site.layer for site in self._places.values()]
        left, check = most, RowCheck(self._model, "")
        with capture(self._model, names) as captured:
            again = partial(run_batch, captured, self._model, name="model")
            for batch, counts in self._text:
                with self._guard(token_ids(batch).numel()):
                    again(batch)
                    taken = check.take(captured, batch, rows_of(token_ids(batch)), again)
                with PlainState():
                    first = _first(counts, left)
                    left -= int(first.sum())
                for layer, site in self._places.items():
                    found[layer].add(_rows(taken[site.layer], first))
                self._advance()
                if not left:
                    break
        return found

    def effects(self, sets: Sequence[Replaced], random: Sequence[int]) -> list[Effect]:
        """What each set does, in the order of a table.

        The loss of the whole model; then of each group (as many random sets as ``random`` says)
        what each set does, the mean of random sets, and the difference; then of single neurons.
        """
        if self._total is not None:
            self._total = self._done + (self._text.length or 0) * (1 + len(sets))
        sums: tuple[DocumentSums, DocumentSums] | None = None
        by_site = [
            {self._places[layer].layer: values for layer, values in one.items()} for one in sets
        ]
        with replacing(self._model, [*self._places.values()]) as hooks:
            for batch, counts in self._text:
                tokens, columns = self._batch(hooks, by_site, batch, counts)
                with PlainState():
                    full = [_with_contrasts(x, random) for x in columns]
                    if sums is None:
                        sums = DocumentSums(full[0].shape[1]), DocumentSums(full[1].shape[1])
                    for each, values in zip(sums, full, strict=True):
                        each.add(tokens, values)
        assert sums is not None
        self.documents, self.tokens = sums[0].documents, sums[0].tokens
        pairs = zip(sums[0].intervals(), sums[1].intervals(), strict=True)
        return [Effect(loss, divergence) for loss, divergence in pairs]

    def _batch(
        self, hooks: Replacing, sets: Sequence[Replaced], batch: Any, counts: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Of each sample the tokens, and ``[samples, 1 + sets]`` of loss and divergence."""
        ids = token_ids(batch)
        if not bool(counts.any()):
            for _ in range(1 + len(sets)):
                self._advance()
            none = torch.zeros(len(ids), 1 + len(sets), dtype=torch.float64, device="cpu")
            return none[:, 0], [none, none]
        whole = Predictions(self._logits(batch, ids), ids, counts)
        self._advance()
        loss = whole.loss()
        rises, divergences = [loss], [torch.zeros_like(loss, dtype=torch.float64)]
        for one in sets:
            with hooks.of(one):
                rise, divergence = whole.against(self._logits(batch, ids))
            rises.append(rise)
            divergences.append(divergence)
            self._advance()
        with PlainState():
            return whole.tokens(), [torch.stack(rises, dim=1), torch.stack(divergences, dim=1)]

    def _logits(self, batch: Any, ids: Tensor) -> Tensor:
        args, keywords = arguments(self._model, batch)
        with self._guard(ids.numel()):
            output = self._model(*args, **keywords)
        return logits_of(output, ids)

    def _advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _other_ending(ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Samples with another token at the last place that is predicted, and these places."""
    ids = ids.cpu()
    places = torch.arange(1, ids.shape[1], dtype=torch.int64, device="cpu")
    last = (counts * places).amax(dim=1)  # 0 where nothing is predicted
    low, high = int(ids.min()), int(ids.max())
    before = ids.gather(1, last[:, None])
    other = torch.where(before == low, high if high > low else (0 if low else 1), low)
    return ids.scatter(1, last[:, None], other), last


def _first(counts: Tensor, most: int) -> Tensor:
    """The first ``most`` tokens that count."""
    flat = counts.flatten()
    return (flat & (flat.cumsum(0) <= most)).view(counts.shape)


def _rows(values: Tensor, counts: Tensor) -> Tensor:
    """The activations ``[tokens, neurons]`` of the tokens that count."""
    samples, length = counts.shape[0], counts.shape[1] + 1
    with PlainState():
        table = values.reshape(samples, length, -1)
        return table[:, :-1][counts.to(values.device)]


def _with_contrasts(columns: Tensor, random: Sequence[int]) -> Tensor:
    """Behind the sets of each group, the mean of its random sets, and the difference from it."""
    found, place = [columns[:, :1]], 1
    for sets in random:
        own = columns[:, place : place + 1 + sets]
        found.append(own)
        if sets:
            mean = own[:, 1:].mean(dim=1, keepdim=True)
            found += [mean, own[:, :1] - mean]
        place += 1 + sets
    return torch.cat([*found, columns[:, place:]], dim=1)
