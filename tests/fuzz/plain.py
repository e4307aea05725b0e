"""Files of activations read slowly and strictly: what is in them, or an error of any kind.

Nothing here is shared with the package. Where a file can be read in two ways it is an error too.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

LONE = "activations"


def read(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by name, of whatever format it is; a lone one is `LONE`."""
    content = path.read_bytes()
    if content.startswith(b"\x93NUMPY"):
        return {LONE: _npy(content)}
    if content.startswith(b"PK"):
        members = _Zip(content)
        if any(name.endswith("/data.pkl") for name in members.names):
            return _pt(members)
        return _npz(members)
    if content.startswith(b"\x80") and content[8:9] != b"{":  # of any protocol
        return _legacy_pt(content)
    return _safetensors(content)


def _npz(members: _Zip) -> dict[str, Tensor]:
    found = {}
    for name in members.names:
        with suppress(TypeError):  # of a dtype that is passed over
            found[name.removesuffix(".npy")] = _npy(members[name])
    return found


def _npy(content: bytes) -> Tensor:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


class _Zip:
    """A zip file by its directory alone: what is damaged elsewhere and not asked for is no error.

    Sums of what is compressed are checked; what is read in place has the bytes that it has.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            self._infos = archive.infolist()
        self.names = [info.filename for info in self._infos]

    def __getitem__(self, name: str) -> bytes:
        (info,) = [x for x in self._infos if x.filename.lower() == name.lower()]
        head = self._content[info.header_offset : info.header_offset + 30]
        if not head.startswith(b"PK\x03\x04") or info.flag_bits & 1:
            raise ValueError(f"{name} is not there")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
        data = self._content[start : start + info.compress_size]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            # No further than its size, as all do: a damaged stream may go on behind that.
            data = zlib.decompressobj(-15).decompress(data, max(info.file_size, 1))
            if zlib.crc32(data) != info.CRC:
                raise ValueError(f"{name} has another checksum")
        elif info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed in another way")
        if len(data) != info.file_size:
            raise ValueError(f"{name} has {len(data)} bytes, not {info.file_size}")
        return data


def _safetensors(content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    # The library keeps the order of the data; ours that of the header, which no test relies on.
    return dict(load(content))


# ---- PyTorch's files -----------------------------------------------------------------------------


class _Kind(NamedTuple):
    """A type of storage; one made of it stands for nothing that is read."""

    dtype: torch.dtype

    def __call__(self, *_: object) -> None:
        return None


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Tensors, and dicts of them, alone. A storage is the list that `put` has of its key.

    As PyTorch's, it takes any number for the protocol.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,  # type: ignore[attr-defined]
        pickle.PROTO[0]: lambda self: self.read(1),
    }

    def __init__(self, content: io.BytesIO, put: Any) -> None:
        super().__init__(content)
        self._put = put

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch", "Size"): tuple,
        }
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        what, kind, key, _, numel, *_ = pid
        if what != "storage":
            raise ValueError(f"{pid} is no storage")
        return self._put(kind.dtype, str(key), numel)


def _rebuilt(values: list[Any], offset: int, shape: Any, strides: Any, *_: Any) -> Any:
    """Called while the values may not be known yet: the tensor is made of them later."""
    return _Later(values, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, strides)))


class _Later(NamedTuple):
    values: list[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def tensor(self) -> Tensor:
        (storage,) = self.values
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and self.offset + last >= len(storage):
            raise ValueError("reaches beyond its storage")
        return torch.as_strided(storage, self.shape, self.strides, self.offset)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _storage(data: bytes, dtype: torch.dtype, swapped: bool) -> Tensor:
    """All of the data, whose size the pickle gives too, and need not."""
    size = len(data) // dtype.itemsize * dtype.itemsize
    values = np.frombuffer(data[:size], f"u{dtype.itemsize}")
    whole = values.byteswap() if swapped else values.copy()
    return torch.from_numpy(whole.view(f"i{dtype.itemsize}")).view(dtype)


def _named(content: Any) -> dict[str, Tensor]:
    found = content if isinstance(content, dict) else {LONE: content}
    if not all(isinstance(name, str) and isinstance(x, _Later) for name, x in found.items()):
        raise ValueError("is no dict of tensors")
    return {name: x.tensor() for name, x in found.items()}


def _pt(members: _Zip) -> dict[str, Tensor]:
    root = members.names[0].split("/")[0]
    order = b"little"
    if any(name.lower() == f"{root}/byteorder" for name in members.names):
        order = members[f"{root}/byteorder"]
    if order not in (b"little", b"big"):
        raise ValueError(f"byte order {order!r}")

    def storage(dtype: torch.dtype, key: str, numel: int) -> list[Tensor]:
        return [_storage(members[f"{root}/data/{key}"], dtype, order == b"big")]

    return _named(_Unpickler(io.BytesIO(members[f"{root}/data.pkl"]), storage).load())


def _legacy_pt(content: bytes) -> dict[str, Tensor]:
    """Pickles of a magic number, a version, the machine, the object and its keys; then the data."""
    file = io.BytesIO(content)
    kinds: dict[str, tuple[torch.dtype, list[Tensor]]] = {}

    def storage(dtype: torch.dtype, key: str, _: object) -> list[Tensor]:
        first, values = kinds.setdefault(key, (dtype, []))
        if first != dtype:
            raise ValueError(f"storage {key} is of two kinds")
        return values

    def load() -> Any:
        return _Unpickler(file, storage).load()

    if (load(), load()) != (0x1950A86A20F9469CFC6C, 1001):
        raise ValueError("other magic number")
    machine, found, keys = load(), load(), load()
    if not machine.get("little_endian", True):
        raise ValueError("other machine")
    for key in keys:
        dtype, values = kinds[str(key)]
        (numel,) = struct.unpack("<q", file.read(8))
        data = file.read(_whole(numel) * dtype.itemsize)
        if len(data) != numel * dtype.itemsize or values:
            raise ValueError(f"storage {key} is cut, or there twice")
        values.append(_storage(data, dtype, False))
    return _named(found)


# ---- datasets ------------------------------------------------------------------------------------


def read_dataset(path: Path) -> dict[str, Tensor]:
    """The columns of a Hugging Face dataset that are lists of floats, token by token."""
    import pyarrow as pa

    state = json.loads((path / "state.json").read_text())
    rows: dict[str, list[Any]] = {}
    kinds: dict[str, Any] = {}
    for entry in state["_data_files"]:
        with pa.ipc.open_stream((path / entry["filename"]).read_bytes()) as stream:
            for batch in stream:
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if not hasattr(column.type, "value_type"):
                        continue  # no list, and no layer
                    column.validate(full=True)
                    rows.setdefault(name, []).extend(column.to_pylist())
                    if kinds.setdefault(name, column.type) != column.type:
                        raise ValueError(f"column {name} is of two types")
    return {name: _tokens(values, kinds[name]) for name, values in rows.items()}


def _tokens(rows: list[Any], kind: Any) -> Tensor:
    """``[tokens, neurons]`` of rows that are lists, or lists of lists."""
    depth = 0
    while hasattr(kind, "value_type"):
        kind, depth = kind.value_type, depth + 1
    for _ in range(depth - 1):
        rows = [token for row in rows for token in row]
    dtypes = {"double": np.float64, "float": np.float32, "halffloat": np.float16}
    dtype = dtypes.get(str(kind), np.int64)
    if any(value is None for row in rows for value in row):
        raise ValueError("holds a null")
    return torch.from_numpy(np.array(rows, dtype))
