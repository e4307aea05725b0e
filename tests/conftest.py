"""Settings of the test run, and what several tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType

import pytest
import torch
from cuda_on_cpu.build import build_module, unavailable
from hypothesis import settings
from language_models import Directories, make_directories
from torch import Tensor

from univfast.machine import devices
from univfast.native import cpu, cuda, place, views
from univfast.sums import co_moments

# The same examples every time, and no deadline: machines are noisy.
settings.register_profile("univfast", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("univfast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a CUDA device where none can be used, and says why."""
    if reason := devices.unavailable():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no CUDA device can be used: {reason}"))


@pytest.fixture(scope="session")
def core_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension whose CUDA kernels run on the CPU."""
    if reason := unavailable():
        pytest.skip(reason)
    path = build_module(tmp_path_factory.mktemp("cuda_on_cpu"))
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
    monkeypatch.setattr(co_moments, "multiply", _multiply)


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """Models of Hugging Face's kind, and a text."""
    return make_directories(tmp_path_factory.mktemp("models"))


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 64 tokens, products of a few rows and blocks of 32 neurons: many of each."""
    monkeypatch.setattr(co_moments, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 4 * 64 * 40)
    monkeypatch.setattr(co_moments, "_BLOCK", 32)
    return 64


@pytest.fixture(params=["rotated as they come", "within"])
def baseline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the variances of rotated neurons come from."""
    streamed = request.param == "rotated as they come"
    monkeypatch.setattr(co_moments, "_WIDTH_OF_A_DRAW", 1 if streamed else 10**6)
    return str(request.param)
