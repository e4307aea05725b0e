"""Registries: what can be chosen by name, each thing declared once.

A registry is where the choices of the command line, its help, the messages, the tables of the docs
and the code that does the work come from. `CONTRIBUTING.md` says how to add to each:

=====================  ===========================================================
``nulls.kinds``        ``ROTATIONS``: the random matrices of a baseline
``search.matchings``   ``MATCHINGS``: which neuron of B a neuron of A is compared with
``inputs.formats``     ``FORMATS``: files of activations
``inputs.stores``      ``STORES``: directories of activations that other tools wrote
``columns``            ``COLUMNS``: what stands in the tables of a result
``options``            the options of functions, accumulators and commands
=====================  ===========================================================

None of these imports torch, so that ``univfast --help`` does not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, TypeVar

from univfast.errors import InputError

__all__ = ["Registry", "resolve"]

# More choices than these are listed with commas.
_FEW = 3


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T]):
    """Things of one kind by name, in the order in which they were added.

    Args:
        argument: what the choice among them is called in messages.
        entries: the first of them.
    """

    def __init__(self, argument: str, entries: Iterable[T]) -> None:
        self._argument = argument
        self._entries: dict[str, T] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: T) -> None:
        """Adds an entry.

        Raises:
            ValueError: there is one of its name.
        """
        if entry.name in self._entries:
            raise ValueError(f"{self._argument}: there is a {entry.name!r} already")
        self._entries[entry.name] = entry

    @contextmanager
    def having(self, entry: T) -> Iterator[T]:
        """Has an entry within the block."""
        self.add(entry)
        try:
            yield entry
        finally:
            del self._entries[entry.name]

    def check(self, value: object) -> T:
        """The entry of this name.

        Raises:
            InputError: there is none; names the argument and the choices.
        """
        if isinstance(value, str) and value in self._entries:
            return self._entries[value]
        some = " or ".join(self) if len(self) <= _FEW else f"one of {', '.join(self)}"
        raise InputError(f"{self._argument}: got {value!r}, expected {some}")

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def resolve(reference: Any) -> Any:
    """What an entry refers to: ``"module:name"``, imported only now, or the thing itself."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
