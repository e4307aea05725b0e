"""Options, checked before any work."""

from __future__ import annotations

import errno
import math
import numbers
import operator
import os
from collections.abc import Mapping
from typing import Any

from univfast.errors import InputError

__all__ = [
    "as_integer",
    "as_number",
    "as_seed",
    "as_text",
    "check_choice",
    "check_options",
    "check_path",
    "differ",
    "plain_text",
    "shown",
]

# Of a value in an error: characters, and values in it.
_SHOWN, _VALUES = 200, 1000


def as_integer(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int; NumPy's and torch's integers are integers too.

    Raises:
        TypeError: it is no integer (a bool is none either).
        InputError: it is below ``low`` or above ``high``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    _check_range(name, number, low, high)
    return number


def as_number(
    name: str, value: object, low: float | None = None, high: float | None = None
) -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is no real number.
        InputError: it is NaN, infinite, below ``low`` or above ``high``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{name}: got {number}, expected a finite number")
    _check_range(name, number, low, high)
    return number


def as_seed(value: object) -> int:
    """``value`` as an int from 0 to 2^63 - 1, which torch's generators take.

    Raises:
        TypeError: it is no integer.
        InputError: it is out of range.
    """
    return as_integer("seed", value, 0, 2**63 - 1)


def as_text(name: str, value: object) -> str:
    """``value`` as a str.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
    return plain_text(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ``InputError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f"{name}: got {value!r}, expected {' or '.join(choices)}")


def check_options(got: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """Refuses options that differ.

    Raises:
        InputError: beginning with ``name``, with the option and both values.
    """
    for key, value in expected.items():
        if differ(got.get(key), value):
            found = shown(got.get(key))
            raise InputError(f"{name}: {key} differs, got {found}, expected {shown(value)}")


def differ(one: object, other: object) -> bool:
    """Whether two options differ; layers in another order do, for tensors have them by place.

    Values of other types differ too: true is not 1, nor is 1.0.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(map(str, one)) != list(map(str, other)):
            return True
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) != len(other) or any(map(differ, one, other))
    return type(one) is not type(other) or one != other


def shown(value: object) -> str:
    """A value in an error: one line, and no longer than can be read."""
    try:
        text = "" if _left(value, _VALUES) < 0 else " ".join(repr(value).split())
    except Exception:  # of whatever a file holds; even a long int has none
        text = ""
    if not text:
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _left(value: object, most: int) -> int:
    """Of so many values, those that are left once these are counted; negative: too few."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    most -= 1
    for each in value if isinstance(value, (list, tuple)) else ():
        if most < 0:
            break
        most = _left(each, most)
    return most


def plain_text(value: str) -> str:
    """The text of a str, or of what derives from it as NumPy's does, which no file may hold."""
    return str.__str__(value)


def _check_range(name: str, number: float, low: float | None, high: float | None) -> None:
    if low is not None and number < low:
        raise InputError(f"{name}: got {number}, expected at least {low}")
    if high is not None and number > high:
        raise InputError(f"{name}: got {number}, expected at most {high}")


def check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Refuses what names no file, before the system takes it for the working directory.

    Raises:
        InputError: it is empty or blank, too long, or has a null character.
    """
    shown = os.fsdecode(path)
    if not shown.strip():
        raise InputError(f"{name}: {shown!r} names no file or directory; give its path")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{name}: {shown} is too long for a name; give a shorter one"
            ) from error
    except ValueError as error:
        raise InputError(f"{name}: {shown!r} cannot be a path ({error}); check it") from error


def as_size(name: str, value: Any) -> tuple[float, float] | None:
    """Width and height in inches, or None.

    Raises:
        InputError: one is not above 0, or over 100.
        TypeError: not two numbers.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(f"{name}: expected width and height in inches, got {value!r}")
    width, height = (as_number(name, x) for x in value)
    if not (0 < width <= 100 and 0 < height <= 100):
        raise InputError(f"{name}: got {value!r}; give width and height in inches, up to 100")
    return width, height
