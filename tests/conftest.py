"""Settings of the test run, and what tests of several rooms are given."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from support.cores import THREADS  # before torch

# Read when transformers is first imported, by whichever test that is.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

from support import torch_states
from support.language_models import Directories, make_directories
from univfast.machine import devices
from univfast.sums import co_moments

# The same examples every time, and no deadline: machines are noisy.
settings.register_profile("univfast", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("univfast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torch-state",
        choices=list(torch_states.TOGETHER),
        help="what users may have set for torch, which the package then finds set in every call",
    )
    parser.addoption(
        "--part", metavar="K/N", help="the K-th of N parts of the tests, told by their names"
    )


def pytest_configure(config: pytest.Config) -> None:
    if name := config.getoption("--torch-state"):
        torch_states.find_set(name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What sets states of torch itself is not run in others."""
    own = collection_path.name == "test_torch_state.py"
    return True if own and config.getoption("--torch-state") else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    name = config.getoption("--torch-state")
    states = [f"torch's state: {', '.join(torch_states.TOGETHER[name])}"] if name else []
    return [f"threads of a process: {THREADS}", *states]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is not slow as quick, and has it run first; leaves other parts out.

    Skips what needs a CUDA device where none can be used, and says why.
    """
    for item in items:
        if not item.get_closest_marker("slow"):
            item.add_marker("quick")
    if part := config.getoption("--part"):
        number, parts = map(int, part.split("/"))
        own = [zlib.crc32(item.nodeid.encode()) % parts == number - 1 for item in items]
        config.hook.pytest_deselected(
            items=[x for x, mine in zip(items, own, strict=True) if not mine]
        )
        items[:] = [x for x, mine in zip(items, own, strict=True) if mine]
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if reason := devices.unavailable():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no CUDA device can be used: {reason}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Names what fails at once: the details come at the end."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}", file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """Models of Hugging Face's kind, and a text."""
    return make_directories(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch's products on one thread, for their bits depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
