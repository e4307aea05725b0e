"""Checks of option values, with messages that name the option."""

from __future__ import annotations

import math

from univfast.errors import InputError

__all__ = ["check_choice", "check_integer", "check_number", "check_seed"]


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise unless ``value`` is an int with ``low <= value <= high``.

    Raises:
        TypeError: not an int (a bool is none either).
        InputError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise InputError(f"{name}: {value} is out of range; use {low} to {high}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raise unless ``value`` is a finite number with ``low <= value <= high``.

    Raises:
        TypeError: not an int or float.
        InputError: NaN or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if math.isnan(value) or not low <= value <= high:
        raise InputError(f"{name}: {value} is out of range; use {low:g} to {high:g}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(f"{name}: {value!r} is unknown; use {' or '.join(choices)}")


def check_seed(value: object) -> None:
    """Raise unless ``value`` is an int from 0 to 2^63 - 1."""
    check_integer("seed", value, 0, 2**63 - 1)
