"""What users set for torch, and a run of the tests in which the package finds it set."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

State = Callable[[], AbstractContextManager[Any]]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def mkldnn_precision(name: str) -> Iterator[None]:
    settings: Any = torch.backends.mkldnn
    before = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = name
    try:
        yield
    finally:
        settings.matmul.fp32_precision = before


@contextmanager
def flush_denormal() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def dual_numbers() -> AbstractContextManager[Any]:
    """There is one level of them."""
    return forward_ad.dual_level() if forward_ad._current_level < 0 else nullcontext()


class LoudFunctions(TorchFunctionMode):
    """Refuses every call of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} reached the user's function mode")


class LoudDispatch(TorchDispatchMode):
    """Refuses every operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} reached the user's dispatch mode")


STATES: dict[str, State] = {
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "float16 by default": lambda: default_dtype(torch.float16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "meta device by default": lambda: default_device("meta"),
    "within a meta device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "medium products": lambda: matmul_precision("medium"),
    "bfloat16 products": lambda: mkldnn_precision("bf16"),
    "no subnormal numbers": flush_denormal,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "function mode": LoudFunctions,
    "dispatch mode": LoudDispatch,
    "fake tensors": FakeTensorMode,
    "dual numbers": dual_numbers,
}

# Those that do not hide each other, so that two runs of the tests see all that differ.
TOGETHER = {
    "one": [
        "bfloat16 by default",
        "meta device by default",
        "inference mode",
        "autocast",
        "deterministic",
        "medium products",
        "no subnormal numbers",
    ],
    "other": ["float64 by default", "dual numbers", "anomalies", "dispatch mode", "function mode"],
}

# What users call, but for what runs models of theirs, which are theirs to run in such a state; and
# but for `correlate` itself, whose warnings name its caller.
_FUNCTIONS = (
    "univfast.correlation:correlate_together",
    "univfast.cli.main:main",
    "univfast.experiment:capture_layers",
    "univfast.experiment:capture_mlp",
    "univfast.experiment:control_of",
    "univfast.experiment:load_model",
    "univfast.experiment:save_model",
    "univfast.experiment:train",
    "univfast.experiment:untrained",
    "univfast.report.files:load",
)
_CLASSES = (
    "univfast.paired:PairedCorrelation",
    "univfast.all_pairs:AllPairsCorrelation",
    "univfast.result:CorrelationResult",
)
_within_one: list[str] = []  # call, that others are made in


@contextmanager
def together(name: str) -> Iterator[None]:
    """All states of a run of the tests."""
    with ExitStack() as stack:
        for state in TOGETHER[name]:
            stack.enter_context(STATES[state]())
        yield


def find_set(name: str) -> None:
    """Has all that users call find these states set, from now on."""
    for path in _FUNCTIONS:
        module, attribute = path.split(":")
        function = getattr(importlib.import_module(module), attribute)
        _replace(function, _within(name, function))
    for path in _CLASSES:
        module, attribute = path.split(":")
        owner = getattr(importlib.import_module(module), attribute)
        for base in owner.__mro__[:-1]:
            for method, value in list(vars(base).items()):
                if inspect.isfunction(value) and (method == "__init__" or method[0] != "_"):
                    setattr(base, method, _within(name, value))


def _replace(function: object, other: object) -> None:
    """Wherever a module of the package has it."""
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] == "univfast"]:
        for attribute, value in list(vars(module).items()):
            if value is function:
                setattr(module, attribute, other)


def _within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(function, "_within"):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # Of several threads one alone, as some of this is set for the whole process.
        if _within_one or threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        _within_one.append(name)
        try:
            with together(name):
                return function(*args, **kwargs)
        finally:
            _within_one.pop()

    call._within = True  # type: ignore[attr-defined]
    return call
