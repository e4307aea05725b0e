"""`correlate_models`: two models that run side by side, whose activations no batch outlives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from univfast.all_pairs import AllPairsCorrelation
from univfast.assemble import result_of
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.feeding import evaluating, has_tokens, run_batch, with_masks
from univfast.hooks import Captured, capture
from univfast.inputs.activations import open_activations
from univfast.inputs.layout import Layout
from univfast.inputs.masks import open_mask
from univfast.inputs.pairing import all_layers, in_order, match_layers
from univfast.machine.devices import as_device, of_inputs
from univfast.options import (
    AllPairsOptions,
    ModelOptions,
    PairedOptions,
    complete,
    select,
)
from univfast.result import CorrelationResult
from univfast.runs.layer_pairs import LayerPairs
from univfast.search.matchings import MATCHINGS
from univfast.search.searches import Searches
from univfast.sums.batches import PairOrigin

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["correlate_models"]

# Called with the number of batches done, and of all, where that is known.
BatchProgress = Callable[[int, int | None], None]


@documented(ModelOptions)
def correlate_models(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    hooks: str | Sequence[str],
    hooks_b: str | Sequence[str] | None = None,
    mask: Callable[[Any], object] | Iterable[object] | None = None,
    names: tuple[str, str] = ("a", "b"),
    progress: BatchProgress | None = None,
    **options: Unpack[ModelOptions],
) -> CorrelationResult:
    """Correlates the neurons of two models while they run on the same batches.

    No activation outlives its batch. Both models run without gradients and in evaluation mode; the
    mode of each of their modules is put back. After the first batch, a model runs only up to the
    last layer that the hooks match.

    Args:
        model_a: any `torch.nn.Module`.
        model_b: another, on any device, of any width (by index, of the same); or the same one.
        batches: what the models take, one after another: each a tensor (``model(x)``), a mapping
            (``model(**x)``; what tokenizers of transformers give is one), or a tuple or list
            (``model(*x)``). Tensors are copied to the device of a model's first parameter. One
            whose tensors are all empty is passed over.
        hooks: glob patterns of module names, as `capture` takes them.
        hooks_b: those of ``model_b``; None for the same. By index, layers are paired by name; or in
            order, if this is given and matches as many layers of other names.
        mask: the tokens to use: a function of the batch that gives ``[...]``, of the shape of the
            activations without their last axis, true for the tokens to use, or None for all; or
            such masks, one a batch. None for the ``attention_mask`` of batches that are mappings,
            which leaves padding out, and for all tokens of others.
        names: what to call the models.
        progress: called after each batch with the number of batches done and of all; None for
            batches without a length.
        {options}

    Returns:
        A row a neuron of A, and the counts.

    Raises:
        InputError: hooks that match nothing, layers, shapes or masks that do not fit, no batches,
            a model that changes its batch in place; a NaN or infinity, named by model, layer,
            neuron and token, counted over all batches.
        TypeError: an argument of a type that cannot be used.
    """
    start = time.perf_counter()
    given = complete(ModelOptions, options, "correlate_models")
    settings = _Settings(given, _checked_names(names), in_order=hooks_b is not None)
    pairs = with_masks(batches, mask)
    total = len(batches) if isinstance(batches, Sized) else None
    with (
        evaluating(model_a=model_a, model_b=model_b),
        capture(model_a, hooks) as a,
        capture(model_b, hooks if hooks_b is None else hooks_b) as b,
    ):
        stream = _Stream(a, b, settings)
        for done, (batch, keep) in enumerate(pairs, start=1):
            if has_tokens(batch):
                run_batch(a, model_a, batch, settings.models[0])
                run_batch(b, model_b, batch, settings.models[1])
                stream.add(keep, "mask" if mask is not None else "batches: attention_mask")
            if progress:
                progress(done, total)
        return stream.result(start)


@dataclass(frozen=True)
class _Settings:
    options: ModelOptions
    models: tuple[str, str]
    in_order: bool  # pair layers by index in order where their names differ

    @property
    def all_pairs(self) -> bool:
        return MATCHINGS[self.options["match"]].all_pairs


class _ByIndex:
    """Sums of pairs of layers."""

    def __init__(
        self, options: ModelOptions, layouts: tuple[Layout, Layout], device: torch.device
    ) -> None:
        self._sums = LayerPairs(*layouts, select(PairedOptions, {**options, "device": device}))
        self.result = self._sums.result

    @property
    def tokens(self) -> int:
        return self._sums.tokens

    def add(self, a: Captured, b: Captured, mask: Tensor | None, origin: PairOrigin) -> None:
        """Adds a batch, layer by layer, and leaves no activation in ``a`` and ``b``."""
        for number, (layer_a, layer_b) in enumerate(self._sums.pairs):
            x, y = _rows(a.pop(layer_a)), _rows(b.pop(layer_b))
            self._sums.update_rows(number, x, y, mask, origin)


class _AllPairs:
    """Co-moments of all layers of one model with all of the other."""

    def __init__(
        self, options: ModelOptions, layouts: tuple[Layout, Layout], device: torch.device
    ) -> None:
        self._layouts = layouts
        # Made before the first token, so that what it refuses is refused at once.
        self._searches = Searches(*layouts, options["match"], options, device)
        self._sums = AllPairsCorrelation(
            *(layout.by_name() for layout in layouts),
            **select(AllPairsOptions, {**options, "device": device}),
        )

    @property
    def tokens(self) -> int:
        return self._sums.tokens

    def add(self, a: Captured, b: Captured, mask: Tensor | None, origin: PairOrigin) -> None:
        """Adds a batch and leaves no activation in ``a`` and ``b``."""
        x, y = (
            [_rows(captured.pop(name)) for name in layout.names]
            for captured, layout in zip((a, b), self._layouts, strict=True)
        )
        self._sums.update_rows(x, y, mask, origin)

    def result(
        self, threshold: float, models: tuple[str, str], seconds: float
    ) -> CorrelationResult:
        self._searches.add(self._sums.co_moments())
        return result_of(self._searches, threshold, models, seconds)


class _Stream:
    """What two models gave on each batch, summed. The first batch tells names and widths."""

    def __init__(self, a: Captured, b: Captured, settings: _Settings) -> None:
        self._a, self._b, self._settings = a, b, settings
        self._layouts: tuple[Layout, Layout] | None = None
        self._sums: _ByIndex | _AllPairs | None = None
        self._tokens = 0  # also those that masks leave out

    def add(self, mask: object, name: str) -> None:
        """Adds what both models have just given; ``name`` is what to call the mask in errors."""
        layouts, shape = self._measure()
        keep = None if mask is None else open_mask(mask, shape, name)
        if self._sums is None:
            kind, options = (
                _AllPairs if self._settings.all_pairs else _ByIndex,
                self._settings.options,
            )
            device = as_device(options["device"]) or of_inputs(*self._a.values(), *self._b.values())
            self._layouts, self._sums = layouts, kind(options, layouts, device)
        elif layouts != self._layouts:
            raise InputError(
                f"batches: layers were {self._layouts} on the first batch and are {layouts} on a"
                " later one; hook modules of a fixed width"
            )
        self._sums.add(self._a, self._b, keep, PairOrigin(*self._settings.models, self._tokens))
        self._tokens += shape.numel()

    def result(self, start: float) -> CorrelationResult:
        if self._sums is None:
            raise InputError(
                "batches: there are none with tokens; give at least one (an iterator can be used"
                " only once)"
            )
        if self._sums.tokens == 0:
            raise InputError("mask: leaves no token; true marks the tokens to use")
        seconds = time.perf_counter() - start
        threshold = self._settings.options["threshold"]
        return self._sums.result(threshold, self._settings.models, seconds)

    def _measure(self) -> tuple[tuple[Layout, Layout], torch.Size]:
        """The layers to correlate, in order, and the shape of their tokens; all checked."""
        a, b = (
            open_activations(dict(captured), name)
            for captured, name in zip((self._a, self._b), self._settings.models, strict=True)
        )
        if self._settings.all_pairs:
            layers_a, layers_b = all_layers(a, b, None)
            return (Layout.of(layers_a), Layout.of(layers_b)), torch.Size(layers_a[0].shape[:-1])
        pairs = match_layers(a, in_order(a, b) if self._settings.in_order else b, None)
        layouts = Layout.of([one for one, _ in pairs]), Layout.of([other for _, other in pairs])
        return layouts, torch.Size(pairs[0][0].shape[:-1])


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _checked_names(names: Sequence[str]) -> tuple[str, str]:
    if isinstance(names, str) or len(names) != 2 or not all(isinstance(x, str) for x in names):
        raise TypeError(f"names: expected those of both models, got {names!r}")
    return names[0], names[1]
