"""bfloat16 in NumPy's files, as ml_dtypes writes it: two bytes without a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import univfast as uf
from support.activation_files import refused
from univfast.inputs.activations import open_activations


def nameless(x: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    return x.view(torch.int16).numpy().view("V2")


def test_npy_and_npz_and_directories(tmp_path: Path) -> None:
    x = torch.randn(40, 6, dtype=torch.bfloat16)
    folder = tmp_path / "d"
    folder.mkdir()
    np.save(tmp_path / "a.npy", nameless(x))
    np.savez(tmp_path / "a.npz", h=nameless(x))
    np.savez_compressed(tmp_path / "b.npz", h=nameless(x))
    for i in range(2):
        np.save(folder / f"part-{i:05}.npy", nameless(x[20 * i : 20 * i + 20]))
    for name in ("a.npy", "a.npz", "b.npz", "d"):
        found = open_activations(tmp_path / name, "a")
        (layer,) = found.layers.values()
        assert layer.dtype == torch.bfloat16
        assert torch.equal(layer.read(3, 37), x[3:37]), name
        if name != "d":
            said = "dtype |V2 is bfloat16, which NumPy has no name for"
            assert found.reading == (f"layer {layer.name!r}: {said}",)


def test_in_memory_too() -> None:
    a = torch.randn(300, 6)
    b = (a + torch.randn(300, 6)).bfloat16()
    result = uf.correlate(a, nameless(b), match="index")
    x, y = a.double().numpy(), b.double().numpy()
    expected = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(6)]
    assert np.allclose(result.correlation.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["V1", "V3", "V4", "V8", [("x", "<u2")]])
def test_other_nameless_types_are_refused(tmp_path: Path, dtype: object) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 6), np.dtype(dtype)))  # type: ignore[call-overload]
    refused(tmp_path / "a.npy", "which PyTorch cannot share")
