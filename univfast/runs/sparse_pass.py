"""A pass over sparse features, whose pairs are summed by what is active together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from univfast.inputs.sparse import SparseLayer, in_sparse_layers
from univfast.machine.devices import thread_count
from univfast.machine.processes import Processes
from univfast.native.sparse import EntryList
from univfast.nulls.kinds import Baseline
from univfast.options import CorrelateOptions
from univfast.runs.comparisons import Lineup
from univfast.runs.passes import LEAST_TOKENS, Range, aligned
from univfast.runs.planning import Job, used_layers
from univfast.search.saved import check_number
from univfast.sums.co_moments import CoMoments
from univfast.sums.sparse_entries import (
    PILOT_TOKENS,
    checked_entries,
    of_features,
    of_tokens,
    pivots_of,
)
from univfast.sums.sparse_pairs import SparsePairs

__all__ = ["SparsePass"]

# Entries of all models in a slice: some seconds of work.
_STEP_ENTRIES = 1 << 23
# That are looked at at a time, where each takes some 60 bytes; and tokens, which each take as much
# for every feature that is active on most of them.
_PIECE_ENTRIES, _PIECE_TOKENS = 1 << 20, 1 << 14

# Of a model, what is there of each layer by its name.
_Found = dict[str, EntryList]


class SparsePass:
    """All pairs of some layers of models with all layers of others, all of sparse features.

    Args:
        jobs: what is done in this pass.
        lineup: of all models.
        options: how sums are taken.
    """

    def __init__(self, jobs: Sequence[Job], lineup: Lineup, options: CorrelateOptions) -> None:
        self._layers: dict[int, list[SparseLayer]] = {
            i: in_sparse_layers([*layers.values()]) or []
            for i, layers in used_layers(jobs, lineup).items()
        }
        self.models = [lineup.models[i] for i in self._layers]
        self._names = {i: lineup.models[i].name for i in self._layers}
        baseline, threads = Baseline.of(options), thread_count(options["threads"])
        rotated = baseline if baseline.draws else None
        self._sums = [
            (
                job,
                SparsePairs(
                    job.held(lineup.layout(job.first)),
                    lineup.layout(job.second),
                    rotated if options["reverse"] else None,
                    rotated,
                    threads,
                    any(
                        layer.dtype == torch.float64
                        for i in (job.first, job.second)
                        for layer in self._layers[i]
                    ),
                ),
            )
            for job in jobs
        ]
        self._searched = {job: lineup.layout(job.second).names for job in jobs}
        self._tokens = min(layer.tokens for layer in self._all())
        stored = sum(layer.stored for layer in self._all())
        step = max(LEAST_TOKENS, self._tokens * _STEP_ENTRIES // max(stored, 1))
        self.step = aligned(step, self.models)

    def update(self, part: Range, following: Range | None, keep: Tensor | None) -> None:
        if not all(sums.started for _, sums in self._sums):
            self._start(keep)
        for piece in self._pieces(*part):
            found, tokens = self._read(piece, keep)
            for job, sums in self._sums:
                if tokens:
                    a = [_of_job(job, found[job.first][name]) for name in job.layers]
                    b = [found[job.second][name] for name in self._searched[job]]
                    sums.add(a, b, tokens)

    def states(self) -> list[dict[str, Any]]:
        return [sums.saved_state() for _, sums in self._sums]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        check_number("sums", states, len(self._sums))
        for (_, sums), state in zip(self._sums, states, strict=True):
            sums.load_saved(state)

    def reduce(self) -> None:
        processes = Processes()
        for _, sums in self._sums:
            sums.reduce(processes)

    def co_moments(self) -> list[tuple[int, CoMoments]]:
        """Of each job: the number of the comparison, and the sums."""
        return [(job.comparison, sums.co_moments()) for job, sums in self._sums]

    def _all(self) -> list[SparseLayer]:
        return [layer for layers in self._layers.values() for layer in layers]

    def _pieces(self, start: int, stop: int) -> Iterator[Range]:
        """Tokens of about so many entries, by halves."""
        few = sum(layer.count(start, stop) for layer in self._all()) <= _PIECE_ENTRIES
        if stop - start == 1 or (few and stop - start <= _PIECE_TOKENS):
            yield start, stop
            return
        middle = (start + stop) // 2
        yield from self._pieces(start, middle)
        yield from self._pieces(middle, stop)

    def _read(self, piece: Range, keep: Tensor | None) -> tuple[dict[int, _Found], int]:
        """What is there of each model, and of how many tokens that are used."""
        here = None if keep is None else keep[slice(*piece)].cpu()
        found: dict[int, _Found] = {}
        for i, layers in self._layers.items():
            found[i] = {}
            for layer in layers:
                entries = layer.entries(*piece)
                layer.release(*piece)
                found[i][layer.name] = checked_entries(
                    entries, here, self._names[i], layer.name, piece[0]
                )
        return found, piece[1] - piece[0] if here is None else int(here.sum())

    def _start(self, keep: Tensor | None) -> None:
        """Finds pivots, the same in every process."""
        lists: dict[tuple[int, str], list[EntryList]] = {}
        seen = 0
        for piece in self._pieces(0, self._tokens):
            found, tokens = self._read(piece, keep)
            for i, layers in found.items():
                for name, entries in layers.items():
                    first = of_tokens(entries, PILOT_TOKENS - seen)
                    lists.setdefault((i, name), []).append(
                        EntryList(first.token + seen, first.feature, first.value)
                    )
            seen = min(seen + tokens, PILOT_TOKENS)
            if seen == PILOT_TOKENS:
                break
        pivots = {
            (i, layer.name): pivots_of(EntryList.joined(lists[i, layer.name]), seen, layer.neurons)
            for i, layers in self._layers.items()
            for layer in layers
        }
        for job, sums in self._sums:
            own = slice(None) if job.part is None else slice(*job.part)
            sums.start(
                [pivots[job.first, name][own] for name in job.layers],
                [pivots[job.second, name] for name in self._searched[job]],
            )


def _of_job(job: Job, entries: EntryList) -> EntryList:
    return entries if job.part is None else of_features(entries, *job.part)
