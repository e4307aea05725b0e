"""The layers of a live model: they run it when they are read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.hooks import Captured, capture
from univfast.inputs.arrays import check_dtype
from univfast.inputs.layers import Activations, Layer
from univfast.row_check import RowCheck, rows_of
from univfast.text.library import one_line, silent
from univfast.text.models import LanguageModel
from univfast.text.samples import SampleWindows
from univfast.text.windows import Windows

__all__ = [
    "LiveModel",
    "accepted_inputs",
    "model_activations",
    "naming",
    "open_layers",
    "running",
    "tokens_a_sample",
]

# Tokens of a forward pass: beyond these, a pass gets no faster a token. And what all layers' rows
# of them may take, in bytes.
_BATCH_TOKENS = 8192
_BATCH_BYTES = 512 << 20


@contextmanager
def model_activations(
    model: LanguageModel,
    hooks: Sequence[str],
    windows: Windows,
    batch_tokens: int | None,
    axis: int | None = None,
) -> Iterator[Activations]:
    """The activations ``[tokens, neurons]`` of a model on a corpus, valid within the block.

    They are made when they are read, for all layers at once, and held until their layer is
    released or other tokens are read. So reading the same tokens of one layer after another runs
    the model once, and memory holds what was read last of each layer. ``most`` is the tokens of a
    forward pass; read whole windows (``window``), no more than ``most`` tokens at a time, lest
    windows are run again or more is held.

    Args:
        model: to run.
        hooks: glob patterns of layers, as `univfast.hooks.capture` takes them.
        windows: the corpus.
        batch_tokens: of a forward pass, at most, but one window at least; None for 8192, or for as
            many as take 512 MB over all layers if these are fewer.
        axis: of neurons, as `univfast.hooks.capture` takes it.

    Raises:
        InputError: no layers match, or what they give cannot be activations, a row a token.
    """
    with open_layers(model, hooks, windows, axis) as source:
        row = sum(found.neurons * found.dtype.itemsize for found in source.found.values())
        most = batch_tokens or min(_BATCH_TOKENS, _BATCH_BYTES // row)
        source.most = max(1, most // windows.window) * windows.window
        layers: dict[str, Layer] = {name: _ModelLayer(name, source) for name in source.found}
        yield Activations(model.directory, layers, window=windows.window, most=source.most)


@contextmanager
def open_layers(
    model: LanguageModel, hooks: Sequence[str], windows: Windows, axis: int | None = None
) -> Iterator[LiveModel]:
    """What runs a model for its layers, within the block. Raises what `model_activations` does."""
    with naming(model.directory), capture(model.module, hooks, axis=axis) as captured:
        model.check_hooked(captured.layers)
        yield LiveModel(model, captured, windows, RowCheck(model.module, "", axis))


def tokens_a_sample(
    model: LanguageModel, hooks: Sequence[str], samples: SampleWindows, axis: int | None = None
) -> int:
    """Tokens that a model makes of a sample; ``axis`` is of neurons, as `capture` takes it.

    Raises:
        InputError: the model reads other arrays than the file has, or what its first layer gives
            is not ``[samples, tokens, neurons]``.
    """
    given = samples.arrays.keys()
    wrong = sorted(given - model.accepted) or sorted({model.reads} - given)
    if wrong:
        raise InputError(
            f"{samples.source}: holds {', '.join(sorted(given))}, and {model.directory} reads"
            f" {model.reads} ({wrong[0]!r} is not in both); name arrays as its forward does,"
            " or save the part of the model that reads these by itself"
        )
    device = next(model.module.parameters()).device
    with naming(model.directory), capture(model.module, hooks, axis=axis) as captured:
        model.check_hooked(captured.layers)
        layer = captured.layers[0]
        first, again = (
            _one_sample(model, captured, samples.inputs(0, samples.window, device), layer)
            for _ in range(2)
        )
    shape = first.shape
    if first.shape != again.shape or not torch.allclose(first, again, rtol=0.01, equal_nan=True):
        raise InputError(
            f"{model.directory}: gives others for the same sample again, as models do that hide"
            " patches at random; save it as a model that does not, or run it in Python on batches"
            " that say what is hidden (univfast.correlate_models)"
        )
    if len(shape) < 3 or shape[0] != 1:
        raise InputError(
            f"{model.directory}: layer {layer!r} gave shape {list(shape)} for one sample, expected"
            " [1, tokens, neurons]; hook other modules"
        )
    return math.prod(shape[1:-1])


def _one_sample(
    model: LanguageModel, captured: Captured, inputs: dict[str, Tensor], layer: str
) -> Tensor:
    with running(model.directory, 1):
        captured.run(**inputs)
    return captured.pop(layer).float()


@contextmanager
def naming(directory: str) -> Iterator[None]:
    """Has errors about a model and its hooks name the directory of the model."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(("hooks: ", "control: ", "axis: ")):
            raise InputError(f"{directory}: {error}") from error
        if str(error).startswith("model: "):
            raise InputError(f"{directory}: {str(error).removeprefix('model: ')}") from error
        raise


