"""Options of the commands that run models on a text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from univfast.errors import InputError
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    import torch

    from univfast.text import TextOptions

__all__ = ["check_exists", "given", "sources", "take_text", "text_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_COUNT = click.IntRange(min=1)
_OPTIONS = {
    "text": click.option(
        "--text",
        type=click.Path(path_type=str),
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


def check_exists(model: str) -> None:
    """Refuses a path where nothing is.

    Raises:
        InputError: naming it.
    """
    if not os.path.exists(model):
        raise InputError(f"{model}: no such file or directory; check the path")


@contextmanager
def sources(
    models: Sequence[str], options: dict[str, Any], device: torch.device
) -> Iterator[list[object]]:
    """What `univfast.correlate` is given for each model: the file, or activations on a text.

    Takes the options of text out of ``options``, and replaces the mask by that of all filters.

    Raises:
        UsageError: options of text without directories of models, or the other way.
        InputError: what cannot be used.
    """
    from univfast.inputs.model_paths import is_model_directory
    from univfast.inputs.pairing import in_order
    from univfast.text import open_run

    directories = [model for model in models if is_model_directory(model)]
    hooks_b = options.pop("hooks_b")
    wrong = [*given(options), *(["--hooks-b"] if hooks_b else [])]
    if directories or wrong:
        for model in models:
            check_exists(model)
    if not directories:
        if wrong:
            raise click.UsageError(
                f"{models[0]}: is no directory of a Hugging Face model, which {wrong[0]} is for;"
                " check the path, or leave the option out"
            )
        for name in _OPTIONS:
            del options[name]
        yield list(models)
        return
    text, hooks = take_text(directories[0], options, options["mask"])
    for model in models:
        if model not in directories:
            raise InputError(
                f"{model}: is no directory of a Hugging Face model, but {directories[0]} is; give "
                "directories alone, or write activations with 'univfast capture'"
            )
    each = [hooks, *(hooks_b or hooks for _ in models[1:])]
    with open_run(models, each, text, device) as run:
        options["mask"] = run.keep
        first, *others = run.activations
        if hooks_b and not MATCHINGS[options["match"]].all_pairs:
            others = [in_order(first, other) for other in others]
        yield [first, *others]
