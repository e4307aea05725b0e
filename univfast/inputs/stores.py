"""The directories that other tools wrote and that are read as a whole: told by what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from univfast.errors import InputError
from univfast.inputs.formats import suffixes
from univfast.inputs.natural import natural_key
from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    from univfast.inputs.layers import Activations

    Opener = Callable[[str], Activations]

__all__ = ["STORES", "Store", "cache_folders", "open_store"]


@dataclass(frozen=True)
class Store:
    """A kind of directory.

    Attributes:
        name: of the kind.
        help: what is in such a directory, in a few words.
        is_that: whether a directory is one, by the names in it and, at most, a small header; the
            first kind that says so is taken. What is left is read as files of activations.
        opener: opens it; ``"module:name"`` or a function. Raises InputError.
    """

    name: str
    help: str
    is_that: Callable[[str], bool]
    opener: str | Opener


def _names(path: str) -> set[str]:
    try:
        return {*os.listdir(path)}
    except OSError as error:
        raise InputError(
            f"{path}: cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _ends_so(path: str, endings: str | tuple[str, ...]) -> bool:
    return any(name.endswith(endings) for name in _names(path))


def cache_folders(path: str) -> list[str]:
    """The directories of raw shards: ``path`` itself, or those in it, by name."""
    here = _names(path)
    if {"config.json", "shard_0.memmap"} <= here:
        return [path]
    inside = (os.path.join(path, name) for name in sorted(here, key=natural_key))
    return [
        folder
        for folder in inside
        if os.path.isdir(folder)
        and all(
            os.path.exists(os.path.join(folder, name)) for name in ("config.json", "shard_0.memmap")
        )
    ]


STORES: Registry[Store] = Registry(
    "store",
    [
        Store(
            "Parquet",
            help="`*.parquet`, parts of one table",
            is_that=lambda path: _ends_so(path, ".parquet") and not _ends_so(path, suffixes()),
            opener="univfast.stores.parquet:open_parquet_directory",
        ),
        Store(
            "SAEV",
            help="`metadata.json`, `shards.json` and `acts000000.bin`",
            is_that=lambda path: {"metadata.json", "acts000000.bin"} <= _names(path),
            opener="univfast.stores.saev:open_saev",
        ),
        Store(
            "activation cache",
            help="`config.json` and `shard_0.memmap`, or a directory of such a one a layer",
            is_that=lambda path: bool(cache_folders(path)),
            opener="univfast.stores.memmaps:open_caches",
        ),
        Store(
            "zarr",
            help="arrays and groups of zarr, version 2 or 3",
            is_that=lambda path: not {".zgroup", ".zarray", "zarr.json"}.isdisjoint(_names(path)),
            opener="univfast.stores.zarr_groups:open_zarr",
        ),
        Store(
            "delphi",
            help="`0_1023.safetensors` and so on of sparse latents, in a directory a hookpoint",
            is_that=lambda path: bool(resolve("univfast.stores.delphi:is_delphi")(path)),
            opener="univfast.stores.delphi:open_delphi",
        ),
    ],
)


def open_store(path: str) -> Activations | None:
    """What a directory of one of `STORES` holds; None of all others. Raises InputError."""
    store = next((store for store in STORES.values() if store.is_that(path)), None)
    if store is None:
        return None
    opener: Opener = resolve(store.opener)
    return opener(path)
