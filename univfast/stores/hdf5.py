"""HDF5 files, read with h5py: each dataset in them a layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from univfast.errors import InputError
from univfast.inputs.formats import SourceFile
from univfast.inputs.layers import Activations
from univfast.machine.reading import reading
from univfast.stores.chunked import open_arrays

__all__ = ["open_hdf5"]


def open_hdf5(file: SourceFile) -> Activations:
    """The datasets of a file by path: see `open_arrays`.

    Raises:
        InputError: h5py is missing, or lacks what it is compressed by; a dataset lies in another
            file, or was not written whole.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{file.path}: is HDF5, which needs h5py to read; pip install 'univfast[hdf5]'"
        ) from error
    # Without a lock, which others may hold and some file systems lack: changes are looked for.
    opened = h5py.File(file.path, "r", locking=False)
    try:
        return _activations(file, opened)
    except BaseException:
        opened.close()  # or nothing else could write to it
        raise


def _activations(file: SourceFile, opened: Any) -> Activations:
    import h5py

    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = item

    opened.visititems(note)  # follows no links to elsewhere
    for name, dataset in found.items():
        _check(f"{file.path}: {name!r}", dataset)

    @contextmanager
    def guard() -> Iterator[None]:
        with reading(file.path):
            file.mapped.check()
            yield

    return open_arrays(file.path, found, guard, "HDF5")


def _check(where: str, dataset: Any) -> None:
    """Refuses what would be read from elsewhere, or not as it was meant."""
    import h5py

    if dataset.is_virtual or dataset.external:
        raise InputError(f"{where}: lies in other files; copy it into one, with h5repack")
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, name = properties.get_filter(i)[0], properties.get_filter(i)[3]
        if not h5py.h5z.filter_avail(number):
            shown = name.decode("ascii", "replace") or number
            raise InputError(
                f"{where}: is compressed by {shown}, which h5py lacks here; write it with gzip"
            )
    if 0 in dataset.shape:
        return
    written = dataset.id.get_storage_size() > 0
    if dataset.chunks is not None:
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        written = dataset.id.get_num_chunks() == prod(-(-n // chunk) for n, chunk in pairs)
    if not written:
        raise InputError(f"{where}: was not written whole; write it again")
