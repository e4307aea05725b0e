"""The axis of stored arrays that neurons are on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Activations, Layer, StoredLayer, fingerprint
from univfast.inputs.shards import ShardedLayer

__all__ = ["along_axis"]

# Axes of an array up to which the last is taken for neurons: [samples, tokens, neurons].
_CLEAR = 3


def along_axis(activations: Activations, axis: int | None) -> Activations:
    """Activations whose neurons are on an axis of each array, as it was found.

    Args:
        activations: as they were opened, with neurons on the last axis.
        axis: None for the last, of arrays of three axes at most.

    Raises:
        InputError: an array has no such axis; or more than three, and none was given. Where other
            layers are left, a layer that is refused for this joins ``unusable``. Or tokens were
            moved that a mask of the store is of.
    """
    layers: dict[str, Layer] = {}
    refused = dict(activations.unusable)
    for name, layer in activations.layers.items():
        try:
            layers[name] = _along(activations.name, layer, axis)
        except InputError as error:  # noqa: PERF203
            refused[name] = error
    moved = any(layer is not activations.layers[name] for name, layer in layers.items())
    if moved and activations.keep is not None:
        raise InputError(
            f"axis: {activations.name} has a mask of its own, which is of the axes before the last;"
            " leave it out of the file, and give mask="
        )
    if not layers:
        raise next(iter(refused[name] for name in activations.layers))
    return replace(activations, layers=layers, unusable=refused)


def _along(name: str, layer: Layer, axis: int | None) -> Layer:
    shape = layer.shape
    if axis is None:
        if len(shape) > _CLEAR:
            raise InputError(
                f"axis: layer {layer.name!r} of {name} has shape {list(shape)}, which can be read"
                f" as {shape[-1]} neurons on the last axis (axis=-1), or as {shape[1]} channels"
                " (axis=1); say which"
            )
        return layer
    axes = len(shape)
    if not -axes <= axis < axes:
        raise InputError(
            f"axis: layer {layer.name!r} of {name} has shape {list(shape)}, and no axis {axis};"
            f" give one from {-axes} to {axes - 1}"
        )
    if axis % axes == axes - 1:
        return layer
    if isinstance(layer, (StoredLayer, ShardedLayer)):
        return layer.along(axis)
    if axis % axes == 0:
        raise InputError(
            f"axis: is {axis}, the first of layer {layer.name!r} of {name}, {list(shape)}, along"
            " which it is read in slices; save neurons on another axis"
        )
    return _AlongAxis(layer, axis % axes)


class _AlongAxis:
    """A `Layer` that is read from another one, a sample at least at a time."""

    def __init__(self, layer: Layer, axis: int) -> None:
        self._layer, self._axis = layer, axis
        self.name, self.dtype, self.device = layer.name, layer.dtype, layer.device
        tokens = [size for i, size in enumerate(layer.shape) if i != axis]
        self.neurons = layer.shape[axis]
        self.shape: tuple[int, ...] = (*tokens, self.neurons)
        self.tokens = math.prod(tokens)
        self._tokens = self.tokens // layer.shape[0]  # of a sample
        self._rows = layer.tokens // layer.shape[0]

    def read(self, start: int, stop: int) -> Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        if start == stop:
            return torch.empty(0, self.neurons, dtype=self.dtype, device=self.device)
        first, last = self._samples(start, stop)
        rows = self._layer.read(first * self._rows, last * self._rows)
        array = rows.view(last - first, *self._layer.shape[1:])
        found = array.movedim(self._axis, -1).reshape(-1, self.neurons)
        begin = first * self._tokens
        return found[start - begin : stop - begin].contiguous()

    def prepare(self, start: int, stop: int) -> None:
        if start < stop:
            first, last = self._samples(start, stop)
            self._layer.prepare(first * self._rows, last * self._rows)

    def release(self, start: int, stop: int) -> None:
        if start < stop:
            first, last = self._samples(start, stop)
            self._layer.release(first * self._rows, last * self._rows)

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _samples(self, start: int, stop: int) -> tuple[int, int]:
        """The samples that tokens are in."""
        return start // self._tokens, -(-stop // self._tokens)
