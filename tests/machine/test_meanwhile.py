"""Work in a thread, which who waits for it can leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from univfast.machine.meanwhile import meanwhile


def test_it_yields_until_the_work_has_ended_and_returns_what_it_gave() -> None:
    go = threading.Event()

    def work() -> tuple[bool, bool]:
        return go.wait(10), torch.is_grad_enabled()

    found = []

    def wait() -> Iterator[int]:
        found.append((yield from meanwhile(work)))

    steps = wait()
    assert next(steps) == 0
    assert next(steps) == 0
    go.set()
    assert set(steps) <= {0}
    assert found == [(True, False)]


def test_it_raises_what_the_work_does() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(meanwhile(fail))


def test_it_can_be_left() -> None:
    go = threading.Event()
    steps = meanwhile(lambda: go.wait(10))
    next(steps)
    steps.close()  # at once
    go.set()
