"""What commands print: on stdout results, on stderr what is wrong."""

from __future__ import annotations

import errno
import logging
import re
import sys
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

import click

from univfast.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "check_said",
    "complain",
    "forget",
    "heard",
    "load_pictures",
    "plain_warnings",
    "say",
    "shown",
]

# Of what `say` could not print, the first reason since `forget`.
_failures: list[OSError] = []

# Names may move the cursor, or colour the rest of the day; and a name of a file need not be text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def say(text: str, nl: bool = True, styled: bool = False) -> None:
    """Prints on stdout. Where that fails the work goes on, and `check_said` tells in the end.

    What is ``styled`` colours itself, and holds nothing else that moves a cursor.
    """
    if _failures:
        return
    try:
        click.echo(_encodable(text, sys.stdout, styled), nl=nl, color=styled or None)
    except OSError as error:
        _failures.append(error)


def heard() -> bool:
    """Whether all could be printed since `forget`; else nothing will be."""
    return not _failures


def complain(text: str) -> None:
    """Prints a line on stderr, if anybody listens."""
    with suppress(OSError):
        click.echo(_encodable(text, sys.stderr), err=True)


def forget() -> None:
    """What could not be printed before was another command's."""
    _failures.clear()


def check_said() -> None:
    """Tells of what could not be printed.

    Raises:
        BrokenPipeError: who read it has gone.
        InputError: any other reason.
    """
    for error in _failures:
        if error.errno == errno.EPIPE:
            raise error
        reason = error.strerror or error
        raise InputError(f"stdout: cannot be written ({reason}); print to another place")


def shown(name: str) -> str:
    """A name within one line."""
    return "".join(map(_escape, name)) if not name.isprintable() else name


def load_pictures() -> None:
    """Loads Matplotlib, so that what it lacks is told before the work whose result it draws."""
    # It warns of where its cache is, and that fonts are looked for.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib.figure  # noqa: F401


def _encodable(text: str, stream: TextIO | None, styled: bool = False) -> str:
    """A text that the stream can encode, and that moves no cursor unless it is ``styled``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    plain = text if styled else _UNPRINTABLE.sub(lambda found: _escape(found[0]), text)
    try:
        _ELLIPSIS.encode(encoding)
    except UnicodeEncodeError:
        plain = plain.replace(_ELLIPSIS, "~")  # as wide
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


@contextmanager
def plain_warnings() -> Iterator[None]:
    """A block whose warnings are lines on stderr, without the place in the code."""

    def show(message: Warning | str, *rest: object, **more: object) -> None:
        complain("Warning: " + " ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
