"""Controls of language models, on the windows that the models read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from univfast.controls import (
    PILOT_TOKENS,
    add_shifts,
    find_sites,
    initialise,
    match_rates,
    shifts_of,
    weights_digest,
)
from univfast.controls.sites import RateSite
from univfast.errors import InputError
from univfast.inputs.layers import Activations, Layer
from univfast.native.place import numbers
from univfast.text.library import silent
from univfast.text.live_layers import LiveModel, naming, open_layers, running
from univfast.text.models import LanguageModel, load_model
from univfast.text.windows import Windows

if TYPE_CHECKING:
    from univfast.text.opening import TextRun

__all__ = ["Pilot", "control_activations", "make_control", "stored_control_activations"]


@dataclass(frozen=True, eq=False)
class Pilot:
    """The tokens that rates are matched on: at most 16,384, in windows spread over those of a text.

    Attributes:
        hooks: of the layers.
        windows: the windows alone, side by side.
        keep: bool ``[tokens]``, those that count; None for all.
        most: tokens of a forward pass.
        axis: of neurons, as `univfast.hooks.capture` takes it.
    """

    hooks: tuple[str, ...]
    windows: Windows
    keep: Tensor | None
    most: int
    axis: int | None = None

    @classmethod
    def of(cls, run: TextRun, number: int, tokens: int | None = None) -> Pilot:
        """Of a model of a run; ``tokens``: of the first so many tokens of the text alone."""
        windows, activations = run.windows, run.activations[number]
        stop = windows.whole(min(tokens or windows.tokens, windows.tokens))
        whole = stop // windows.window
        assert activations.about is not None
        assert activations.most is not None
        hooks = tuple(_texts(activations.about["hooks"]))
        # A text so short that it has one window is taken as it is.
        one = whole < 2
        chosen = numbers(stop) if one else _spread(windows.window, whole, run.keep)
        keep = None if run.keep is None else run.keep[chosen]
        axis: Any = activations.about.get("axis")
        return cls(hooks, windows.taken(chosen), keep, activations.most, axis)

    @property
    def tokens(self) -> int:
        """Tokens that rates are matched on."""
        kept = self.windows.tokens if self.keep is None else int(self.keep.sum())
        return min(PILOT_TOKENS, kept)

    @cached_property
    def digest(self) -> bytes:
        """Tells this pilot from others."""
        digest = hashlib.sha256(
            repr((self.hooks, self.most, self.axis)).encode() + self.windows.digest
        )
        if self.keep is not None:
            digest.update(self.keep.numpy().data)
        return digest.digest()

    def batches(self, model: LanguageModel) -> Iterator[tuple[Mapping[str, Tensor], object]]:
        """What the model takes, and the masks."""
        # A pass that holds one layer's rows, and not all, may have more tokens.
        most = PILOT_TOKENS if self.windows.tokens <= 2 * self.most else self.most
        for begin, end in self.windows.batches(0, self.windows.tokens, most):
            inputs = self._inputs(model, begin, end)
            mask = None
            if self.keep is not None:
                mask = self.keep[begin:end].view(-1, min(self.windows.window, end - begin))
            yield inputs, mask

    def sites(self, model: LanguageModel) -> list[RateSite]:
        """Where the model's layers are shifted. Raises InputError where one cannot be."""
        end = self.windows.probe
        with naming(model.directory), running(model.directory, end):
            return find_sites(
                model.module, self.hooks, self._inputs(model, 0, end), "model", self.axis
            )

    def _inputs(self, model: LanguageModel, begin: int, end: int) -> dict[str, Tensor]:
        inputs = self.windows.inputs(begin, end, next(model.module.parameters()).device)
        return {name: value for name, value in inputs.items() if name in model.accepted}


def make_control(model: LanguageModel, seed: int, pilot: Pilot | None, side: str = "") -> nn.Module:
    """A control of a model, with rates matched on a pilot; None for a plain one.

    Raises:
        InputError: of the model, which is named: it is a control itself, cannot be made anew, or
            its rates cannot be matched.
    """
    _check_trained(model)
    sites = [] if pilot is None else pilot.sites(model)
    with naming(model.directory), silent():
        control = initialise(model.module, seed, side)
    if pilot is not None:
        with naming(model.directory), running(model.directory, pilot.most):
            match_rates(model.module, control, sites, pilot.batches(model))
    return control


def control_activations(
    run: TextRun, number: int, seed: int, match_rate: bool = True, tokens: int | None = None
) -> Activations:
    """The activations of a control of a model of a run, on what the run's models read.

    Its layers have the names, widths and dtypes of the model's. The network is made when ``begin``
    is called or a layer is read, and given up by ``end``; one that is made again is the same, and
    its rates are matched once.

    Args:
        run: the models; opened while the layers are read.
        number: of the model in it.
        seed: of the control: of several, 0, 1, 2, ...
        match_rate: whether to match rates, by a pilot of what the run reads.
        tokens: take the pilot from the first so many tokens of the text; None for all.

    Raises:
        InputError: the model is a control itself, or its rates cannot be matched; when it is made:
            what `make_control` raises.
    """
    model, like = run.models[number], run.activations[number]
    _check_trained(model)
    pilot = Pilot.of(run, number, tokens)
    if match_rate:
        pilot.sites(model)  # refused at once, and not in the middle of a run
    # One model on two sides has two controls of one seed.
    digest = weights_digest(model.module)
    twins = sum(weights_digest(other.module) == digest for other in run.models[:number])
    source = _Source(model, pilot, match_rate, run.windows, seed, str(twins) if twins else "")
    layers: dict[str, Layer] = {
        name: _ControlLayer(layer, source) for name, layer in like.layers.items()
    }
    return dataclasses.replace(
        like,
        name=f"{like.name} (control {seed})",
        layers=layers,
        begin=source.begin,
        end=source.end,
    )


