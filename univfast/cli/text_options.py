"""Options of the commands that run models on a text."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from univfast.cli.options import PATH
from univfast.cli.printing import complain, plain_warnings, say
from univfast.errors import InputError

if TYPE_CHECKING:
    from univfast.text import TextOptions

__all__ = [
    "check_exists",
    "drop_text",
    "given",
    "local_model",
    "say_matched",
    "take_text",
    "text_alone_options",
    "text_options",
    "warn_of_hooks",
]

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
    "inputs": click.option(
        "--inputs",
        type=PATH,
        metavar="FILE",
        help="What models read that read no text: a .npy, .pt or .safetensors file of pixel_values"
        " [samples, channels, height, width], or of arrays by their names in the models. Tokens are"
        " patches.",
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
    return _adding(command, _OPTIONS)


def text_alone_options(command: _Command) -> _Command:
    """Adds the options for commands that predict tokens, which are read from a text alone."""
    return _adding(command, [name for name in _OPTIONS if name != "inputs"])


def _adding(command: _Command, names: Collection[str]) -> _Command:
    for name in reversed([*names]):
        command = _OPTIONS[name](command)
    return command


def drop_text(options: dict[str, Any]) -> None:
    """Takes the options out of ``options``."""
    for name in _OPTIONS:
        del options[name]


def given(options: dict[str, Any]) -> list[str]:
    """Those of the options that the user gave, as they are typed."""
    return [f"--{name.replace('_', '-')}" for name in _OPTIONS if options.get(name)]


def take_text(
    model: str, options: dict[str, Any], mask: str | None
) -> tuple[TextOptions, tuple[str, ...]]:
    """What to run a model directory on, and its hooks; the options are taken out of ``options``.

    Raises:
        UsageError: there is no text or there are no hooks; or options of text are given for other
            inputs.
        InputError: an option is wrong.
    """
    from univfast.text import CorpusOptions, TextOptions, TokenFilters

    values = {name: options.pop(name, None) for name in _OPTIONS}
    inputs = values["inputs"]
    if not values["hooks"] or not (values["text"] or inputs):
        raise click.UsageError(
            f"{model}: is the directory of a model, which needs --text FILE and --hooks GLOB"
        )
    of_text = [x for x in ("text", "context", "bos", "max_tokens", "skip") if values[x]]
    if inputs and of_text:
        raise click.UsageError(
            f"--{of_text[0].replace('_', '-')} is for models of text, and --inputs for others;"
            " leave one out"
        )
    skip = tuple(kind.strip() for kind in values["skip"].split(",") if kind.strip())
    text = TextOptions(
        values["text"] or "",
        CorpusOptions(values["context"], values["bos"], values["max_tokens"]),
        TokenFilters(skip, values["positions"], mask),
        values["batch_tokens"],
        inputs,
    )
    return text, values["hooks"]


def warn_of_hooks(models: Iterable[object]) -> None:
    """Says on stderr where hooks may have matched more than was meant.

    Args:
        models: activations; those of models that read a text have hooks.
    """
    from univfast.networks.globs import nested

    found = [nested(names, about["hooks"]) for names, about in _of_hooks(models)]
    for note in dict.fromkeys(note for notes in found for note in notes):  # of models alike, once
        complain(f"Warning: {note}")


def say_matched(models: Iterable[object]) -> None:
    """Says what hooks matched; as `warn_of_hooks` otherwise."""
    from univfast.networks.globs import Matched

    rows = [row for _, about in _of_hooks(models) for row in about["matched"]]
    for line in dict.fromkeys(str(Matched(**row)) for row in rows):
        say(line)


def _of_hooks(models: Iterable[object]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Names of layers, and what is known of the hooks."""
    from univfast.inputs.layers import Activations

    for model in models:
        if isinstance(model, Activations) and model.about is not None:
            yield [*model.layers], {**model.about}


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
