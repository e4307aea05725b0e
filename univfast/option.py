"""What an option is: a key of a group, which says its default, its words and how it is checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_args

from univfast.checks import as_number, as_text, check_choice, check_path, plain_text
from univfast.registry import Registry

__all__ = [
    "Option",
    "as_it_is",
    "as_limit",
    "as_path",
    "as_pattern",
    "declared",
    "one_of",
    "select",
    "switch",
]

G = TypeVar("G")


def as_it_is(name: str, value: Any) -> Any:
    """A value that is checked where it is used."""
    return value


def switch(name: str, value: Any) -> bool:
    """On or off."""
    return bool(value)


def as_limit(name: str, value: Any, low: float) -> float | None:
    """A number, or None for none."""
    return None if value is None else as_number(name, value, low)


def as_path(name: str, value: Any) -> str | None:
    """The path of a file as text, or None for none. Raises TypeError."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}")
    return plain_text(path)


def as_pattern(name: str, value: Any) -> str | None:
    """A text, or None for none. Raises TypeError."""
    return None if value is None else as_text(name, value)


def one_of(choices: tuple[str, ...]) -> Callable[[str, Any], str]:
    """A check that takes one of some texts."""

    def check(name: str, value: Any) -> str:
        check_choice(name, value, choices)
        return plain_text(value)

    return check


@dataclass(frozen=True)
class Option:
    """An option, beside its name and type.

    Attributes:
        default: its value where it is not given.
        doc: what it is, for docstrings. ``{choices}`` stands for those of the registry.
        help: what it is, for the command line. ``{choices}`` as above, each with its help.
        check: gives the value to use, or raises; called with name, value and, if there is one, low.
        low: of a number, the least that it may be.
        choices: the registry that it names an entry of.
        values: the texts that it may be, where no registry has them.
        path: whether it is that of a file, on the command line.
        metavar: what stands for the value on the command line.
    """

    default: Any
    doc: str
    help: str = ""
    check: Callable[..., Any] = as_it_is
    low: float | None = None
    choices: Registry[Any] | None = field(default=None, repr=False)
    values: tuple[str, ...] = ()
    path: bool = False
    metavar: str | None = None

    def checked(self, name: str, value: Any) -> Any:
        """The value to use. Raises InputError or TypeError."""
        if self.path and isinstance(value, (str, os.PathLike)):
            check_path(name, value)
        return self.check(name, value, *(() if self.low is None else (self.low,)))


def declared(group: type) -> dict[str, tuple[Any, Option]]:
    """The options of a group by name, each with its type."""
    found = {}
    for name, annotation in group.__annotations__.items():
        kind, option = get_args(annotation)
        found[name] = getattr(kind, "__forward_arg__", kind), option
    return found


def select(group: type[G], options: Mapping[str, Any]) -> G:
    """Those of some options that are of a group."""
    return cast("G", {name: options[name] for name in declared(group)})
