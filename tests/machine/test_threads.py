"""Accumulators that threads share, copy and pickle."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import univfast as uf
from support.matched import matched
from support.parity import bits
from support.processes import printed, python
from univfast.sums.co_moments import CoMoments
from univfast.sums.group_sums import Grouping

THREADS = 8


def run(works: Sequence[Callable[[], Any]]) -> None:
    """Runs all at once; they must end."""
    failed: list[BaseException] = []

    def caught(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=caught, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not failed


def models() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 16, generator=generator)
    return a + 3, a + torch.randn(4000, 16, generator=generator)


MAKERS: dict[str, Callable[[], Any]] = {
    "paired": lambda: uf.PairedCorrelation(16, draws=1),
    "haar": lambda: uf.PairedCorrelation(16, draws=1, rotation="haar"),
    "all pairs": lambda: uf.AllPairsCorrelation({"x": 16}, {"y": 16}, draws=1),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_eight_threads_give_the_same_r(name: str) -> None:
    a, b = models()
    expected = MAKERS[name]()
    expected.update(a, b)
    shared = MAKERS[name]()
    shares = [
        list(zip(a[i::THREADS].split(10), b[i::THREADS].split(10), strict=True)) for i in range(8)
    ]

    def work(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for x, y in batches:
            shared.update(x, y)
            shared.state_dict()

    run([lambda i=i: work(shares[i]) for i in range(THREADS)])  # type: ignore[misc]
    assert shared.tokens == 4000
    assert (shared.compute().correlation - expected.compute().correlation).abs().max() < 1e-6


def test_matched_pairs_are_shared_too() -> None:
    case = matched()
    expected = case.accumulated().finish()
    shared = case.accumulator()
    parts = [slice(i, i + 10) for i in range(0, case.tokens, 10)]
    run([lambda i=i: case.feed(shared, parts[i::4]) for i in range(4)])  # type: ignore[misc]
    found = shared.finish()
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.correlation, expected.correlation, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAKERS))
def test_merges_in_both_orders_end(name: str) -> None:
    one, other = MAKERS[name](), MAKERS[name]()
    for accumulator in (one, other):
        accumulator.update(*models())

    class Slow:
        """A lock that leaves others the time to take the next one."""

        def __init__(self, lock: Any) -> None:
            self._lock, self.release = lock, lock.release

        def acquire(self) -> None:
            self._lock.acquire()
            time.sleep(0.01)

        __enter__, __exit__ = acquire, lambda self, *exception: self.release()

    for each in (one, other):
        each._lock = Slow(each._lock)
    run([lambda: one.merge(other), lambda: other.merge(one)])
    assert one.tokens % 4000 == other.tokens % 4000 == 0
    while one.tokens <= 1 << 52:
        one.merge(one)
    tokens = one.tokens
    with pytest.raises(uf.InputError, match=r"^merge: .* more than 2\*\*53"):
        one.merge(one)
    assert one.tokens == tokens


@pytest.mark.parametrize("name", list(MAKERS))
def test_copies_and_pickles_go_on_by_themselves(name: str) -> None:
    a, b = models()
    first = MAKERS[name]()
    first.update(a[:100], b[:100])
    copies = [copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    before = repr(first.compute())
    for each in copies:
        assert repr(each.compute()) == before
        each.update(a, b)
        assert each.tokens == 4100
        run([each.compute])
    assert first.tokens == 100
    assert repr(first.compute()) == before
    assert repr(copies[0].compute()) == repr(copies[1].compute())


def test_a_copy_of_matched_pairs() -> None:
    accumulator = matched().accumulated()
    for copied in (copy.deepcopy(accumulator), pickle.loads(pickle.dumps(accumulator))):
        found, expected = copied.tensors(), accumulator.tensors()
        assert all(bits(found[x].double()) == bits(expected[x].double()) for x in expected)


@pytest.mark.parametrize("name", ["all pairs", "details"])
def test_what_was_broken_off_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    case = matched()
    made = case.accumulator() if name == "details" else MAKERS[name]()
    if name != "details":
        made.update(*models())

    def change() -> None:
        if name == "details":
            case.feed(made, [slice(0, 50)])
        else:
            made.co_moments()

    with monkeypatch.context() as patch:
        patch.setattr(Grouping if name == "details" else CoMoments, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            change()
    for use in (made.state_dict, made.reset, lambda: copy.copy(made).tokens, lambda: made.tokens):
        with pytest.raises(uf.InputError, match=r"^\w+: was broken off while it took in tokens"):
            use()
    with pytest.raises(uf.InputError, match="was broken off"):
        (case.accumulated() if name == "details" else MAKERS[name]()).merge(made)


FORK = """
import os, threading, torch
import univfast as uf

a = torch.randn(20, 4)
held, idle = uf.PairedCorrelation(4), uf.PairedCorrelation(4)
locked, done = threading.Event(), threading.Event()

def hold():
    with held._lock:
        locked.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
locked.wait()
child = os.fork()
if child == 0:
    idle.update(a, a + 1)
    try:
        held.update(a, a + 1)
    except uf.InputError as error:
        os._exit(0 if "was broken off" in str(error) else 2)
    os._exit(1)
_, status = os.waitpid(child, 0)
done.set()
thread.join()
held.update(a, a + 1)
print(os.waitstatus_to_exitcode(status), held.tokens)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    assert printed(python(FORK)) == "0 20\n"
