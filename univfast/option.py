"""What an option is: a key of a group, which says its default, its words and how it is checked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

from univfast.checks import as_integer, as_number, as_text, check_choice, check_path, plain_text
from univfast.registry import Registry

__all__ = [
    "PANELS",
    "Option",
    "Panel",
    "as_axis",
    "as_count",
    "as_file_pattern",
    "as_functions",
    "as_it_is",
    "as_limit",
    "as_names",
    "as_path",
    "as_pattern",
    "as_token_text",
    "declared",
    "one_of",
    "select",
    "switch",
]

G = TypeVar("G")

Panel = Literal[
    "Matching", "Nulls", "Input", "Live models", "Compute", "Long runs", "Output", "Training"
]
"""Where an option stands in the help of a command."""
PANELS: tuple[Panel, ...] = get_args(Panel)
"""All of them, in order."""


def as_it_is(name: str, value: Any) -> Any:
    """A value that is checked where it is used."""
    return value


def switch(name: str, value: Any) -> bool:
    """On or off."""
    return bool(value)


def as_axis(name: str, value: Any) -> int | None:
    """The number of an axis, or None for none. Raises TypeError."""
    return None if value is None else as_integer(name, value)


def as_limit(name: str, value: Any, low: float) -> float | None:
    """A number, or None for none."""
    return None if value is None else as_number(name, value, low)


def as_count(name: str, value: Any, low: int) -> int | None:
    """A whole number, or None where it is not known."""
    return None if value is None else as_integer(name, value, low)


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


def as_file_pattern(name: str, value: Any) -> str | None:
    """A pattern of files, or None for none. Raises InputError, TypeError."""
    if value is None:
        return None
    from univfast.inputs.patterns import FilePattern

    return FilePattern(as_text(name, value)).text


def as_names(name: str, value: Any) -> list[str] | None:
    """Names of neurons: a list, or a text with commas between; None for none. Raises TypeError."""
    if value is None:
        return None
    if isinstance(value, str):
        return _parted(plain_text(value))
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
        raise TypeError(f"{name}: expected a list of names, got {value!r}")
    return [plain_text(x) for x in value]


def _parted(text: str) -> list[str]:
    """The parts of ``"mlp.0/3, mlp.1/17"``: a comma within the name of a layer parts nothing."""
    found = []
    while text.strip():
        part = re.match(r"\s*(.+?/\d+)\s*(?:,|$)", text)
        found.append(text.strip() if part is None else part[1])
        text = "" if part is None else text[part.end() :]
    return found


def as_token_text(name: str, value: Any) -> Callable[[int], str] | None:
    """A function of a token id, or None. Raises TypeError."""
    if value is None or callable(value):
        return cast("Callable[[int], str] | None", value)
    if not isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise TypeError(f"{name}: expected a function of a token id, or a list, got {kind}")
    texts = [str(x) for x in value]
    return lambda token: texts[token] if 0 <= token < len(texts) else f"#{token}"


def as_functions(name: str, value: Any) -> dict[str, Callable[..., Any]] | None:
    """Functions by name, or None for none. Raises TypeError."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and callable(x) for key, x in value.items()
    ):
        raise TypeError(f"{name}: expected a dict of functions by name, got {value!r}")
    return {plain_text(key): function for key, function in value.items()}


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
        panel: where it stands in the help of a command.
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
    panel: Panel = "Input"

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