@contextmanager
def running(directory: str, tokens: int) -> Iterator[None]:
    """Runs a model of a directory on some tokens: silent, and its errors in one line.

    Raises:
        InputError: for what the model raises.
    """
    try:
        with silent():
            yield
    except InputError:
        raise
    # Too little memory, or a model that reads more than it is given: images, say.
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{directory}: fails on {tokens} tokens ({one_line(error)}); use what it reads alone,"
            " or lower the tokens of a forward pass (batch tokens)"
        ) from error


def accepted_inputs(model: LanguageModel, windows: Windows) -> Collection[str]:
    """Names of what a model can be called with.

    Raises:
        InputError: its tokens would see padding, or be moved by it.
    """
    padding = windows.padding
    padded = padding is not None and bool(padding.any())
    if padding is not None and model.counts_padding and bool(padding[:: windows.window].any()):
        raise InputError(
            f"{model.directory}: numbers tokens from the start of a sample, so that padding before"
            " them moves them; fill samples up at their ends"
        )
    if padded and "attention_mask" not in model.accepted:
        raise InputError(
            f"{model.directory}: takes no attention_mask, so that its tokens would see padding;"
            " give it samples without any"
        )
    return model.accepted


@dataclass(frozen=True)
class _Found:
    neurons: int
    dtype: torch.dtype
    device: torch.device


class LiveModel:
    """Runs a model on ranges of tokens, and holds what its layers gave for the latest range."""

    def __init__(
        self, model: LanguageModel, captured: Captured, windows: Windows, check: RowCheck
    ) -> None:
        self.model, self.windows, self.most = model, windows, 1
        self._captured, self._check = captured, check
        self._taken: dict[str, Tensor] = {}  # of the latest pass, until they are popped
        self._accepted = accepted_inputs(model, windows)
        self._device = next(model.module.parameters()).device
        self._range = (0, 0)
        self._rows: dict[str, Tensor] = {}  # [tokens of the range, neurons]
        self._run(0, windows.probe)
        self.found = {name: self._probed(name) for name in captured.layers}

    def read(self, layer: str, start: int, stop: int) -> Tensor:
        if not 0 <= start <= stop <= self.windows.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.windows.tokens}")
        if (start, stop) != self._range or layer not in self._rows:
            self._range, self._rows = (start, stop), {}
            self._fill(start, stop)
        return self._rows[layer]

    def release(self, layer: str) -> None:
        self._rows.pop(layer, None)

    def _fill(self, start: int, stop: int) -> None:
        """Runs the windows around the range, and keeps its rows."""
        first, last = self.windows.around(start, stop)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.found}
        for begin, end in self.windows.batches(first, last, self.most):
            self._run(begin, end)
            # Of the first and last window, what was asked for: no rows are held for nothing.
            wanted = slice(max(start - begin, 0), min(stop, end) - begin)
            for name in parts:
                parts[name].append(self._pop(name, begin, end)[wanted])
        for name, found in self.found.items():
            some = parts.pop(name)
            none = torch.empty(0, found.neurons, dtype=found.dtype, device=found.device)
            self._rows[name] = some[0] if len(some) == 1 else torch.cat(some or [none])

    def _run(self, begin: int, end: int) -> None:
        given = self.windows.inputs(begin, end, self._device)
        inputs = {name: value for name, value in given.items() if name in self._accepted}

        def run(batch: Any) -> None:
            self._captured.run(**batch)

        with running(self.model.directory, end - begin):
            run(inputs)
            self._taken = self._check.take(self._captured, inputs, rows_of(given), run)

    def _pop(self, layer: str, begin: int, end: int) -> Tensor:
        """What the layer gave for these windows, ``[tokens, neurons]``."""
        value = self._taken.pop(layer)
        rows = value.reshape(-1, value.shape[-1])
        if len(rows) != end - begin:
            raise InputError(
                f"{self.model.directory}: layer {layer!r} gave shape {list(value.shape)}, so"
                f" {len(rows)} tokens, and the first layer {end - begin}; hook layers that have as"
                " many tokens a sample"
            )
        return rows if rows.stride(1) == 1 else rows.contiguous()

    def _probed(self, layer: str) -> _Found:
        rows = self._pop(layer, 0, self.windows.probe)
        check_dtype(rows.dtype, f"{self.model.directory}: layer {layer!r}")
        return _Found(rows.shape[1], rows.dtype, rows.device)


class _ModelLayer:
    """A `Layer` of a live model."""

    def __init__(self, name: str, source: LiveModel) -> None:
        found = source.found[name]
        self.name = name
        self.neurons, self.dtype, self.device = found.neurons, found.dtype, found.device
        self.tokens = source.windows.tokens
        self.shape = (self.tokens, self.neurons)
        self._source = source

    def read(self, start: int, stop: int) -> Tensor:
        return self._source.read(self.name, start, stop)

    def prepare(self, start: int, stop: int) -> None:
        """Does nothing: running the model ahead would take the device from what is done now."""

    def release(self, start: int, stop: int) -> None:
        self._source.release(self.name)

    def fingerprint(self) -> bytes:
        """Of the model and the tokens, which the values follow from."""
        digest = hashlib.sha256(repr((self.name, self.shape, str(self.dtype))).encode())
        digest.update(self._source.model.fingerprint + self._source.windows.digest)
        return digest.digest()
