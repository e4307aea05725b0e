"""PyTorch's files, never executing what a pickle asks for."""

from __future__ import annotations

import pickle
import re
import sys
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import MappedFile, Member
from univfast.inputs.model_paths import is_model_file
from univfast.inputs.stored import Stored, from_bits, from_memory

__all__ = ["read_torch"]

_ALIGNMENT = 64  # bytes

_SAVE_AGAIN = "save a tensor, or a dict of tensors, with torch.save"


def read_torch(file: SourceFile, lone: str) -> dict[str, Stored] | dict[str, Any]:
    """The tensors of the file, in place where they lie there as PyTorch writes them.

    Those of the format from before PyTorch 1.6 are loaded whole. A model file of ``univfast train``
    is returned as the dict that it is.
    """
    path, mapped, members = file.path, file.mapped, file.members
    if members is None or not _as_written(mapped, members):
        content = _load(path, map_location="cpu")
        return content if is_model_file(content) else _tensors(content, path, lone)
    # Without the data: types, shapes, and the place of each storage in the file.
    content = _load(path, map_location="meta")
    if is_model_file(content):
        found: dict[str, Any] = _load(path, map_location="cpu")
        return found
    tensors = {lone: content} if isinstance(content, torch.Tensor) else content
    data = {member.span for member in members if "/data/" in member.name}
    spans = _spans(tensors, data) if isinstance(tensors, dict) else None
    if spans is not None:
        _check_names(tensors, path)
        return {layer: _map(mapped, tensors[layer], span) for layer, span in spans.items()}
    # Not written by PyTorch, so that the places are not told. PyTorch's own
    # mapping will do, whose pages the kernel takes back only when it needs them, but its tensors
    # lie wherever the data does, so only where that is aligned as PyTorch aligns it.
    aligned = all(start % _ALIGNMENT == 0 for start, _ in data)
    return _tensors(_load(path, map_location="cpu", mmap=aligned), path, lone)


def _as_written(mapped: MappedFile, members: list[Member]) -> bool:
    """Whether the bytes of the storages are in the file as this machine holds them in memory."""
    # PyTorch finds members in any case. With the other order it crashes without the data, and with
    # compression it maps the compressed bytes as if they were the values (both in 2.13).
    orders = [m.span for m in members if m.name.lower().endswith("/byteorder")]
    found = {mapped.bytes[slice(*span)].tobytes() for span in orders} or {b"little"}
    return found == {sys.byteorder.encode()} and not any(member.compressed for member in members)


def _load(path: str, **options: Any) -> Any:
    try:
        return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds more than tensors (it asks for {wanted[1]})"
            if wanted
            else "is damaged or holds more than tensors"
        )
        raise InputError(f"{path}: {what} and was not executed; {_SAVE_AGAIN}") from error


def _spans(
    tensors: dict[Any, Any], places: set[tuple[int, int]]
) -> dict[Any, tuple[int, int]] | None:
    """Where each tensor's storage lies (start, stop), or None unless each is one of ``places``.

    PyTorch computes its answer from its own way of writing; only what the zip file's directory
    confirms is trusted.
    """
    spans = {}
    for layer, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return None
        storage = value.untyped_storage()
        start = getattr(storage, "_checkpoint_offset", None)
        if start is None or (start, start + storage.nbytes()) not in places:
            return None
        spans[layer] = (start, start + storage.nbytes())
    return spans


def _map(mapped: MappedFile, tensor: torch.Tensor, span: tuple[int, int]) -> Stored:
    size = tensor.dtype.itemsize
    bits = mapped.array(
        tuple(tensor.shape),
        f"i{size}" if size <= 8 else "c16",  # complex128, refused later as any complex dtype is
        (span[0] + int(tensor.storage_offset()) * size, span[1]),
        tuple(stride * size for stride in tensor.stride()),
    )
    return from_bits(bits, tensor.dtype, mapped)


def _tensors(content: object, name: str, lone: str) -> dict[str, Stored]:
    tensors = {lone: content} if isinstance(content, torch.Tensor) else content
    if not isinstance(tensors, dict):
        raise InputError(f"{name}: holds a {type(content).__name__}; {_SAVE_AGAIN}")
    _check_names(tensors, name)
    for layer, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{name}: layer {layer!r} is a {type(value).__name__}, not a tensor; {_SAVE_AGAIN}"
            )
    return {
        layer: from_memory(value, f"{name}: layer {layer!r}", InputError)
        for layer, value in tensors.items()
    }


def _check_names(tensors: dict[Any, Any], name: str) -> None:
    for layer in tensors:
        if not isinstance(layer, str):
            raise InputError(f"{name}: layer names must be text, found {layer!r}; {_SAVE_AGAIN}")
