"""What `univfast.correlate` is given for the models, and controls, of a command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from univfast.cli.text_options import check_exists, drop_text, given, take_text
from univfast.errors import InputError
from univfast.search.matchings import MATCHINGS

if TYPE_CHECKING:
    import torch

    from univfast.inputs.hub import Snapshot
    from univfast.inputs.layers import Activations
    from univfast.neuron_weights.weight_table import WeightTable
    from univfast.text import TextRun
    from univfast.text.models import LanguageModel

__all__ = ["Sources", "sources"]


@dataclass(frozen=True)
class Sources:
    """What is compared.

    Attributes:
        models: of each model, the file, or its activations.
        controls: of each model, the same of its controls.
        weights: gives what the weights of A say of its neurons; None where A is no model. Raises
            InputError where they are not known.
    """

    models: Sequence[object]
    controls: Sequence[Sequence[object]]
    weights: Callable[[], WeightTable | None]

    def arguments(self) -> dict[str, Any]:
        """``controls_a`` and ``controls_b`` as `univfast.correlate` takes them."""
        own, *theirs = self.controls
        several = [*theirs] if len(theirs) > 1 else theirs[0]
        return {
            "controls_a": own or None,
            "controls_b": several if any(theirs) else None,
        }


@contextmanager
def sources(
    models: Sequence[str], options: dict[str, Any], device: torch.device
) -> Iterator[Sources]:
    """All that is compared, valid within the block.

    Takes the options of text and of controls out of ``options``, and replaces the mask by that of
    all filters.

    Raises:
        UsageError: options of text without directories of models, or the other way; controls that
            are given twice, or not for each model.
        InputError: what cannot be used.
    """
    from univfast.inputs.hub import is_hub_name
    from univfast.inputs.model_paths import is_model_directory

    paths = _control_paths(options, len(models) - 1)
    number, match_rate = options.pop("controls"), options.pop("match_rate")
    if number and any(paths):
        raise click.UsageError(
            "--controls makes controls, --controls-a and --controls-b name some; leave one out"
        )
    names, origins = list(models), [_origin(model) for model in models]
    models = [x.path if x is not None else model for x, model in zip(origins, models, strict=True)]
    directories = [model for model in models if is_model_directory(model)]
    hooks_b = options.pop("hooks_b")
    wrong = [*given(options), *(["--hooks-b"] if hooks_b else [])]
    if directories or wrong:
        for model in models:
            if not is_hub_name(model):
                check_exists(model)
    if not directories:
        if wrong:
            raise click.UsageError(
                f"{models[0]}: is no directory of a Hugging Face model, which {wrong[0]} is for;"
                " check the path, or leave the option out"
            )
        drop_text(options)
        made = _of_files(models, number, match_rate) if number else paths
        yield Sources(list(models), made, partial(_weights_of_file, models[0]))
        return
    from univfast.inputs.pairing import in_order
    from univfast.text import open_run

    text, hooks = take_text(directories[0], options, options["mask"])
    for path in (*models, *(path for of_one in paths for path in of_one)):
        if not is_model_directory(path):
            raise InputError(
                f"{path}: is no directory of a Hugging Face model, but {directories[0]} is; give "
                "directories alone, or write activations with 'univfast capture'"
            )
    each = [hooks, *(hooks_b or hooks for _ in models[1:])]
    # Of arrays; models have it from here.
    axis, options["axis"] = options["axis"], None
    with open_run(models, each, text, device, axis) as run:
        options["mask"] = run.keep
        first, *others = [
            activations
            if origin is None
            else replace(activations, name=name, origin=origin.about())
            for activations, name, origin in zip(run.activations, names, origins, strict=True)
        ]
        controls = _of_run(run, paths, number, match_rate, options["control_tokens"])
        if hooks_b and not MATCHINGS[options["match"]].all_pairs:
            others = [in_order(first, other) for other in others]
            own, *theirs = controls
            controls = [own, *([in_order(first, x) for x in of_one] for of_one in theirs)]
        yield Sources([first, *others], controls, partial(_weights_of_run, run.models[0], hooks))


def _origin(model: str) -> Snapshot | None:
    """Of a model on the hub, what was fetched; None of all others, activations on the hub too."""
    from univfast.inputs.hub import fetch, is_hub_name
    from univfast.inputs.model_paths import is_model_directory

    if not is_hub_name(model):
        return None
    there = fetch(model)
    return there if is_model_directory(there.path) else None


def _control_paths(options: dict[str, Any], others: int) -> list[list[str]]:
    """Of each model the paths of its controls, which are taken out of ``options``.

    Raises:
        UsageError: of several other models, some have none, or it is open whose they are.
    """
    own, theirs = options.pop("controls_a"), options.pop("controls_b")
    grouped = [list(some) for some in theirs]
    if others == 1 or not grouped:
        grouped = [[path for some in grouped for path in some]] * others
    if len(grouped) != others:
        raise click.UsageError(
            f"--controls-b: was given {len(grouped)} times, and there are {others} other models;"
            " give it once for each of them, in their order, with the paths of its controls"
        )
    return [[path for some in own for path in some], *grouped]


def _of_files(paths: Sequence[str], number: int, match_rate: bool) -> list[list[Activations]]:
    """Controls of model files of `univfast train`.

    Raises:
        InputError: one is none.
    """
    from univfast.controls import weights_digest
    from univfast.experiment import control_of, live_activations, load_model

    found, digests = [], []
    for path in paths:
        try:
            trained = load_model(path)
        except InputError as error:
            raise InputError(
                f"{path}: is no model file of 'univfast train' that can be read, of which"
                " --controls could make controls; give theirs with --controls-a and --controls-b"
            ) from error
        # One model on two sides has two controls of one seed.
        digests.append(weights_digest(trained.model()))
        side = str(twins) if (twins := digests.count(digests[-1]) - 1) else ""
        found.append(
            [
                live_activations(
                    control_of(trained, seed, match_rate, side), f"{path} (control {seed})"
                )
                for seed in range(number)
            ]
        )
    return found


def _of_run(
    run: TextRun, paths: Sequence[Sequence[str]], number: int, match_rate: bool, tokens: int
) -> list[list[Activations]]:
    """Controls of the models of a run: those named, or made on the way."""
    from univfast.text import control_activations, stored_control_activations

    if not number:
        return [
            [stored_control_activations(run, i, path) for path in of_one]
            for i, of_one in enumerate(paths)
        ]
    return [
        [control_activations(run, i, seed, match_rate, tokens) for seed in range(number)]
        for i in range(len(run.models))
    ]


def _weights_of_file(path: str) -> WeightTable | None:
    """Of a model file of `univfast train`; None of other files, and of directories."""
    from univfast.experiment import from_dict
    from univfast.inputs.formats import read_file
    from univfast.inputs.hub import is_hub_name
    from univfast.inputs.layers import LONE_LAYER
    from univfast.inputs.model_paths import is_model_file

    content = None if os.path.isdir(path) or is_hub_name(path) else read_file(path, LONE_LAYER)
    return _weights(from_dict(content, path), None) if is_model_file(content) else None


def _weights_of_run(model: LanguageModel, hooks: Sequence[str]) -> WeightTable:
    with model.with_its_own_weights() as module:
        return _weights(module, hooks)


def _weights(model: object, hooks: Sequence[str] | None) -> WeightTable:
    """Of the published columns, which need no tokens by name."""
    from univfast.neuron_weights.weights import weights

    return weights(model, hooks, top_k=1)  # type: ignore[arg-type]
