"""The error that a user's input can cause, and the warning."""

from __future__ import annotations

__all__ = ["InputError", "UnivfastWarning"]


class InputError(ValueError):
    """Input that univfast cannot use.

    The message is one line, ``NAME: what is wrong, and what to do``, where ``NAME`` is the file or
    the argument. The command line prints it behind ``Error:`` and exits with status 2. Line breaks
    and what else cannot be printed, which names of files and layers may hold, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class UnivfastWarning(UserWarning):
    """What may be wrong with input that can be used; ``summary["warnings"]`` of a result has it."""
