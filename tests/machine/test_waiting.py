"""Processes that work for as long as it takes, awaited by the others as long as they are alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from univfast.errors import InputError
from univfast.machine.processes import Processes, Store

pytestmark = pytest.mark.slow

TIMEOUT = timedelta(seconds=0.5)


@pytest.fixture
def store() -> Iterator[dist.HashStore]:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield store
    dist.destroy_process_group()


@pytest.fixture
def other(store: dist.HashStore) -> Iterator[Callable[[Callable[[], None]], Future[None]]]:
    """Starts the other of two processes, which does something within its block."""
    with ThreadPoolExecutor(1) as pool:

        def work(does: Callable[[], None]) -> None:
            process = one_of_two(store, rank=1)
            with process.each_alone():
                does()

        yield lambda does: pool.submit(work, does)


def one_of_two(store: Store, rank: int) -> Processes:
    process = Processes(store=store, timeout=TIMEOUT)
    process.rank, process.count = rank, 2
    return process


def test_one_that_is_alive_is_awaited(
    store: dist.HashStore, other: Callable[[Callable[[], None]], Future[None]]
) -> None:
    done: list[int] = []

    def work() -> None:
        time.sleep(3 * TIMEOUT.total_seconds())
        done.append(1)

    started = other(work)
    with one_of_two(store, rank=0).each_alone():
        pass
    assert done == [1]
    started.result()


def test_one_that_is_silent_is_not_awaited_for_ever(store: dist.HashStore) -> None:
    began = time.monotonic()
    words = r"^process 0 of 2: another one died or does not answer \(process 1 is silent\); start"
    with pytest.raises(InputError, match=words), one_of_two(store, rank=0).each_alone():
        pass
    assert time.monotonic() - began < 20 * TIMEOUT.total_seconds()


def test_one_that_fails_ends_all(
    store: dist.HashStore, other: Callable[[Callable[[], None]], Future[None]]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    started = other(fail)
    words = "^another process stopped; its message says why$"
    with pytest.raises(InputError, match=words), one_of_two(store, rank=0).each_alone():
        pass
    with pytest.raises(ZeroDivisionError):
        started.result()
