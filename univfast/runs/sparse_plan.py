"""Which comparisons are of sparse features, summed by entries, and what is held of them at a time.

A layer whose state does not fit is done in parts, one after another: to read sparse features again
costs little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from univfast.errors import InputError
from univfast.inputs.layers import Layer
from univfast.inputs.layout import Layout
from univfast.inputs.sparse import in_sparse_layers
from univfast.machine.memory import gigabytes, needed
from univfast.native import place
from univfast.nulls.kinds import Baseline
from univfast.options import ModelOptions
from univfast.runs.comparisons import Comparison
from univfast.search.assigning import assignment_bytes
from univfast.search.matchings import MATCHINGS
from univfast.search.searches import partners_bytes, rotations_bytes
from univfast.sums.co_moments import tile_bytes
from univfast.sums.sparse_pairs import CHUNK_ENTRIES, ENTRY_BYTES

__all__ = ["SparsePlan"]

# Values are multiplied entry by entry where, of all pairs of a value of A and one of B, no more
# than this share has entries in both. On two cores either took as long at 1.5%
# (benchmarks/sparse_crossover.py); other machines may multiply faster.
_LARGEST_SHARE = 0.01


@dataclass(frozen=True)
class _Size:
    """Entries of a model, and their share of all its values."""

    entries: int
    share: float


class SparsePlan:
    """What is of sparse features, and what it takes.

    Args:
        layers: of every model.
        options: of the search; the match is one that searches all pairs.
        device: where states are; entries are summed on the CPU alone.

    Raises:
        InputError: what is stored of sparse features is damaged.
    """

    def __init__(
        self, layers: Sequence[Sequence[Layer]], options: ModelOptions, device: torch.device
    ) -> None:
        self._layouts = [Layout.of(of_model) for of_model in layers]
        on_cuda = place.on_cuda(device)
        self._sizes = [None if on_cuda else _size(of_model) for of_model in layers]
        self._options, self._device = options, device

    def entries(self, one: Comparison) -> int | None:
        """Of both models, where these are summed; None where products are of dense slices."""
        a, b = self._sizes[one.first], self._sizes[one.second]
        if a is None or b is None or a.share * b.share > _LARGEST_SHARE:
            return None
        return a.entries + b.entries

    def bytes(self, one: Comparison, held: Layout, options: ModelOptions | None = None) -> int:
        """Of the state of what is held of A with all of B, and of what is beside it."""
        options = options or self._options
        a, b = self._layouts[one.first], self._layouts[one.second]
        values, rotation = held.neurons * b.neurons, Baseline.of(options)
        rotated: tuple[int, ...] = b.widths if rotation.draws else ()
        if _rotates_a(options):
            rotated += held.widths
        values += sum(width**2 for width in rotated)
        waiting = ENTRY_BYTES * min(self.entries(one) or 0, CHUNK_ENTRIES)
        more = rotations_bytes(rotation, rotated) + partners_bytes(a, b, options)
        more += assignment_bytes(a, b) if _assigns(options) else 0
        return 8 * values + waiting + tile_bytes(self._device) + more

    def groups(
        self, one: Comparison, wanted: Sequence[tuple[str, int]], limit: float
    ) -> list[tuple[Layout, int]]:
        """Neighbouring layers of A, or parts of one, whose state with all of B fits; its bytes.

        ``wanted`` are names and widths of layers of A.

        Raises:
            InputError: nothing does.
        """
        return [(held, self.bytes(one, held)) for held in self._held(one, wanted, limit)]

    def _held(
        self, one: Comparison, wanted: Sequence[tuple[str, int]], limit: float
    ) -> Iterator[Layout]:
        if not wanted:
            return
        a = Layout(tuple(name for name, _ in wanted), tuple(width for _, width in wanted))
        need = self.bytes(one, a)
        if need <= limit:
            yield a
            return
        if _assigns(self._options):
            raise InputError(
                f"memory_limit: {self._options['match']} matching of these layers needs"
                f" {needed(need)}, the limit is {gigabytes(limit)}; choose layers, or use"
                " match='best'"
            )
        names: tuple[str, ...] = ()
        widths: tuple[int, ...] = ()
        for name, width in zip(a.names, a.widths, strict=True):
            if names and self.bytes(one, Layout((*names, name), (*widths, width))) > limit:
                yield Layout(names, widths)
                names, widths = (), ()
            if self.bytes(one, Layout((name,), (width,))) <= limit:
                names, widths = (*names, name), (*widths, width)
            else:
                yield from self._parts(one, name, width, limit)
        if names:
            yield Layout(names, widths)

    def _parts(self, one: Comparison, name: str, width: int, limit: float) -> Iterator[Layout]:
        """A layer that does not fit, in parts about equal."""
        most = self._most(one, name, width, limit, self._options)
        if most < 1:
            self._refuse(one, name, width, limit)
        parts = -(-width // most)
        for i in range(parts):
            first, last = width * i // parts, width * (i + 1) // parts
            yield Layout((name,), (last - first,), first)

    def _most(
        self, one: Comparison, name: str, width: int, limit: float, options: ModelOptions
    ) -> int:
        """Neurons of a layer that fit at a time; of one that is rotated too, all or none."""
        if _rotates_a(options):
            return width if self.bytes(one, Layout((name,), (width,)), options) <= limit else 0
        one_row, two_rows = (self.bytes(one, Layout((name,), (n,)), options) for n in (1, 2))
        return 1 + int((limit - one_row) // (two_rows - one_row)) if one_row <= limit else 0

    def _refuse(self, one: Comparison, name: str, width: int, limit: float) -> None:
        """Raises InputError for a layer of which nothing fits."""
        whole, rotated = self.bytes(one, Layout((name,), (width,))), _rotates_a(self._options)
        least = whole if rotated else self.bytes(one, Layout((name,), (1,)))
        plain: ModelOptions = {**self._options, "rotation": "none"}
        if self._most(one, name, width, limit, plain):
            raise InputError(
                f"rotation: rotations of dictionaries as wide as these need {needed(least)}, the"
                f" limit is {gigabytes(limit)}; give rotation='none', for the nulls of sparse"
                " features are controls (match='best') and shifts (match='index')"
            )
        what = f"layer {name!r}" if rotated else f"a feature of layer {name!r}"
        raise InputError(
            f"memory_limit: {what} of A with all of B needs"
            f" {needed(least)}, the limit is {gigabytes(limit)} (all at once need"
            f" {needed(self.bytes(one, self._layouts[one.first]))}); raise the limit, or choose"
            " layers"
        )


def _size(layers: Sequence[Layer]) -> _Size | None:
    """Of a model, where all of its layers are of sparse features."""
    sparse = in_sparse_layers(layers)
    if sparse is None:
        return None
    entries = sum(layer.stored for layer in sparse)
    return _Size(entries, entries / sum(layer.tokens * layer.neurons for layer in sparse))


def _rotates_a(options: ModelOptions) -> bool:
    """Whether layers of A are rotated too, each as a whole."""
    return options["reverse"] and Baseline.of(options).draws > 0


def _assigns(options: ModelOptions) -> bool:
    return MATCHINGS[options["match"]].assign is not None
