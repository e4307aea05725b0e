"""What is said where a command cannot go on."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import univfast
from univfast.errors import InputError
from univfast.option import declared
from univfast.options import CorrelateOptions

__all__ = ["INTERRUPTED", "internal", "told", "typed", "with_options"]

INTERRUPTED = 130
"""Exit status of what was interrupted."""

# Shows where an internal error came from.
_TRACEBACK = "UNIVFAST_TRACEBACK"

_MEMORY = (
    "use less, as with --memory-limit, --threads or --batch-tokens, or raise the limit that"
    " 'ulimit -v' shows"
)
_FILES = "raise the limit on open files ('ulimit -n')"
_ADVICE = {
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: "raise the limit on threads ('ulimit -u'), or use fewer (--threads)",
}
# What torch, its parts and the loader of libraries say where memory is short, and threads.
_SHORT = {
    errno.ENOMEM: (
        "not enough memory",
        "out of memory",
        "can't allocate memory",
        "cannot allocate memory",
        "bad_alloc",
        "failed to map segment",
    ),
    errno.EAGAIN: ("can't start new thread", "resource temporarily unavailable"),
}


def told(error: Exception) -> str | None:
    """What to say of what the user can mend, input or machine; None for a bug of univfast."""
    causes = list(_chain(error))
    if isinstance(error, InputError):
        # Its own advice is for files.
        lacking = next((x.errno for x in causes if isinstance(x, OSError)), None)
        reason, _, advice = str(error).rpartition("; ")
        if lacking in _ADVICE:
            return f"{reason or advice}; {_ADVICE[lacking]}"
        return with_options(str(error))
    lacking = next(filter(None, map(_lacking, causes)), None)
    if lacking == errno.ENOMEM:
        asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
        reason = f"asked for {asked[1]}" if asked else _first_line(error)
        return f"not enough memory ({reason}); {_ADVICE[lacking]}"
    if lacking is not None:
        return f"{_of_system(error)}; {_ADVICE[lacking]}"
    return _of_system(error) if isinstance(error, OSError) else None


def with_options(message: str) -> str:
    """What Python says of arguments, of the options of their names: ``match='best'`` of --match.

    In what is advised, that is, and where an argument is what the message is about: files may have
    such names too.
    """
    *whose, rest = message.split(": ", 2)
    if whose and whose[-1] in _options():  # perhaps after the model that it is about
        message = ": ".join([*whose[:-1], _options()[whose[-1]], rest])
    elif whose and whose[0] in _options():
        message = ": ".join([_options()[whose[0]], *whose[1:], rest])
    said, semicolon, advice = message.partition("; ")
    said = _AXIS.sub("--axis ", said)  # which is in the readings themselves
    return said + semicolon + _ARGUMENT.sub(_as_option, advice)


_AXIS = re.compile(r"\baxis=(?=-?\d)")


# An argument in a text, which may say its value: a text, a number, or a word for one.
_ARGUMENT = re.compile(
    r"(?<![\w./\\'-])([a-z]+(?:_[a-z]+)*)="
    r"(?:('[^']*'|[A-Z][\w/,.=*]*|-?\d+(?![\w./]))|(?![\w./\\'\"]))"
)


@cache
def _options() -> dict[str, str]:
    """Options that have the name of an argument, or another."""
    found = [name for name, (_, option) in declared(CorrelateOptions).items() if option.help]
    found += [
        "bos",
        "context",
        "device",
        "hooks",
        "hooks_b",
        "match_rate",
        "max_tokens",
        "positions",
    ]
    found += ["inputs", "site", "skip", "text"]
    named = {name: f"--{name.replace('_', '-')}" for name in found}
    return {**named, "layer_numbers": "--layer-number"}


def _as_option(found: re.Match[str]) -> str:
    option, value = _options().get(found[1]), found[2]
    if option is None:
        return found[0]
    if value == "False":
        return option.replace("--", "--no-", 1)
    if value in (None, "True"):
        return option
    plain = re.fullmatch(r"'([\w.,:/-]+)'", value)  # a shell takes it as it is
    return f"{option} {plain[1] if plain else value}"


@contextmanager
def typed(names: Mapping[str, str]) -> Iterator[None]:
    """Has errors in the block name what was typed: ``names`` has it by Python's arguments."""
    try:
        yield
    except InputError as error:
        argument, _, rest = str(error).partition(": ")
        if argument not in names:
            raise
        raise InputError(f"{names[argument]}: {rest}") from error


def internal(error: Exception) -> str:
    """What to say of a bug. The traceback is printed before where the environment asks for it."""
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    return (
        f"internal error: {type(error).__name__}: {_first_line(error)} ({_place(error)}); this is a"
        f" bug of univfast: please report it with what {_TRACEBACK}=1 shows"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _lacking(error: BaseException) -> int | None:
    """What the machine lacks, as a number of the system: memory, files or threads."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return error.errno
    if isinstance(error, (RuntimeError, ImportError, OSError)):
        text = str(error).lower()
        return next((n for n, words in _SHORT.items() if any(x in text for x in words)), None)
    return None


def _of_system(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'univfast'}: {error.strerror}"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _place(error: Exception) -> str:
    """The last line of univfast that an error went through."""
    root = Path(univfast.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [x for x in frames if Path(x.filename).is_relative_to(root)] or frames[-1:]
    return ", ".join(f"{Path(x.filename).name}:{x.lineno}" for x in own[-1:])
