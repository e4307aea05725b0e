"""A block in which networks call all of their modules, one by one, so that hooks are heard."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch._C._dynamo.eval_frame import set_eval_frame

__all__ = ["eagerly"]


class _Set:
    """How many blocks there are, in all threads, and what puts back how it was."""

    lock = threading.Lock()
    blocks = 0
    stack = ExitStack()
    compiler = False


@contextmanager
def eagerly() -> Iterator[None]:
    """A block in which what was compiled is run as it was written, and no path passes modules by.

    The compiler does not call hooks that were added after it; in evaluation mode,
    `torch.nn.TransformerEncoder` takes padding out and calls one function in place of its modules.
    Both are settings of the whole process, which the last block to end puts back.
    """
    with _Set.lock:
        if not _Set.blocks:
            _Set.stack = ExitStack()
            before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            _Set.stack.callback(torch.backends.mha.set_fastpath_enabled, before)
            _Set.compiler = False
        # Nothing is compiled where the compiler was never loaded, which takes seconds.
        if not _Set.compiler and "torch._dynamo" in sys.modules:
            _force_eager(_Set.stack)
            _Set.compiler = True
        _Set.blocks += 1
    try:
        yield
    finally:
        with _Set.lock:
            _Set.blocks -= 1
            if not _Set.blocks:
                _Set.stack.close()


def _force_eager(stack: ExitStack) -> None:
    before = set_eval_frame(None)  # it cannot be set within what is compiled
    try:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    finally:
        set_eval_frame(before)
