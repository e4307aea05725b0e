"""The activations of one model: layers that are read slice by slice, wherever they lie."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.formats import is_checkpoint
from univfast.inputs.arrays import check_dtype
from univfast.inputs.files import read_file
from univfast.inputs.stored import Stored, from_memory

__all__ = ["LONE_LAYER", "Activations", "Layer", "StoredLayer", "open_activations"]

LONE_LAYER = "activations"
# Tokens that tell one set of activations from another: first, last and some between.
_SAMPLES = 16


class Layer(Protocol):
    """One layer's activations ``[..., neurons]``, seen as ``[tokens, neurons]``.

    Attributes: ``name``; ``tokens`` and ``neurons``, both at least 1; ``dtype``; ``shape``, that
    of the array as it was found; ``device``, where they are.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def neurons(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Tokens ``start`` to ``stop``, ``[stop - start, neurons]``, neurons with stride 1.

        In place wherever the layout permits, else a copy of this slice alone. Never write to it:
        it may be the user's own memory, or a file that is mapped read-only.
        """

    def prepare(self, start: int, stop: int) -> None:
        """These tokens will be read next: begin to bring them, without waiting."""

    def release(self, start: int, stop: int) -> None:
        """The caller is done with these tokens: give back what memory they take.

        They can be read again, and slices of files read before stay valid.
        """

    def fingerprint(self) -> bytes:
        """Tells these activations from others: a digest of name, shape, dtype and some values."""


class StoredLayer:
    """A `Layer` of an array in memory, or in place in a mapped file."""

    def __init__(self, name: str, stored: Stored, source: str) -> None:
        """Raises InputError, naming ``source`` and the layer, for what cannot be activations."""
        self.name = name
        self.dtype = stored.dtype
        self.shape = tuple(stored.data.shape)
        _check(self, source)
        self.neurons = self.shape[-1]
        self.tokens = math.prod(self.shape[:-1])
        self._stored = stored
        self._data = _flat(stored.data)  # [tokens, neurons] where the strides allow it

    @property
    def device(self) -> torch.device:
        """Where the activations are."""
        return self._data.device if isinstance(self._data, torch.Tensor) else torch.device("cpu")

    def read(self, start: int, stop: int) -> torch.Tensor:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        rows = self._rows(start, stop)
        if not isinstance(rows, torch.Tensor):
            return self._stored.copy_rows(rows)
        if rows.stride(1) != 1 and self.neurons == 1:
            rows = rows.as_strided((stop - start, 1), (rows.stride(0), 1))
        rows = rows.resolve_neg()
        return rows if rows.stride(1) == 1 else rows.contiguous()

    def prepare(self, start: int, stop: int) -> None:
        mapped = self._stored.mapped
        if mapped is not None and start < stop:
            mapped.prepare(*self._addresses(start, stop))

    def release(self, start: int, stop: int) -> None:
        mapped = self._stored.mapped
        if mapped is not None and start < stop:
            mapped.release(*self._addresses(start, stop))

    def fingerprint(self) -> bytes:
        return fingerprint(self)

    def _rows(self, start: int, stop: int) -> torch.Tensor | NDArray[Any]:
        data, leading = self._data, self._data.shape[:-1]
        if len(leading) == 1:
            return data[start:stop]
        if isinstance(data, torch.Tensor):
            tokens = torch.arange(start, stop, device=data.device)
            return data[torch.unravel_index(tokens, leading)]
        return data[np.unravel_index(np.arange(start, stop), leading)]

    def _addresses(self, start: int, stop: int) -> tuple[int, int]:
        """First and last byte address + 1 of these tokens, or a little around them."""
        inner = math.prod(self._data.shape[1:-1])
        part = self._data[start // inner : (stop - 1) // inner + 1]
        if isinstance(part, torch.Tensor):
            low, size = part.data_ptr(), part.element_size()
            strides = [stride * size for stride in part.stride()]
        else:
            low, size, strides = part.ctypes.data, part.itemsize, list(part.strides)
        last = sum((n - 1) * stride for n, stride in zip(part.shape, strides, strict=True))
        return low, low + last + size  # a file's strides are never negative


def fingerprint(layer: Layer) -> bytes:
    """What `Layer.fingerprint` is: of layers that can be read anywhere."""
    digest = hashlib.sha256(repr((layer.name, layer.shape, str(layer.dtype))).encode())
    for i in range(_SAMPLES):
        token = i * (layer.tokens - 1) // (_SAMPLES - 1)
        values = layer.read(token, token + 1).cpu().contiguous().view(torch.uint8)
        digest.update(values.numpy().tobytes())
        layer.release(token, token + 1)
    return digest.digest()


@dataclass(frozen=True)
class Activations:
    """The activations of one model, by layer name.

    Attributes:
        name: the file as the user named it, or the argument.
        layers: at least one.
        test_set: names the test set that a checkpoint's activations were captured on; None for all
            other sources.
        unusable: arrays beside the layers that cannot be activations (token numbers, say), with the
            reason.
        window: slices to read begin at multiples of so many tokens.
        most: tokens to read at a time, at most; None where only memory bounds them.
    """

    name: str
    layers: dict[str, Layer]
    test_set: str | None = None
    unusable: dict[str, InputError] = field(default_factory=dict)
    window: int = 1
    most: int | None = None


def open_activations(source: object, name: str) -> Activations:
    """Activations from a tensor, an array, a dict of layer name to these, or a file.

    Args:
        source: ``[..., neurons]`` in float64, float32, float16 or bfloat16 as a torch.Tensor, a
            NumPy array or an object with ``__dlpack__``, alone (its layer is then called
            ``activations``) or in a dict; or the path of a ``.pt``, ``.npy``, ``.npz`` or
            ``.safetensors`` file, or of a checkpoint of ``univfast train``, whose activations are
            captured. Files are mapped and read in place; members of a compressed ``.npz``
            and files in PyTorch's format from before version 1.6 are loaded whole.
        name: what to call ``source`` in errors where it has no file name.

    Raises:
        InputError: a file that cannot be read, or what cannot be activations.
        TypeError: ``source`` is none of these.
    """
    if isinstance(source, Activations):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open_file(os.fsdecode(source))
    if isinstance(source, Mapping):
        for layer in source:
            if not isinstance(layer, str):
                raise TypeError(f"{name}: layer names must be str, found {type(layer).__name__}")
        values = dict(source)
    elif isinstance(source, (torch.Tensor, np.ndarray)) or hasattr(source, "__dlpack__"):
        values = {LONE_LAYER: source}
    else:
        raise TypeError(
            f"{name}: expected a tensor, an array, a dict of layers or a path, "
            f"found {type(source).__name__}"
        )
    stored = {
        layer: from_memory(value, f"{name}: layer {layer!r}", TypeError)
        for layer, value in values.items()
    }
    return _activations(name, stored)


def _open_file(path: str) -> Activations:
    content = read_file(path, LONE_LAYER)
    if not is_checkpoint(content):
        return _activations(path, content)
    # Only a checkpoint needs the model, and only then is it imported.
    from univfast.experiment import capture_mlp, from_dict, test_set_name

    checkpoint = from_dict(content, path)
    captured = capture_mlp(checkpoint, site="pre")
    stored = {layer: Stored(tensor, tensor.dtype) for layer, tensor in captured.items()}
    return _activations(path, stored, test_set_name(checkpoint))


def _activations(
    name: str, stored: Mapping[str, Stored], test_set: str | None = None
) -> Activations:
    if not stored:
        raise InputError(f"{name}: holds no layers; give at least one")
    layers: dict[str, Layer] = {}
    unusable: dict[str, InputError] = {}
    for layer, array in stored.items():
        try:
            layers[layer] = StoredLayer(layer, array, name)
        except InputError as error:  # noqa: PERF203
            unusable[layer] = error
    if not layers:
        raise next(iter(unusable.values()))
    return Activations(name, layers, test_set, unusable)


def _check(layer: StoredLayer, source: str) -> None:
    where = f"{source}: layer {layer.name!r}"
    try:
        layer.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} has a name that is not Unicode; rename it") from None
    check_dtype(layer.dtype, where)
    if len(layer.shape) < 2:
        raise InputError(
            f"{where} has shape {list(layer.shape)}; expected [..., neurons] with at least 2 axes"
        )
    if layer.shape[-1] == 0:
        raise InputError(f"{where} has shape {list(layer.shape)}, so no neurons; give at least one")
    if 0 in layer.shape:
        raise InputError(f"{where} has shape {list(layer.shape)}, so no tokens; give at least one")


def _flat(data: torch.Tensor | NDArray[Any]) -> torch.Tensor | NDArray[Any]:
    """``[tokens, neurons]`` in place, or ``data`` where its strides do not allow that."""
    if isinstance(data, torch.Tensor):
        try:
            return data.view(-1, data.shape[-1])
        except RuntimeError:
            return data
    return data.reshape(-1, data.shape[-1]) if data.flags.c_contiguous else data
