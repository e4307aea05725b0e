"""Batches of activations on their way into sums: what they are, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from univfast import native
from univfast.checks import as_integer, plain_text
from univfast.errors import InputError
from univfast.inputs.arrays import check_dtype, same_order, to_tensor
from univfast.inputs.layout import Layout
from univfast.inputs.sparse_tensors import is_scipy

__all__ = [
    "Origin",
    "PairOrigin",
    "as_layout",
    "bad_value",
    "batch_rows",
    "readable",
]


@dataclass(frozen=True)
class Origin:
    """Where a batch comes from: the names of both models and layers, and of its first token."""

    a: str = "a"
    b: str = "b"
    layer_a: str = "activations"
    layer_b: str = "activations"
    first_token: int = 0


@dataclass(frozen=True)
class PairOrigin:
    """Where a batch comes from: the names of both models, and the number of its first token."""

    a: str = "a"
    b: str = "b"
    first_token: int = 0


def readable(x: Tensor, device: torch.device) -> Tensor:
    """``[tokens, neurons]`` on a device, neurons contiguous: in place where strides permit it."""
    x = x.detach().to(device)
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous()


def bad_value(bad: native.BadValue, model: str, layer: str, token: int) -> InputError:
    """The error for a value that no finite statistic can include."""
    where = f"{model}: layer {layer!r} has {bad.value!r} at token {token}, neuron {bad.neuron}"
    if bad.value - bad.value == 0:
        return InputError(f"{where}, too large to square; rescale the activations")
    return InputError(f"{where}; mend the activations or leave such tokens out with a mask")


def as_layout(name: str, layers: Mapping[str, int]) -> Layout:
    """Layers side by side, of their widths by name. Raises InputError, TypeError."""
    if not isinstance(layers, Mapping):
        raise TypeError(f"{name}: expected a dict of layer to width, got {type(layers).__name__}")
    if not layers:
        raise InputError(f"{name}: has no layers; give at least one")
    for layer in layers:
        if not isinstance(layer, str):
            raise TypeError(f"{name}: layer names must be str, found {type(layer).__name__}")
    widths = [as_integer(f"{name}: {layer!r}", width, 1) for layer, width in layers.items()]
    return Layout(tuple(map(plain_text, layers)), tuple(widths))


def batch_rows(name: str, batch: object, layout: Layout) -> tuple[list[Tensor], tuple[int, ...]]:
    """The layers of a batch as ``[tokens, width]``, and the leading shape of the first."""
    by_layer = isinstance(batch, Mapping) and not is_scipy(batch)  # of which some are, by keys
    layers: Any = batch if by_layer else {layout.names[0]: batch}
    if set(layers) != set(layout.names):
        raise InputError(
            f"{name}: got layers {sorted(map(str, layers))}, expected {sorted(layout.names)}"
        )
    tensors = []
    for layer, width in zip(layout.names, layout.widths, strict=True):
        where = f"{name}: layer {layer!r}"
        x = to_tensor(layers[layer], where)
        check_dtype(x.dtype, where)
        if x.dim() < 1 or x.shape[-1] != width:
            raise InputError(
                f"{where}: got shape {list(x.shape)}, expected [..., {width}] (the last axis is"
                " neurons)"
            )
        tensors.append(x)
    leading = tuple(tensors[0].shape[:-1])
    rows = [x.reshape(-1, x.shape[-1]) for x in tensors]
    for layer, x, flat in zip(layout.names, tensors, rows, strict=True):
        if len(flat) != len(rows[0]) or not same_order(tuple(x.shape[:-1]), leading):
            raise InputError(
                f"{name}: layers {layout.names[0]!r} and {layer!r} have shapes"
                f" {list(tensors[0].shape)} and {list(x.shape)}; give the same tokens of all layers"
            )
    return rows, leading
