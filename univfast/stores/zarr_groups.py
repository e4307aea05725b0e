"""Directories of zarr, versions 2 and 3 of the format, read with zarr: each array a layer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from univfast.errors import InputError
from univfast.inputs.layers import LONE_LAYER, Activations
from univfast.machine.reading import damaged, read_json
from univfast.stores.chunked import open_arrays

__all__ = ["open_zarr"]

# What decodes numbers, and calls nothing: there are codecs of pickles too.
_CODECS = {
    *("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta", "bitround"),
    *("fixedscaleoffset", "quantize", "packbits", "astype"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
    *("bytes", "endian", "transpose", "sharding_indexed"),
}
_MOST_GROUPS = 1 << 12  # within each other, or beside: each is a directory to look into


def open_zarr(path: str) -> Activations:
    """The arrays of a group by path, or an array alone: see `open_arrays`.

    Chunks that are not there have the array's fill value, as zarr has it: it leaves out those that
    hold nothing else.

    Raises:
        InputError: zarr is missing, or the directory is damaged.
    """
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{path}: is zarr, which needs zarr to read; pip install 'univfast[zarr]'"
        ) from error

    @contextmanager
    def guard() -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever codecs and stores raise
            raise damaged(path, error) from error

    found: dict[str, Any] = {}
    lines = []
    for name, folder in _arrays(path):
        with guard():
            found[name] = array = zarr.open_array(folder, mode="r")
            there, count = array.nchunks_initialized, array.nchunks
            if there < count:
                lines.append(
                    f"{name!r}: {count - there} of {count} chunks are not there, and read as its "
                    f"fill value, {array.fill_value}"
                )
    opened = open_arrays(path, found, guard, "zarr")
    return replace(opened, reading=(*opened.reading, *lines))


def _arrays(path: str) -> Iterator[tuple[str, str]]:
    """The arrays in a directory, as its own metadata have them: names, and where they are."""
    pending, groups = [("", path)], 0
    while pending:
        name, folder = pending.pop()
        kind = _kind(folder)
        if kind == "array":
            yield name or LONE_LAYER, folder
        elif kind == "group":
            groups += 1
            if groups > _MOST_GROUPS:
                raise InputError(f"{path}: holds over {_MOST_GROUPS} groups; give one of them")
            inside = [entry for entry in os.scandir(folder) if entry.is_dir()]
            pending += ((f"{name}/{entry.name}".lstrip("/"), entry.path) for entry in inside)


def _kind(folder: str) -> str | None:
    """Whether a directory is an array or a group; of an array, that it can be decoded safely."""
    files = {name: os.path.join(folder, name) for name in ("zarr.json", ".zarray", ".zgroup")}
    there = [name for name, file in files.items() if os.path.lexists(file)]
    if len(there) > 1:
        raise InputError(f"{folder}: holds {there[0]} and {there[1]}; keep the one that is meant")
    if there == [".zgroup"]:
        return "group"
    if not there:
        return None
    said = read_json(files[there[0]])
    if there == ["zarr.json"] and said.get("node_type") == "group":
        return "group"
    given = said.get("codecs"), said.get("filters"), said.get("compressor")
    for name in _names(given):
        if name.removeprefix("numcodecs.") not in _CODECS:
            raise InputError(
                f"{folder}: is encoded by {name!r}, which is not read; write it with zstd or blosc"
            )
    return "array"


def _names(codecs: object) -> Iterator[str]:
    """The codecs in metadata, and those within them."""
    if isinstance(codecs, (list, tuple)):
        for codec in codecs:
            yield from _names(codec)
    elif isinstance(codecs, dict):
        name = codecs.get("name", codecs.get("id"))
        yield name if isinstance(name, str) else repr(name)
        configuration = codecs.get("configuration")
        if isinstance(configuration, dict):
            yield from _names(configuration.get("codecs"))
            yield from _names(configuration.get("index_codecs"))
    elif codecs is not None:
        yield str(codecs)
