"""Objects that several threads share: one method at a time, in whole."""

from __future__ import annotations

import copy
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from univfast.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Guarded", "alone", "together"]

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G", bound="Guarded")

_OWN = ("_lock", "_torn")


class Guarded:
    """Has a lock, which methods that are `alone` hold; copies and pickles have one of their own."""

    _lock: threading.RLock
    _torn: bool  # by what ended a method, or forked the process, amidst a change

    def __new__(cls, *arguments: object, **options: object) -> Self:
        self = super().__new__(cls)
        self._lock, self._torn = threading.RLock(), False
        _all.add(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        with together(self):  # copied, lest it changes while it is written
            return copy.deepcopy(self._plain())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        with together(self):
            copied.__dict__.update(copy.deepcopy(self._plain(), memo))
        return copied

    @contextmanager
    def wholly(self) -> Iterator[None]:
        """A block that changes the object: where it is broken off, nothing uses the object again.

        By Ctrl-C, say, or by memory that there is not.
        """
        try:
            yield
        except BaseException:
            self._torn = True
            raise

    def _plain(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OWN}


_all: weakref.WeakSet[Guarded] = weakref.WeakSet()


def alone(method: Callable[Concatenate[G, P], R]) -> Callable[Concatenate[G, P], R]:
    """A method that other threads wait for: of one object, one at a time."""

    @functools.wraps(method)
    def guarded(self: G, /, *arguments: P.args, **options: P.kwargs) -> R:
        with self._lock:
            if self._torn:
                raise _refused(self)
            return method(self, *arguments, **options)

    return guarded


@contextmanager
def together(*objects: Guarded) -> Iterator[None]:
    """A block that is alone with some objects, however many others ask for them in other orders."""
    ordered = sorted(objects, key=id)
    for each in ordered:
        each._lock.acquire()
    try:
        for each in ordered:
            if each._torn:
                raise _refused(each)
        yield
    finally:
        for each in reversed(ordered):
            each._lock.release()


def _refused(torn: Guarded) -> InputError:
    return InputError(
        f"{type(torn).__name__}: was broken off while it took in tokens (by Ctrl-C, an error, or a"
        " fork beside another thread), and may hold half of them; make another one"
    )


def _after_fork() -> None:
    """Locks of threads that are not in this process would never be given back."""
    for each in list(_all):
        each._torn = each._torn or not each._lock.acquire(blocking=False)
        each._lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_after_fork)
