"""The extension whose CUDA kernels run on the CPU, and the package on it."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch
from torch import Tensor

from support.cuda_on_cpu.build import build_module, unavailable
from support.shared import made_once
from univfast.machine import devices
from univfast.native import cpu, cuda, place, views
from univfast.sums import products


@pytest.fixture(scope="session")
def core_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension whose CUDA kernels run on the CPU."""
    pytest.importorskip("pybind11")
    if reason := unavailable():
        pytest.skip(reason)
    path = made_once(tmp_path_factory, "cuda_on_cpu", build_module)
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _multiply(x: Tensor, y: Tensor, product: Tensor, precision: str) -> None:
    torch.mm(x.to(product.dtype), y.to(product.dtype), out=product)


@pytest.fixture
def cuda_on_cpu(core_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the CPU for a CUDA device, and runs the kernels on it."""
    for module in (views, cpu, cuda, devices):
        monkeypatch.setattr(module, "_native", core_on_cpu)
    monkeypatch.setattr(place, "on_cuda", lambda where: True)
    monkeypatch.setattr(place, "stream", lambda device: (0, 0))
    monkeypatch.setattr(products, "multiply", _multiply)
