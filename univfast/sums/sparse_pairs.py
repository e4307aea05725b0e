"""Co-moments of sparse features: from what is active together, and never made dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.inputs.layout import Layout
from univfast.machine.processes import Processes
from univfast.native.sparse import (
    EntryList,
    Grouped,
    add_entry_moments,
    add_entry_products,
    group_entries,
)
from univfast.nulls.kinds import Baseline
from univfast.sums.co_moments import CoMoments
from univfast.sums.sparse_entries import about_pivots
from univfast.sums.state_values import check_co_moments
from univfast.sums.states import check_count, check_fields, check_tensor, refused

__all__ = ["CHUNK_ENTRIES", "ENTRY_BYTES", "SparsePairs"]

CHUNK_ENTRIES = 1 << 25
"""Entries of both models that wait to be multiplied: each time, most of the state is gone through,
which costs little beside the products of so many."""
ENTRY_BYTES = 48
"""Of each that waits, with its copies by feature and by token."""

_CHUNK_TOKENS = 1 << 22  # so much for those that have no entries


class SparsePairs:
    """Sums over tokens of the features of A with those of B, for `CoMoments`.

    All is summed in float64 about a pivot, which is 0 but for features that are active on most
    tokens (`univfast.sums.sparse_entries.pivots_of`); the means are taken off once, at the end. A
    product of two float32 values is exact in float64, and a sum of n products is off by about
    ``1e-16 * sqrt(n)`` of what is summed, of which at least half is left when the mean is taken
    off: r is within 1e-12 (of float64 values too), where features are as active on later tokens as
    on the first `PILOT_TOKENS`. Were one silent on these and then always active, what is left
    were ``PILOT_TOKENS / n``: r is within 1e-6 still, up to 1e9 tokens.

    Args:
        a: layers of A, or a part of one.
        b: layers of B.
        rotation_a, rotation_b: what is kept serves to rotate the model by it; None: nothing is.
        threads: at most this many; they change no bit.
        wide: values are float64.
    """

    def __init__(
        self,
        a: Layout,
        b: Layout,
        rotation_a: Baseline | None,
        rotation_b: Baseline | None,
        threads: int,
        wide: bool,
    ) -> None:
        # What is here as means are pivots, and all else is about them.
        self._state = CoMoments(a, b, None, None, threads)
        self._sides = self._state.a, self._state.b
        for side, rotation in zip(self._sides, (rotation_a, rotation_b), strict=True):
            side.rotation = rotation
            for i, width in enumerate(side.layout.widths if rotation else ()):
                side.within[i] = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        self._sums = tuple(torch.zeros_like(side.mean) for side in self._sides)
        self._threads, self._wide = threads, wide
        self._waiting: tuple[list[list[EntryList]], ...] = ([], [])
        self._waiting_tokens = self._waiting_entries = 0
        self.started = False
        self._drop()

    @property
    def tokens(self) -> int:
        """That were added."""
        return self._state.tokens + self._waiting_tokens

    def start(self, pivots_a: Sequence[Tensor], pivots_b: Sequence[Tensor]) -> None:
        """Takes what to subtract of each feature, ``[width]`` of each layer, before any token."""
        for side, pivots in zip(self._sides, (pivots_a, pivots_b), strict=True):
            side.mean.copy_(torch.cat(list(pivots)))
        self.started = True

    def add(self, a: Sequence[EntryList], b: Sequence[EntryList], tokens: int) -> None:
        """Takes in so many tokens: what is there of each layer, as `checked_entries` gives it."""
        wide = self._wide or any(bool(side.mean.any()) for side in self._sides)
        dtype = torch.float64 if wide else torch.float32
        for side, sums, layers, waiting in zip(
            self._sides, self._sums, (a, b), self._waiting, strict=True
        ):
            for own, entries, lists in zip(side.layout.slices, layers, waiting, strict=True):
                found = EntryList(entries.token, entries.feature, entries.value.to(dtype))
                found = about_pivots(found, side.mean[own], tokens)
                add_entry_moments(found, sums[own], side.m2[own])
                # In a chunk, tokens of one batch follow those of the last.
                lists.append(found._replace(token=found.token + self._waiting_tokens))
                self._waiting_entries += found.entries
        self._waiting_tokens += tokens
        if self._waiting_entries >= CHUNK_ENTRIES or self._waiting_tokens >= _CHUNK_TOKENS:
            self._flush()

    def reset(self) -> None:
        """Forgets every token, but no pivot."""
        self._drop()
        self._state.tokens = 0
        for tensor in self._added():
            tensor.zero_()

    def reduce(self, processes: Processes) -> None:
        """Moves the tokens of all processes into process 0."""
        self._flush()
        pivots = [side.mean for side in self._sides] if self.tokens else None
        found = processes.gather((self.tokens, pivots))
        for tensor in self._added():
            processes.add(tensor, 0)
        if processes.rank:
            self.reset()
            return
        self._state.tokens = sum(tokens for tokens, _ in found)
        known = next((theirs for _, theirs in found if theirs is not None), None)
        if known is not None:
            self.start(*([pivot] for pivot in known))

    def saved_state(self) -> dict[str, Any]:
        """What `load_saved` needs to go on from here; not to be written to."""
        self._flush()
        tensors = {**self._state.tensors(), "sums_a": self._sums[0], "sums_b": self._sums[1]}
        if not self.tokens:  # pivots of no tokens are found anew
            tensors = {name: torch.zeros_like(x) for name, x in tensors.items()}
        return {"tokens": self.tokens, "moments": tensors}

    def load_saved(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `saved_state` gave.

        Raises:
            InputError: it gave no such state.
        """
        found = check_fields("sums of sparse features", state, ("tokens", "moments"))
        tokens = check_count("tokens", found["tokens"])
        own = {**self._state.tensors(), "sums_a": self._sums[0], "sums_b": self._sums[1]}
        moments = check_fields("sums of sparse features", found["moments"], own)
        new = {name: check_tensor(name, moments[name], x.shape) for name, x in own.items()}
        layouts = {"a": self._sides[0].layout, "b": self._sides[1].layout}
        about = {name: x for name, x in new.items() if not name.startswith("sums_")}
        check_co_moments(about, tokens, layouts, 0)
        for name in layouts:
            most = (tokens * new[f"m2_{name}"]).sqrt() * (1 + 1e-6)
            if not bool((new[f"sums_{name}"].abs() <= most).all()):
                raise refused(f"sums_{name} holds a sum larger than the squares allow")
        self._drop()
        for name, tensor in own.items():
            tensor.copy_(new[name])
        self._state.tokens = tokens
        self.started = tokens > 0

    def co_moments(self) -> CoMoments:
        """All that was summed, about the means; to be added to no more."""
        self._flush()
        tokens, state = self.tokens, self._state
        if not tokens:
            return state
        state.multiplied = {"entries"}
        means = [sums / tokens for sums in self._sums]
        state.cross.addr_(means[0], means[1], alpha=-tokens)
        for side, sums, mean in zip(self._sides, self._sums, means, strict=True):
            for i, s in side.within.items():
                own = mean[side.layout.slices[i]]
                s.addr_(own, own, alpha=-tokens)
            side.m2.sub_(tokens * mean * mean).clamp_(min=0)
            side.mean += mean
            sums.zero_()
        return state

    def _added(self) -> list[Tensor]:
        """Sums that add, where pivots are the same."""
        within = [s for side in self._sides for s in side.within.values()]
        return [self._state.cross, *(side.m2 for side in self._sides), *self._sums, *within]

    def _drop(self) -> None:
        """Lets go of what waits."""
        self._waiting = tuple([[] for _ in side.layout.widths] for side in self._sides)
        self._waiting_tokens = self._waiting_entries = 0

    def _flush(self) -> None:
        """Adds the products of what waits."""
        if not self._waiting_tokens:
            return
        tokens, (a, b) = self._waiting_tokens, self._waiting
        columns = self._columns(b, tokens)
        turned = self._columns(a, tokens) if self._state.a.within else []
        for i, own in enumerate(self._state.a.layout.slices):
            rows = self._rows(a[i], self._state.a.layout.widths[i])
            for theirs, entries in zip(self._state.b.layout.slices, columns, strict=True):
                add_entry_products(self._state.cross[own, theirs], rows, entries, self._threads)
            if turned:
                add_entry_products(self._state.a.within[i], rows, turned[i], self._threads)
        for i, s in self._state.b.within.items():
            add_entry_products(s, self._rows(b[i], len(s)), columns[i], self._threads)
        self._drop()
        self._state.tokens += tokens

    def _rows(self, lists: list[EntryList], width: int) -> Grouped:
        """What waits of a layer, by feature."""
        token, feature, value = EntryList.joined(lists)
        return group_entries(feature, token, value, width, self._threads)

    def _columns(self, layers: list[list[EntryList]], tokens: int) -> list[Grouped]:
        """What waits of each layer, by token."""
        found = []
        for lists in layers:
            token, feature, value = EntryList.joined(lists)
            found.append(group_entries(token, feature, value, tokens, self._threads))
        return found
