"""What torch does by default, and how: set by the user for other work, and no part of an input.

`PlainState` has a block compute as it would in a fresh process, whatever the caller has set for
this thread. What is set for the whole process is left as it is, as other threads may need it so:
every allocation says its dtype and its device instead (``tests/test_house.py``), and products that
must be exact are made within `exact_products`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch
from torch._C._dynamo.eval_frame import set_eval_frame
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from univfast.errors import InputError
from univfast.machine import forks
from univfast.native.extension import _native

__all__ = [
    "PlainState",
    "bfloat16_products",
    "exact_products",
    "in_plain_state",
    "methods_in_plain_state",
    "not_compiled",
]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class PlainState:
    """A block in which torch is as it is in a fresh process, but without gradients.

    Outside of inference mode and of autocast, with no mode that a default device, a fake tensor or
    a tool put on, and with numbers below the smallest normal one. Afterwards all is as it was. Not
    for code of the user's own, as a model's forward pass. Costs under 2 microseconds where nothing
    else was set.

    Raises:
        InputError: within a transform of ``torch.func``, where tensors have no values, or within
            ``torch.jit.trace``.
    """

    __slots__ = ("_grad", "_stack")

    def __enter__(self) -> None:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise InputError(
                "univfast: is called within a transform of torch.func (vmap, grad, jvp,"
                " functionalize), where activations have no values; call it outside"
            )
        if torch._C._get_tracing_state() is not None:
            raise InputError(
                "univfast: is called while torch.jit.trace records; call it outside of what is"
                " traced"
            )
        if forks.lost_threads and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # or the others would be waited for, for ever
        self._stack = _made_plain()
        self._grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch._C._set_grad_enabled(self._grad)
        if self._stack is not None:
            self._stack.__exit__(kind, error, trace)


def _made_plain() -> ExitStack | None:
    """What puts back how it was, but for gradients; None where nothing was set."""
    floats = _native.plain_floats()
    autocast = torch._C._is_any_autocast_enabled()
    function_modes = torch._C._len_torch_function_stack()
    dispatch_modes = torch._C._len_torch_dispatch_stack()
    inference, dual = torch.is_inference_mode_enabled(), forward_ad._current_level >= 0
    if not (floats or autocast or function_modes or dispatch_modes or inference or dual):
        return None
    with ExitStack() as stack:
        if floats:
            stack.callback(_native.restore_floats, floats)
        if function_modes:
            stack.enter_context(_without_function_modes())
        if dispatch_modes:
            stack.enter_context(_disable_current_modes())
        if inference:
            stack.enter_context(torch.inference_mode(False))
        if dual:
            stack.enter_context(forward_ad._set_fwd_grad_enabled(False))
        if autocast:
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, enabled=False))
        return stack.pop_all()


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, left out of what ``torch.compile`` compiles of its callers."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            set_eval_frame(before)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


def in_plain_state(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called within `PlainState`, and `not_compiled`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with PlainState():
            return function(*args, **kwargs)

    return not_compiled(call)


def methods_in_plain_state(owner: C) -> C:
    """The class, whose public methods and properties are called within `PlainState`."""
    for name, value in list(vars(owner).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property) and value.fget is not None:
            setattr(owner, name, property(in_plain_state(value.fget), doc=value.__doc__))
        elif inspect.isfunction(value):
            setattr(owner, name, in_plain_state(value))
    return owner


@contextmanager
def _without_function_modes() -> Iterator[None]:
    """Those of ``torch.set_default_device`` and ``with torch.device(...)`` are among them."""
    pop, push = torch._C._pop_torch_function_stack, torch._C._push_on_torch_function_stack
    modes = [pop() for _ in range(torch._C._len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            push(mode)


@contextmanager
def exact_products(device: str = "cpu", tf32: bool = False) -> Iterator[None]:
    """A block whose float32 products are made of all bits of their factors, and summed in float32.

    ``torch.set_float32_matmul_precision`` and ``torch.backends`` may have the factors rounded
    first, and products of 16 bits summed in as many. These are settings of the whole process, so
    they are put back; on the CPU when the last thread is done, while a CUDA device, where products
    are only queued within the block, is one thread's at a time.

    Args:
        device: "cpu" or "cuda".
        tf32: factors of float32 are rounded all the same, on a CUDA device.
    """
    with _cuda_products(tf32) if device == "cuda" else _cpu_products("ieee"):
        yield


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """A block in which torch's float32 products on the CPU may round their factors to bfloat16.

    Which changes nothing where bfloat16 holds these; sums stay float32. Blocks of
    `exact_products` in other threads are waited for.
    """
    with _cpu_products("bf16"):
        yield


class _OnCpu:
    """How many threads are within such a block, of what kind, and what was set before."""

    changed = threading.Condition()
    threads = 0
    kind = ""
    before = ""


@contextmanager
def _cpu_products(kind: str) -> Iterator[None]:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _OnCpu.changed:
        _OnCpu.changed.wait_for(lambda: _OnCpu.threads == 0 or _OnCpu.kind == kind)
        if _OnCpu.threads == 0:
            _OnCpu.kind, _OnCpu.before = kind, settings.fp32_precision
            if _OnCpu.before != kind:
                settings.fp32_precision = kind
        _OnCpu.threads += 1
    try:
        yield
    finally:
        with _OnCpu.changed:
            _OnCpu.threads -= 1
            if _OnCpu.threads == 0:
                if _OnCpu.before != kind:
                    settings.fp32_precision = _OnCpu.before
                _OnCpu.changed.notify_all()


_cuda_lock = threading.Lock()


@contextmanager
def _cuda_products(tf32: bool) -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    wanted = {
        "fp32_precision": "tf32" if tf32 else "ieee",
        "allow_bf16_reduced_precision_reduction": False,
        "allow_fp16_reduced_precision_reduction": False,
        "allow_fp16_accumulation": False,
    }
    with _cuda_lock:
        before = {name: getattr(settings, name) for name in wanted}
        for name, value in before.items():
            split = getattr(settings, f"{name}_split_k", None)
            before[name] = value if split is None else (value, split)
        try:
            for name, value in wanted.items():
                setattr(settings, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(settings, name, value)
