"""Files whose headers say what is not there, written value by value."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Storage:
    """Stands for a storage in a pickle: float32 values in the member ``data/KEY``."""

    def __init__(self, values: Any, key: Any = "0", kind: Any = torch.FloatStorage) -> None:
        self.pid = ("storage", kind, key, "cpu", values)


class Rebuilt:
    """Stands for a tensor in a pickle, rebuilt from whatever it is given."""

    def __init__(self, *arguments: Any, name: str = "_rebuild_tensor_v2") -> None:
        self.arguments, self.name = arguments, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr(torch._utils, self.name), self.arguments


def tensor(storage: Storage, offset: Any, size: Any, stride: Any, *more: Any) -> Rebuilt:
    return Rebuilt(storage, offset, size, stride, False, OrderedDict(), *more)


def pickled(content: object) -> bytes:
    """As ``torch.save`` pickles, with no look at what it is."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> Any:
            return value.pid if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write_pt(
    path: Path,
    content: object,
    data: Mapping[str, bytes],
    more: Iterable[tuple[str, bytes]] = (),
    deflated: bool = False,
) -> Path:
    """A ``.pt`` of this pickle (of its bytes, where it is such) and these storages."""
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", content if isinstance(content, bytes) else pickled(content))
        for key, value in data.items():
            archive.writestr(f"a/data/{key}", value)
        for name, value in more:
            archive.writestr(name, value)
    return path


def write_old_pt(path: Path, content: object, keys: list[Any], data: bytes) -> Path:
    """In the format from before PyTorch 1.6."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (0x1950A86A20F9469CFC6C, 1001, about)
    path.write_bytes(b"".join([*map(pickled, parts), pickled(content), pickled(keys), data]))
    return path


def npy(header: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes(version) + length + header.encode("latin1") + b"\n" + data


def npy_of(shape: str, data: bytes, descr: str = "'<f4'", order: bool = False) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}", data)


def write_safetensors(path: Path, header: object, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_lists(folder: Path, offsets: list[int], values: int) -> Path:
    """A dataset of one column of lists of float32, with these offsets of its lists."""
    import pyarrow as pa

    right = np.linspace(0, values, len(offsets)).astype(np.int32)
    inner = pa.array(np.arange(values, dtype=np.float32))
    batch = pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(right, inner)], ["h"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    whole = sink.getvalue()
    assert whole.count(right.tobytes()) == 1
    folder.mkdir()
    lying = np.array(offsets, np.int32).tobytes()  # pyarrow itself writes no such
    (folder / "data.arrow").write_bytes(whole.replace(right.tobytes(), lying))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder
