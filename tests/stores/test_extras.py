"""A library that is missing is one line that says how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.activation_files import refused


@pytest.mark.parametrize(
    ("extra", "module", "content"),
    [
        ("datasets", "pyarrow", b"PAR1" + bytes(20)),
        ("hdf5", "h5py", b"\x89HDF\r\n\x1a\n" + bytes(20)),
        ("zarr", "zarr", None),
    ],
)
def test_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, module: str, content: bytes | None
) -> None:
    path = tmp_path / "a"
    if content is None:
        path.mkdir()
        (path / "zarr.json").write_text('{"node_type": "group"}')
    else:
        path.write_bytes(content)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(path, f"needs {module} to read; pip install 'univfast[{extra}]'")
