"""Activations written to a directory, shard by shard, so that a killed capture goes on.

``capture.json`` says what the directory holds: ``format``, ``version``, the number of ``shards``
and ``tokens``, and all that the values follow from. ``shard-00000.safetensors``, ... each hold
``[tokens, neurons]`` of every layer, for fixed ranges of the corpus. ``tokens.npy`` holds the ids
of these tokens, and ``places.npy``, where some are left out, their numbers in the corpus.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from univfast.checks import check_choice
from univfast.errors import InputError
from univfast.inputs.captures import PLACES, SHARD, TOKENS
from univfast.inputs.layers import Activations, Layer
from univfast.machine.files import make_directory, remove_unfinished, replacing
from univfast.machine.reading import open_file, read_json
from univfast.text.windows import TokenWindows

__all__ = ["AUTO", "DTYPES", "Shards"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What activations can be converted to."""
AUTO = "auto"
"""Each layer in the dtype that the model gives it in."""

# Format: https://github.com/huggingface/safetensors#format
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
_HEADER_ALIGNMENT = 8  # bytes
# Of a shard: files that are neither very many nor too large to move about.
_SHARD_BYTES = 512 << 20
_ABOUT = "capture.json"


class Shards:
    """Activations as they are to be written.

    Attributes:
        step: tokens of the corpus for a shard.
        spans: first token and last + 1 of each shard, in the corpus; ranges that no token of is
            kept have none.
        tokens: that are kept.
    """

    def __init__(
        self,
        activations: Activations,
        windows: TokenWindows,
        keep: Tensor | None,
        dtype: str,
        shard_tokens: int | None,
    ) -> None:
        """Divides the corpus.

        Args:
            activations: to read.
            windows: the corpus that they are of.
            keep: bool ``[tokens]``, the tokens to write; None for all.
            dtype: one of ``DTYPES``, or ``"auto"``.
            shard_tokens: of the corpus, for a shard, rounded down to whole windows but at least
                one; None for as many as take 512 MB.

        Raises:
            InputError: ``dtype`` is unknown.
        """
        check_choice("dtype", dtype, (AUTO, *DTYPES))
        self._activations, self._windows = activations, windows
        self._keep = (
            torch.ones(windows.tokens, dtype=torch.bool, device="cpu") if keep is None else keep
        )
        self._columns = [
            _Column(layer, DTYPES.get(dtype, layer.dtype)) for layer in activations.layers.values()
        ]
        asked = shard_tokens or _SHARD_BYTES // sum(column.row for column in self._columns)
        self.step = max(1, asked // windows.window) * windows.window
        starts = range(0, windows.tokens, self.step)
        spans = [(start, min(start + self.step, windows.tokens)) for start in starts]
        self.spans = [(start, stop) for start, stop in spans if self._keep[start:stop].any()]
        self.tokens = int(self._keep.sum())

    def write(
        self, out: str, identity: dict[str, Any], progress: Callable[[int, int], None]
    ) -> None:
        """Writes to a directory what is not there yet, or not whole.

        Holds the activations of ``activations.most`` tokens at a time.

        Args:
            out: the directory; made if it is not there.
            identity: what the values follow from, beside the shards' own sizes.
            progress: called with the tokens that are done, and all.

        Raises:
            InputError: the directory holds another capture or cannot be written; or a value is not
                finite, in the model or after conversion. No shard is then left unfinished.
        """
        about = {
            "format": "univfast-capture",
            "version": 1,
            "shards": len(self.spans),
            "tokens": self.tokens,
            "shard_tokens": self.step,
            "layers": {
                column.layer.name: [column.layer.neurons, _CODES[column.dtype]]
                for column in self._columns
            },
            **identity,
        }
        folder = _claim(out, about)
        for number, (start, stop) in enumerate(self.spans):
            path = folder / SHARD.format(number)
            if not self._is_whole(path, start, stop):
                remove_unfinished(path)  # a killed capture may leave half a gigabyte
                self._write_shard(path, start, stop, progress)
            progress(stop, self._windows.tokens)
        if not bool(self._keep.all()):  # before the tokens, which are not read without them
            _write_array(folder / PLACES, self._keep.nonzero()[:, 0], "<i8")
        _write_array(folder / TOKENS, self._windows.ids[self._keep], "<i4")

    def _is_whole(self, path: Path, start: int, stop: int) -> bool:
        """Whether a shard is there, with the header and the size that it is to have."""
        if not path.exists():
            return False
        header, kept = io.BytesIO(), int(self._keep[start:stop].sum())
        places = _write_header(header, self._columns, kept)
        size = places[-1] + kept * self._columns[-1].row
        with open_file(path) as file:
            return path.stat().st_size == size and file.read(places[0]) == header.getvalue()

    def _write_shard(
        self, path: Path, start: int, stop: int, progress: Callable[[int, int], None]
    ) -> None:
        kept = int(self._keep[start:stop].sum())
        most = self._activations.most or stop - start
        with replacing(path) as file:
            places = _write_header(file, self._columns, kept)
            for begin, end in self._windows.batches(start, stop, most):
                if self._keep[begin:end].any():
                    for i, column in enumerate(self._columns):
                        file.seek(places[i])
                        places[i] += file.write(self._rows(column, begin, end).numpy().data)
                progress(end, self._windows.tokens)

    def _rows(self, column: _Column, begin: int, end: int) -> Tensor:
        """The rows to write, as bytes."""
        layer, keep = column.layer, self._keep[begin:end]
        rows = layer.read(begin, end)
        found = rows[keep.to(rows.device)]
        values = found.to(column.dtype)
        if not bool(values.isfinite().all()):
            row, neuron = (~values.isfinite()).nonzero()[0].tolist()
            token, value = begin + int(keep.nonzero()[row]), found[row, neuron].item()
            where = f"{self._activations.name}: layer {layer.name!r} has {value!r} at token {token}"
            if found[row, neuron].isfinite():
                code = str(column.dtype).removeprefix("torch.")
                raise InputError(f"{where}, too large for {code}; choose dtype bfloat16 or float32")
            raise InputError(f"{where}, neuron {neuron}; leave the token out with a mask")
        layer.release(begin, end)
        return values.cpu().contiguous().view(torch.uint8)


@dataclass(frozen=True)
class _Column:
    """A layer, and the dtype to write it in."""

    layer: Layer
    dtype: torch.dtype

    @property
    def row(self) -> int:
        """Bytes of a token."""
        return self.layer.neurons * self.dtype.itemsize


def _write_array(path: Path, values: Tensor, code: str) -> None:
    if not path.exists():
        with replacing(path) as file:
            np.save(file, values.numpy().astype(code))


def _write_header(file: BinaryIO, columns: list[_Column], tokens: int) -> list[int]:
    """Writes the header of a safetensors file; where in the file each layer begins."""
    entries, starts, end = {}, [], 0
    for column in columns:
        begin, end = end, end + tokens * column.row
        starts.append(begin)
        entries[column.layer.name] = {
            "dtype": _CODES[column.dtype],
            "shape": [tokens, column.layer.neurons],
            "data_offsets": [begin, end],
        }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % _HEADER_ALIGNMENT)
    file.write(len(header).to_bytes(8, "little") + header)
    return [file.tell() + start for start in starts]


def _claim(out: str, about: dict[str, Any]) -> Path:
    """The directory, which says that it holds this capture, and holds no other."""
    folder = make_directory(out)
    path = folder / _ABOUT
    if os.path.lexists(path):
        _check_same(out, path, about)
    elif any(folder.glob("shard-*")):
        raise InputError(f"{out}: holds shards of an unknown capture; name another directory")
    else:
        with replacing(path) as file:
            file.write(json.dumps(about, indent=1).encode() + b"\n")
    return folder


def _check_same(out: str, path: Path, about: dict[str, Any]) -> None:
    try:
        found = read_json(path)
    except InputError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: cannot be read ({why}); name another directory") from error
    differs = [name for name in about if found.get(name) != about[name]]
    if differs:
        raise InputError(
            f"{out}: holds another capture, which differs in {', '.join(differs)}; name another "
            "directory, or give the same arguments to go on with it"
        )
