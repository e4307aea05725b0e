"""PyTorch's files, never executing what a pickle asks for."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.mapping import MappedFile
from univfast.inputs.model_paths import is_model_file
from univfast.inputs.pickles import (
    SAVE_AGAIN,
    Other,
    Pickle,
    SparsePlace,
    TensorPlace,
    kind_of,
    more_than_tensors,
    shown_key,
)
from univfast.inputs.plain import by_rows
from univfast.inputs.quantised import Quantiser
from univfast.inputs.sparse import SparseStored
from univfast.inputs.sparse_names import said_integers, says_width
from univfast.inputs.sparse_tensors import of_parts
from univfast.inputs.stored import Stored, from_bits
from univfast.inputs.zip_files import Member, read_member
from univfast.machine.reading import open_file, reading

__all__ = ["load_plain", "read_torch"]

# Bytes. One of ten thousand tensors has two megabytes.
_MOST_PICKLE = 64 << 20
# What files from before PyTorch 1.6 begin with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_torch(
    file: SourceFile, lone: str
) -> dict[str, Stored | SparseStored | InputError | tuple[int, ...]] | dict[str, Any]:
    """The tensors of the file, in place; and the integers that may say how many features are.

    Those of the format from before PyTorch 1.6, and compressed or negated ones, are loaded whole. A
    model file of ``univfast train`` is returned as the dict that it is.
    """
    path = file.path
    content, data = _described(file)
    if is_model_file(content):
        model: dict[str, Any] = load_plain(path)
        return model
    tensors = {lone: content} if isinstance(content, (TensorPlace, Other)) else content
    if isinstance(content, Other) and content.refused:
        raise InputError(f"{path}: {more_than_tensors(content.kind)}")
    if not isinstance(tensors, dict) or (isinstance(content, Other) and not content.tensor):
        raise InputError(f"{path}: holds a {kind_of(content)}; {SAVE_AGAIN}")
    found: dict[str, Stored | SparseStored | InputError | tuple[int, ...]] = {}
    for key, value in tensors.items():
        layer = key if isinstance(key, str) else f"[{shown_key(key)}]"
        if layer in found:
            raise InputError(f"{path}: has two layers {layer!r}; {SAVE_AGAIN}")
        try:
            found[layer] = _stored(key, value, data, f"{path}: layer {layer!r}")
        except InputError as error:
            found[layer] = error
    return found


def _stored(
    key: object, value: object, data: _Data, where: str
) -> Stored | SparseStored | tuple[int, ...]:
    """A tensor, or what says a width. Raises InputError for anything else."""
    if not isinstance(key, str):
        raise InputError(f"{where}: layer names must be text, found {shown_key(key)}; {SAVE_AGAIN}")
    if isinstance(value, SparsePlace):
        parts = [data.stored(part) for part in value.parts]
        return of_parts(value.kind, parts, value.size, where)
    if says_width(key) and (said := said_integers(value)):
        return said
    if isinstance(value, Other) and value.tensor:
        raise InputError(
            f"{where}: is a {value.kind} tensor; pass a dense one that holds its values"
            f"{by_rows(value.kind)}"
        )
    if isinstance(value, Other) and value.refused:
        raise InputError(f"{where}: {more_than_tensors(value.kind)}")
    if not isinstance(value, TensorPlace):
        raise InputError(f"{where} is a {kind_of(value)}, not a tensor; {SAVE_AGAIN}")
    return data.stored(value)


def load_plain(path: str) -> Any:
    """What ``torch.load(weights_only=True)`` gives of a file, looked through before.

    Raises:
        InputError: it is damaged, or holds more than plain tensors, text, numbers, and lists and
            dicts of them; or tensors are compressed, or larger than what the file holds.
    """
    with reading(path):
        file = SourceFile(path)
        _, data = _described(file)
        others = data.pickle.others
        if others:
            raise InputError(f"{path}: holds more than plain tensors ({others[0].kind})")
        data.check_whole()
        return torch.load(path, map_location="cpu", weights_only=True)


@dataclass
class _Data:
    """The data of a file: where each storage lies, and in which byte order."""

    file: SourceFile
    pickle: Pickle
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    compressed: dict[str, Member] = field(default_factory=dict)
    order: str = "<"
    in_place: bool = True
    loaded: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def check_storages(self) -> None:
        """Raises ValueError unless each storage has as many bytes as the pickle says."""
        for key, storage in self.pickle.storages.items():
            if key in self.compressed:
                found = self.compressed[key].size
            elif key in self.spans:
                found = self.spans[key][1] - self.spans[key][0]
            else:
                raise ValueError(f"storage {key!r} is missing")
            if found != storage.bytes:
                raise ValueError(f"storage {key!r} has {found} bytes, not {storage.bytes}")

    def check_whole(self) -> None:
        """Raises ValueError where PyTorch would take more memory than the file has bytes."""
        if self.compressed:
            raise ValueError("compressed")
        if self.pickle.repeats:
            raise ValueError("tensors whose values lie upon each other")

    def stored(self, place: TensorPlace) -> Stored:
        """A tensor: in place, or copied where it cannot be."""
        size, key = place.dtype.itemsize, place.storage.key
        # PyTorch has types that NumPy has not, so values are mapped as their bits.
        bits = np.dtype(f"{self.order}{f'i{size}' if size <= 8 else 'c16'}")
        strides = tuple(stride * size for stride in place.stride)
        mapped: MappedFile | None = None
        if key in self.spans and self.in_place:
            mapped = self.file.mapped
            start, stop = self.spans[key]
            array = mapped.array(place.size, bits, (start + place.offset * size, stop), strides)
        else:
            data = self._load(key)[place.offset * size :].data
            array = np.ndarray(place.size, bits, buffer=data, strides=strides)
        found = from_bits(array, place.dtype, mapped)
        if place.quantised is not None:
            where = f"{self.file.path}: the scale of a quantised tensor"
            return self._quantiser(place.quantised, where).on(found, where)
        return Stored(found.tensor().neg(), place.dtype) if place.negated else found

    def _quantiser(self, numbers: tuple[Any, Any], where: str) -> Quantiser:
        """Of tensors, or of plain numbers. Raises ValueError for all else."""
        parts = []
        for number in numbers:
            if isinstance(number, TensorPlace) and number.quantised is None:
                parts.append(self.stored(number).tensor())
            elif type(number) in (int, float):
                parts.append(torch.tensor(number, dtype=torch.float64, device="cpu"))
            else:
                raise ValueError("a quantised tensor without scale and zero point")
        return Quantiser.of(parts[0], parts[1], where)

    def _load(self, key: str) -> NDArray[np.uint8]:
        if key not in self.loaded and key in self.spans:
            self.loaded[key] = self.file.mapped.bytes[slice(*self.spans[key])].copy()
        elif key not in self.loaded:
            with open_file(self.file.path) as file:
                self.loaded[key] = read_member(file, self.compressed[key])
        return self.loaded[key]


def _described(file: SourceFile) -> tuple[Any, _Data]:
    """What the file holds, with `TensorPlace` for tensors; and where their data is."""
    data = _Data(file, Pickle(file.path))
    content = _old(file, data) if file.members is None else _zipped(file, file.members, data)
    data.check_storages()
    return content, data


def _zipped(file: SourceFile, members: list[Member], data: _Data) -> Any:
    """Of a file as PyTorch writes them since 1.6, a zip file."""
    roots = [
        root
        for member in members
        if "/" not in (root := member.name.removesuffix("/data.pkl")) and root != member.name
    ]
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} pickles of data")
    by_name = {member.name.removeprefix(f"{roots[0]}/"): member for member in members}
    if "byteorder" in by_name:
        order = _content(file, by_name["byteorder"], len("little"))
        data.order = {b"little": "<", b"big": ">"}[order]
    for name, member in by_name.items():
        if name.startswith("data/"):
            key = name.removeprefix("data/")
            if member.compressed:
                data.compressed[key] = member
            else:
                data.spans[key] = member.span
    return data.pickle.read(io.BytesIO(_content(file, by_name["data.pkl"], _MOST_PICKLE)))


def _content(file: SourceFile, member: Member, most: int) -> bytes:
    if member.size > most:
        raise ValueError(f"{member.name} has {member.size} bytes, over {most}")
    if not member.compressed:
        return file.mapped.bytes[slice(*member.span)].tobytes()
    with open_file(file.path) as opened:
        return read_member(opened, member).tobytes()


def _old(file: SourceFile, data: _Data) -> Any:
    """Of a file from before PyTorch 1.6: pickles, and then the storages."""
    data.in_place = False
    whole = file.mapped.bytes
    stream = io.BytesIO(whole[:_MOST_PICKLE].tobytes())
    first = data.pickle.read(stream)
    if first != _MAGIC or data.pickle.read(stream) != _PROTOCOL:
        raise InputError(f"{file.path}: is a pickle that torch.save did not write; {SAVE_AGAIN}")
    data.pickle.read(stream)  # about the machine; the data is little-endian on all
    content = data.pickle.read(stream)
    keys = data.pickle.read(stream)
    at = stream.tell()
    for key in keys:
        storage = data.pickle.storages[key]
        start = at + 8
        at = start + storage.bytes
        values = int.from_bytes(whole[start - 8 : start].tobytes(), "little")
        if values != storage.values or at > len(whole):
            raise ValueError(f"storage {key!r} has {values} values, not {storage.values}")
        data.spans[key] = start, at
    if at != len(whole):
        raise ValueError(f"{len(whole) - at} bytes behind the storages")
    return content
