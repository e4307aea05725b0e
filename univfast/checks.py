"""Options, checked before any work."""

from __future__ import annotations

import numbers
import operator

from univfast.errors import InputError

__all__ = ["as_integer", "as_number"]


def as_integer(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int; NumPy's and torch's integers are integers too.

    Raises:
        TypeError: it is no integer.
        InputError: it is below ``low`` or above ``high``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if low is not None and number < low:
        raise InputError(f"{name}: got {number}, expected at least {low}")
    if high is not None and number > high:
        raise InputError(f"{name}: got {number}, expected at most {high}")
    return number


def as_number(name: str, value: object) -> float:
    """``value`` as a float.

    Raises:
        TypeError: it is no real number.
        InputError: it is NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    number = float(value)
    if number - number != 0:
        raise InputError(f"{name}: got {number}, expected a finite number")
    return number