def stored_control_activations(run: TextRun, number: int, directory: str) -> Activations:
    """The activations of a control that `univfast control` wrote, as `control_activations`.

    Args:
        run: the models; opened while the layers are read.
        number: in it, of the model that the control stands for.
        directory: of the control.

    Raises:
        InputError: when it is loaded: it cannot be, or is of another architecture.
    """
    like = run.activations[number]
    source = _StoredSource(directory, run, number)
    layers: dict[str, Layer] = {
        name: _ControlLayer(layer, source) for name, layer in like.layers.items()
    }
    return dataclasses.replace(
        like, name=directory, layers=layers, begin=source.begin, end=source.end
    )


class _Source:
    """A control that is there while it is read."""

    def __init__(
        self,
        model: LanguageModel,
        pilot: Pilot,
        match_rate: bool,
        windows: Windows,
        seed: int,
        side: str,
    ) -> None:
        self._model, self._pilot, self._match_rate = model, pilot, match_rate
        self._windows, self._seed, self._side = windows, seed, side
        self._shifts: dict[str, Tensor] | None = None
        self._live: LiveModel | None = None
        self._stack = ExitStack()

    def begin(self) -> None:
        """Has the control made, if it is not there."""
        self.live()

    def live(self) -> LiveModel:
        """The control, which is made if it is not there."""
        if self._live is None:
            self._live = self._stack.enter_context(
                open_layers(self._control(), self._pilot.hooks, self._windows, self._pilot.axis)
            )
            self._live.most = self._pilot.most
        return self._live

    def end(self) -> None:
        """Gives the control up."""
        self._live = None
        self._stack.close()

    def release(self, layer: str) -> None:
        if self._live is not None:
            self._live.release(layer)

    def fingerprint(self) -> bytes:
        """Of what the control follows from; does not make it."""
        how = (self._seed, self._side, self._match_rate)
        digest = hashlib.sha256(repr(how).encode() + self._model.fingerprint)
        digest.update(self._pilot.digest if self._match_rate else b"")
        digest.update(self._windows.digest)
        return digest.digest()

    def _control(self) -> LanguageModel:
        pilot = self._pilot if self._match_rate and self._shifts is None else None
        network = make_control(self._model, self._seed, pilot, self._side)
        if pilot is not None:
            self._shifts = shifts_of(network)
        elif self._shifts is not None:
            add_shifts(network, self._shifts)
        return dataclasses.replace(self._model, module=network)


class _StoredSource(_Source):
    """A control in a directory, that is loaded while it is read."""

    def __init__(self, directory: str, run: TextRun, number: int) -> None:
        pilot = Pilot.of(run, number)
        super().__init__(run.models[number], pilot, False, run.windows, 0, "")
        self._directory, self._like = directory, run.activations[number]

    def live(self) -> LiveModel:
        known = self._live is not None
        live = super().live()
        for name, layer in () if known else self._like.layers.items():
            found = live.found.get(name)
            if found is None or found.neurons != layer.neurons:
                raise InputError(
                    f"{self._directory}: layer {name!r} is not as in {self._model.directory}; a"
                    " control is a network of the same architecture"
                )
        return live

    def fingerprint(self) -> bytes:
        if self._weights is None:
            self._weights = self._load().fingerprint
        return hashlib.sha256(self._weights + self._windows.digest).digest()

    _weights: bytes | None = None

    def _control(self) -> LanguageModel:
        return self._load()

    def _load(self) -> LanguageModel:
        device = next(self._model.module.parameters()).device
        control = load_model(self._directory, device)
        if control.vocabulary != self._model.vocabulary:
            raise InputError(
                f"{self._directory}: knows {control.vocabulary} tokens, {self._model.directory}"
                f" knows {self._model.vocabulary}; a control is a network of the same architecture"
            )
        return control


class _ControlLayer:
    """A `Layer` of a control: as that of its model."""

    def __init__(self, like: Layer, source: _Source) -> None:
        self.name, self.neurons, self.tokens = like.name, like.neurons, like.tokens
        self.dtype, self.device, self.shape = like.dtype, like.device, like.shape
        self._source = source

    def read(self, start: int, stop: int) -> Tensor:
        return self._source.live().read(self.name, start, stop)

    def prepare(self, start: int, stop: int) -> None:
        """Does nothing, as that of a live model."""

    def release(self, start: int, stop: int) -> None:
        self._source.release(self.name)

    def fingerprint(self) -> bytes:
        """Of the trained model, the seed and the tokens, which the values follow from."""
        digest = hashlib.sha256(repr((self.name, self.shape, str(self.dtype))).encode())
        digest.update(self._source.fingerprint())
        return digest.digest()


def _check_trained(model: LanguageModel) -> None:
    if model.control is not None:
        raise InputError(f"{model.directory}: is a control itself; give the trained model")


def _spread(window: int, whole: int, keep: Tensor | None) -> Tensor:
    """Tokens of windows that are spread over the first ``whole`` ones, as many as are needed."""
    places = numbers(whole * window).view(whole, window)
    kept = torch.full((whole,), window, dtype=torch.int64, device="cpu")
    if keep is not None and keep[: whole * window].any():
        kept = keep[: whole * window].view(whole, window).sum(1)
        places, kept = places[kept > 0], kept[kept > 0]
    count = min(len(places), -(-PILOT_TOKENS // max(1, int(kept.float().mean()))))
    return places[numbers(count) * len(places) // count].flatten()


def _texts(value: Any) -> Sequence[str]:
    return [str(x) for x in value]
