"""Options, the activations of a session, and the tables at the end of a run."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from device import DeviceMeasure, Size, describe
from device_table import markdown as device_markdown
from harness import Activations, Array, Layers, Measure
from pytest_benchmark.fixture import BenchmarkFixture
from table import markdown

from univfast import native, reference
from univfast.bench.data import correlated
from univfast.machine.devices import unavailable

_records = pytest.StashKey[list[dict[str, Any]]]()
_device_records = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("univfast")
    group.addoption("--tokens", type=int, default=32768, help="tokens (32768); all pairs half")
    group.addoption("--seconds", type=float, default=4.0, help="to measure a line for (4); 0: once")
    group.addoption(
        "--neurons",
        type=int,
        default=3072,
        help="of a layer (3072); all pairs 2 layers of two thirds, and 12 of a sixth",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_records] = []
    config.stash[_device_records] = []


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["univfast"] = {
        "simd": native.simd_level(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    if not unavailable():
        machine_info["device"] = describe()


# After pytest-benchmark's own table, so that the ratios are what the run ends with.
@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if records := config.stash[_records]:
        machine = config.hook.pytest_benchmark_generate_machine_info(config=config)
        config.hook.pytest_benchmark_update_machine_info(config=config, machine_info=machine)
        terminalreporter.section("univfast: ratios")
        terminalreporter.write_line(markdown(records, machine))
    if records := config.stash[_device_records]:
        terminalreporter.section("univfast: on the device")
        terminalreporter.write_line(device_markdown(records))


def pairs(config: pytest.Config, layers: int, width: int) -> Layers:
    """Two models of some layers in float16, as activations are kept."""
    models = correlated(config.getoption("tokens") // 2, layers * width)
    return Layers(
        *(
            {f"mlp.{i}": x.half() for i, x in enumerate(model.split(width, dim=1))}
            for model in models
        )
    )


@pytest.fixture(scope="session")
def float32(request: pytest.FixtureRequest) -> Activations:
    option = request.config.getoption
    return Activations(*correlated(option("tokens"), option("neurons")))


@pytest.fixture(scope="session")
def two_layers(request: pytest.FixtureRequest) -> Layers:
    return pairs(request.config, 2, request.config.getoption("neurons") * 2 // 3)


@pytest.fixture(scope="session")
def twelve_layers(request: pytest.FixtureRequest) -> Layers:
    return pairs(request.config, 12, request.config.getoption("neurons") // 6)


@pytest.fixture(scope="session")
def haar(float32: Activations) -> Array:
    """The first of the uniform rotations of the layer that `PairedCorrelation` names by default."""
    return reference.rotation_matrix("haar", float32.a.shape[1], 0, 0, "activations")


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    return Measure(benchmark, request.config.stash[_records], request.config.getoption("seconds"))


@pytest.fixture(scope="session")
def device() -> None:
    """Skips, before anything else is made, where no device can be used."""
    if reason := unavailable():
        pytest.skip(f"no CUDA device can be used: {reason}")


@pytest.fixture
def measure_on_device(
    device: None, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> DeviceMeasure:
    return DeviceMeasure(
        benchmark, request.config.stash[_device_records], request.config.getoption("seconds")
    )


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    return Size(request.config.getoption("tokens"), request.config.getoption("neurons"))
