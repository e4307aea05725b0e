"""Signatures and docstrings of what takes options, from where these are declared."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from univfast.option import Option, declared

__all__ = ["described", "documented"]

_WIDTH = 100

F = TypeVar("F", bound=Callable[..., Any])


def documented(group: type, **words: str) -> Callable[[F], F]:
    """Gives a function, or a class, the signature and the docstring of the options that it takes.

    A line ``{options}`` of the docstring becomes an entry an option, and ``{word}`` that of
    ``words``.
    """

    def document(function: F) -> F:
        options = declared(group)
        called: Any = vars(function)["__init__"] if isinstance(function, type) else function
        signature = inspect.signature(called)
        own = list(signature.parameters.values())[:-1]  # but for **options
        keywords = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=kind
            )
            for name, (kind, option) in options.items()
        ]
        last = [x for x in own if x.kind is x.KEYWORD_ONLY]
        first = [x for x in own if x.kind is not x.KEYWORD_ONLY]
        called.__signature__ = signature.replace(parameters=[*first, *keywords, *last])
        annotations = {name: called.__annotations__[name] for name in called.__annotations__}
        del annotations["options"]
        kinds = {name: kind for name, (kind, _) in options.items()}
        called.__annotations__ = {**kinds, **annotations}
        function.__doc__ = _filled(function.__doc__ or "", options, words)
        return function

    return document


def _filled(text: str, options: Mapping[str, tuple[Any, Option]], words: Mapping[str, str]) -> str:
    """A docstring with its options."""
    lines = []
    for line in text.splitlines():
        indent = line[: -len(line.lstrip())]
        if line.strip() != "{options}":
            for word, says in words.items():
                line = line.replace(f"{{{word}}}", says)
            lines.append(line)
            continue
        for name, (_, option) in options.items():
            lines += textwrap.wrap(
                f"{name}: {described(option)}",
                width=_WIDTH,
                initial_indent=indent,
                subsequent_indent=indent + "    ",
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def described(option: Option) -> str:
    """An option's line in a docstring."""
    if option.choices is None:
        return option.doc
    names = [f'``"{name}"``' for name in option.choices]
    docs = [getattr(entry, "doc", None) for entry in option.choices.values()]
    if any(docs):
        choices = ". ".join(f"{name}: {doc}" for name, doc in zip(names, docs, strict=True))
    else:
        choices = f"{', '.join(names[:-1])} or {names[-1]}"
    return option.doc.format(choices=choices)
