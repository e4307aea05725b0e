"""Two models that run side by side: what both gave on each batch, summed as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from univfast.all_pairs import AllPairsCorrelation
from univfast.errors import InputError
from univfast.inputs.activations import open_activations
from univfast.inputs.layout import Layout
from univfast.inputs.masks import open_mask
from univfast.inputs.pairing import all_layers, in_order, match_layers
from univfast.machine.devices import as_device, of_inputs
from univfast.machine.torch_state import methods_in_plain_state
from univfast.method import Method, method_of, paired
from univfast.native.place import numbers
from univfast.option import select
from univfast.options import AllPairsOptions, ModelOptions, PairedOptions
from univfast.runs.detail_streams import DetailStream
from univfast.runs.layer_pairs import LayerPairs
from univfast.search.matches import Matches, matches_by_index
from univfast.search.matchings import MATCHINGS
from univfast.search.searches import Searches
from univfast.sums.batches import PairOrigin
from univfast.sums.details import PairDetails
from univfast.sums.token_facts import TokenFacts

__all__ = ["Stream", "StreamSettings"]

_CHOOSE = "hooks= and hooks_b="  # layers


@dataclass(frozen=True)
class StreamSettings:
    """How batches are summed.

    Attributes:
        options: of the sums and the search.
        in_order: pair layers by index in order where their names differ.
    """

    options: ModelOptions
    in_order: bool

    @property
    def all_pairs(self) -> bool:
        return MATCHINGS[self.options["match"]].all_pairs


class _ByIndex:
    """Sums of pairs of layers."""

    def __init__(
        self, options: ModelOptions, layouts: tuple[Layout, Layout], device: torch.device
    ) -> None:
        self._sums = LayerPairs(*layouts, select(PairedOptions, {**options, "device": device}))
        self.layouts = [layouts[0]]

    @property
    def tokens(self) -> int:
        return self._sums.tokens

    def add(
        self, a: dict[str, Tensor], b: dict[str, Tensor], mask: Tensor | None, origin: PairOrigin
    ) -> None:
        """Adds a batch, layer by layer, and leaves no activation in ``a`` and ``b``."""
        for number, (layer_a, layer_b) in enumerate(self._sums.pairs):
            x, y = _rows(a.pop(layer_a)), _rows(b.pop(layer_b))
            self._sums.update_rows(number, x, y, mask, origin)

    def matches(self) -> list[Matches]:
        return [matches_by_index(self._sums.correlations())]

    @property
    def method(self) -> Method:
        return paired()

    def by_index(self) -> None:
        """Nothing beside what `matches` gives."""


class _AllPairs:
    """Co-moments of all layers of one model with all of the other."""

    def __init__(
        self, options: ModelOptions, layouts: tuple[Layout, Layout], device: torch.device
    ) -> None:
        self._pair = layouts
        # Made before the first token, so that what it refuses is refused at once.
        self._searches = Searches(*layouts, options["match"], options, device)
        self.layouts = self._searches.layouts
        self._sums = AllPairsCorrelation(
            *(layout.by_name() for layout in layouts),
            **select(AllPairsOptions, {**options, "device": device}),
        )

    @property
    def tokens(self) -> int:
        return self._sums.tokens

    def add(
        self, a: dict[str, Tensor], b: dict[str, Tensor], mask: Tensor | None, origin: PairOrigin
    ) -> None:
        """Adds a batch and leaves no activation in ``a`` and ``b``."""
        x, y = (
            [_rows(captured.pop(name)) for name in layout.names]
            for captured, layout in zip((a, b), self._pair, strict=True)
        )
        self._sums.update_rows(x, y, mask, origin)

    def matches(self) -> list[Matches]:
        self._searches.add(self._sums.co_moments())
        return self._searches.matches()

    @property
    def method(self) -> Method:
        return method_of([self._searches.multiplied], self._searches.device)

    def by_index(self) -> Matches | None:
        return self._searches.by_index()


@methods_in_plain_state
class Stream:
    """What two models gave on each batch, summed. The first batch tells names and widths.

    Args:
        names: of the models, for errors.
        settings: how.
        most: tokens to add, those that masks leave out too; None for all.
    """

    def __init__(
        self, names: tuple[str, str], settings: StreamSettings, most: int | None = None
    ) -> None:
        self._names, self._settings, self._most = names, settings, most
        self._pair: tuple[Layout, Layout] | None = None
        self._sums: _ByIndex | _AllPairs | None = None
        self.device = torch.device("cpu")
        self.seen = 0
        """Tokens that came, those that masks leave out too."""

    @property
    def full(self) -> bool:
        """Whether it takes no more tokens."""
        return self._most is not None and self.seen >= self._most

    def add(
        self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], mask: object, name: str
    ) -> None:
        """Adds what both models gave for a batch, layers by name.

        ``name`` is what to call the mask in errors. What can be popped of ``a`` and ``b`` is.

        Raises:
            InputError: layers or shapes that do not fit.
        """
        pair, shape = self._measure(a, b)
        keep = None if mask is None else open_mask(mask, shape, name)
        if self._most is not None and self.seen + shape.numel() > self._most:
            first = numbers(shape.numel()) < self._most - self.seen
            keep = first if keep is None else keep & first.to(keep.device)
        if self._sums is None:
            options = self._settings.options
            kind = _AllPairs if self._settings.all_pairs else _ByIndex
            self.device = as_device(options["device"]) or of_inputs(*a.values(), *b.values())
            self._pair, self._sums = pair, kind(options, pair, self.device)
        elif pair != self._pair:
            raise InputError(
                f"batches: layers were {self._pair} on the first batch and are {pair} on a"
                " later one; hook modules of a fixed width"
            )
        origin = PairOrigin(*self._names, self.seen)
        own, theirs = (x if isinstance(x, dict) else dict(x) for x in (a, b))
        self._sums.add(own, theirs, keep, origin)
        self.seen += shape.numel()

    @property
    def tokens(self) -> int:
        """That were added."""
        return 0 if self._sums is None else self._sums.tokens

    @property
    def method(self) -> Method:
        """How r was computed; after `matches`."""
        assert self._sums is not None
        return self._sums.method

    @property
    def layouts(self) -> list[Layout]:
        """The layers whose neurons are matched: of A and, where that was asked for, of B."""
        assert self._sums is not None
        return self._sums.layouts

    @property
    def named_layouts(self) -> list[tuple[str, Layout]]:
        """Both models by name, with their layers."""
        assert self._pair is not None
        return list(zip(self._names, self._pair, strict=True))

    def matches(self) -> list[Matches]:
        """Of A in B and, where that was asked for, of B in A; once.

        Raises:
            InputError: there were no tokens.
        """
        if self._sums is None:
            raise InputError(
                "batches: there are none with tokens; give at least one (an iterator can be used"
                " only once)"
            )
        if self._sums.tokens == 0:
            raise InputError("mask: leaves no token; true marks the tokens to use")
        return self._sums.matches()

    def details(self, matches: Matches, facts: TokenFacts) -> DetailStream:
        """What takes the same batches once more, of the matched pairs alone."""
        assert self._pair is not None
        place = matches.place
        if not self._settings.all_pairs:  # each has its match, be it dead or not
            place = numbers(self._pair[0].neurons)
        assert place is not None
        threads = self._settings.options["threads"]
        details = PairDetails(
            self._pair[0].by_name(),
            self._pair[1].by_name(),
            place,
            facts,
            threads=threads,
            device=self.device,
        )
        return DetailStream(self._names, self._pair, details)

    def by_index(self) -> Matches | None:
        """Beside a search, of neurons with those of the same number; after `matches`."""
        return None if self._sums is None else self._sums.by_index()

    def _measure(
        self, captured_a: Mapping[str, Tensor], captured_b: Mapping[str, Tensor]
    ) -> tuple[tuple[Layout, Layout], torch.Size]:
        """The layers to correlate, in order, and the shape of their tokens; all checked."""
        a, b = (
            open_activations(dict(captured), name)
            for captured, name in zip((captured_a, captured_b), self._names, strict=True)
        )
        if self._settings.all_pairs:
            layers_a, layers_b = all_layers(a, b, None, _CHOOSE)
            return (Layout.of(layers_a), Layout.of(layers_b)), torch.Size(layers_a[0].shape[:-1])
        pairs = match_layers(a, in_order(a, b) if self._settings.in_order else b, None, _CHOOSE)
        layouts = Layout.of([one for one, _ in pairs]), Layout.of([other for _, other in pairs])
        return layouts, torch.Size(pairs[0][0].shape[:-1])


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
