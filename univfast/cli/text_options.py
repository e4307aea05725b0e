"""Options of the commands that run models on a text."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from univfast.cli.options import PATH
from univfast.cli.printing import plain_warnings
from univfast.errors import InputError

if TYPE_CHECKING:
    from univfast.text import TextOptions

__all__ = ["check_exists", "drop_text", "given", "local_model", "take_text", "text_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_COUNT = click.IntRange(min=1)
_OPTIONS = {
    "text": click.option(
        "--text",
        type=PATH,
        metavar="FILE",
        help="What the models read: a text in UTF-8, or a .npy, .pt or .safetensors file of token"
        " ids [tokens] or [samples, sequence].",
    ),
    "hooks": click.option(
        "--hooks",
        multiple=True,
        metavar="GLOB",
        help="Modules whose output is a layer, as 'transformer.h.*.mlp.act'; with ':input', what"
        " they are given, as 'model.layers.*.mlp.down_proj:input'. May be given several times.",
    ),
    "context": click.option(
        "--context",
        type=_COUNT,
        metavar="N",
        help="Tokens that a model reads at a time.  [default: 512, or what it can read]",
    ),
    "bos": click.option(
        "--bos", is_flag=True, help="Put the tokenizer's BOS token before each window."
    ),
    "max_tokens": click.option(
        "--max-tokens", type=_COUNT, metavar="N", help="Read the first N tokens of the text."
    ),
    "skip": click.option(
        "--skip",
        default="",
        metavar="KINDS",
        help="Leave out tokens: 'special', 'bos', 'newline', 'padding' (at the ends of samples, not"
        " seen by other tokens either); several with commas between.",
    ),
    "positions": click.option(
        "--positions",
        metavar="START:STOP",
        help="Use these positions of each window, as Python slices: '1:' leaves out the first.",
    ),
    "batch_tokens": click.option(
        "--batch-tokens",
        type=_COUNT,
        metavar="N",
        help="Tokens of a forward pass.  [default: 8192, or as many as give 512 MB]",
    ),
}


def text_options(command: _Command) -> _Command:
    """Adds the options."""
    for option in reversed(_OPTIONS.values()):
        command = option(command)
    return command


def drop_text(options: dict[str, Any]) -> None:
    """Takes the options out of ``options``."""
    for name in _OPTIONS:
        del options[name]


def given(options: dict[str, Any]) -> list[str]:
    """Those of the options that the user gave, as they are typed."""
    return [f"--{name.replace('_', '-')}" for name in _OPTIONS if options[name]]


def take_text(
    model: str, options: dict[str, Any], mask: str | None
) -> tuple[TextOptions, tuple[str, ...]]:
    """What to run a model directory on, and its hooks; the options are taken out of ``options``.

    Raises:
        UsageError: there is no text or there are no hooks.
        InputError: an option is wrong.
    """
    from univfast.text import CorpusOptions, TextOptions, TokenFilters

    values = {name: options.pop(name) for name in _OPTIONS}
    for name in ("text", "hooks"):
        if not values[name]:
            raise click.UsageError(
                f"{model}: is the directory of a model, which needs --text FILE and --hooks GLOB"
            )
    skip = tuple(kind.strip() for kind in values["skip"].split(",") if kind.strip())
    text = TextOptions(
        values["text"],
        CorpusOptions(values["context"], values["bos"], values["max_tokens"]),
        TokenFilters(skip, values["positions"], mask),
        values["batch_tokens"],
    )
    return text, values["hooks"]


def local_model(model: str) -> str:
    """The path of a model: what a name on the hub stands for, or the path that it is.

    Raises:
        InputError: what a name stands for cannot be had, or there is nothing at a path.
    """
    from univfast.inputs.hub import fetch, is_hub_name

    if is_hub_name(model):
        with plain_warnings():
            return fetch(model).path
    check_exists(model)
    return model


def check_exists(model: str) -> None:
    """Refuses a path where nothing is.

    Raises:
        InputError: naming it.
    """
    if not os.path.exists(model):
        raise InputError(f"{model}: no such file or directory; check the path")
