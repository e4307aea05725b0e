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
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from univfast.errors import InputError
from univfast.native.extension import _native

__all__ = ["PlainState", "exact_products", "in_plain_state", "methods_in_plain_state"]

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
        InputError: within a transform of ``torch.func``, where tensors have no values.
    """

    __slots__ = ("_grad", "_stack")

    def __enter__(self) -> None:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise InputError(
                "univfast: is called within a transform of torch.func (vmap, grad, jvp,"
                " functionalize), where activations have no values; call it outside"
            )
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


def in_plain_state(function: Callable[P, R]) -> Callable[P, R]:
    """The function, called within `PlainState`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with PlainState():
            return function(*args, **kwargs)

    return call


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


class _Exact:
    """How many threads need float32 products on the CPU as they are, and what was set before."""

    lock = threading.Lock()
    threads = 0
    before: str | None = None


@contextmanager
def exact_products() -> Iterator[None]:
    """A block whose float32 products on the CPU are made of all bits of their factors.

    ``torch.set_float32_matmul_precision("medium")`` and ``torch.backends`` may have them rounded to
    bfloat16 first. That is one setting for the whole process, so it is put back when the last
    thread is done.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _Exact.lock:
        if _Exact.threads == 0 and settings.fp32_precision != "ieee":
            _Exact.before, settings.fp32_precision = settings.fp32_precision, "ieee"
        _Exact.threads += 1
    try:
        yield
    finally:
        with _Exact.lock:
            _Exact.threads -= 1
            if _Exact.threads == 0 and _Exact.before is not None:
                settings.fp32_precision, _Exact.before = _Exact.before, None
