"""Masks under other names than are read: named, and refused unless `layers` leaves them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import univfast as uf
from support.activation_files import assert_one_line
from univfast.errors import InputError

KEEP = np.arange(30) % 3 > 0


def parquet(path: Path, x: np.ndarray[Any, Any], mask: str) -> None:
    pq.write_table(pa.table({"h": pa.array(list(x)), mask: pa.array(KEEP)}), path)


def hdf5(path: Path, x: np.ndarray[Any, Any], mask: str) -> None:
    with h5py.File(path, "w") as file:
        file["h"], file[f"of/{mask}"] = x, KEEP


def zarr_store(path: Path, x: np.ndarray[Any, Any], mask: str) -> None:
    group = zarr.open_group(path, mode="w")
    for name, values in (("h", x), (mask, KEEP)):
        group.create_array(name, data=values)


@pytest.mark.parametrize("name", ["Mask", "padding_mask", "loss_mask", "attention_masks"])
@pytest.mark.parametrize(
    ("write", "ending"), [(parquet, ".parquet"), (hdf5, ".h5"), (zarr_store, ".zarr")]
)
def test_a_mask_of_another_name(tmp_path: Path, write: Any, ending: str, name: str) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4)).astype("f4")
    y = (x + np.random.default_rng(1).standard_normal(x.shape)).astype("f4")
    options: dict[str, Any] = {"match": "index", "rotation": "none"}
    write(tmp_path / f"a{ending}", x, name)
    with pytest.raises(InputError, match="may say which tokens count, or which do not") as error:
        uf.correlate(tmp_path / f"a{ending}", {"h": y}, **options)
    assert_one_line(error, name, "leave it out with layers='h'")
    found = uf.correlate(tmp_path / f"a{ending}", {"h": y}, layers="h", **options)
    r = np.diag(np.corrcoef(x.T, y.T)[:4, 4:])
    assert np.allclose(np.asarray(found.correlation), r, atol=1e-5)
