"""PyTorch's files, never executing what a pickle asks for."""

from __future__ import annotations

import pickle
import re
import sys
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.mapping import MappedFile, Member
from univfast.inputs.stored import Stored, from_bits, from_memory

__all__ = ["is_checkpoint", "read_torch"]

_SAVE_AGAIN = "save a tensor, or a dict of tensors, with torch.save"


def is_checkpoint(content: dict[str, Any]) -> bool:
    """Whether this is what ``univfast train`` saves."""
    kind = content.get("format")
    return isinstance(kind, str) and kind == "univfast-checkpoint"


def read_torch(
    path: str, mapped: MappedFile, members: list[Member] | None, name: str, lone: str
) -> dict[str, Stored] | dict[str, Any]:
    """The tensors of the file, in place where they lie there as PyTorch writes them.

    ``members`` are those of the zip file that it is, None for the format from before PyTorch 1.6,
    which is loaded whole. A checkpoint of ``univfast train`` is returned as the dict that it is.
    """
    if members is None:
        return _tensors(_load(path, name, map_location="cpu"), name, lone)
    # Without the data: types, shapes, and the place of each storage in the file.
    content = _load(path, name, map_location="meta")
    if isinstance(content, dict) and is_checkpoint(content):
        checkpoint: dict[str, Any] = _load(path, name, map_location="cpu")
        return checkpoint
    tensors = {lone: content} if isinstance(content, torch.Tensor) else content
    spans = _spans(tensors, _places(mapped, members)) if isinstance(tensors, dict) else None
    if spans is not None:
        _check_names(tensors, name)
        return {layer: _map(mapped, tensors[layer], span) for layer, span in spans.items()}
    # Compressed by another program, in the other byte order, or a PyTorch that does not tell the
    # places: PyTorch's own mapping, whose pages the kernel takes back only when it needs them.
    stored = not any(member.compressed for member in members)
    return _tensors(_load(path, name, map_location="cpu", mmap=stored), name, lone)


def _load(path: str, name: str, **options: Any) -> Any:
    try:
        return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds more than tensors (it asks for {wanted[1]})"
            if wanted
            else "is damaged or holds more than tensors"
        )
        raise InputError(f"{name}: {what} and was not executed; {_SAVE_AGAIN}") from error


def _places(mapped: MappedFile, members: list[Member]) -> set[tuple[int, int]]:
    """Where in the file storages lie as PyTorch needs them: (start, stop) in bytes."""
    order = [member for member in members if member.name.endswith("/byteorder")]
    if any(mapped.bytes[slice(*m.span)].tobytes() != sys.byteorder.encode() for m in order):
        return set()
    return {member.span for member in members if not member.compressed}


def _spans(
    tensors: dict[Any, Any], places: set[tuple[int, int]]
) -> dict[Any, tuple[int, int]] | None:
    """Where each tensor's storage lies, or None where they do not all lie at one of ``places``.

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
