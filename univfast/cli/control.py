"""`univfast control`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from univfast.cli.options import (
    PATH,
    Command,
    device_option,
    match_rate_option,
    option,
    quiet_option,
)
from univfast.cli.printing import say, shown
from univfast.cli.text_options import given, local_model, take_text, text_options
from univfast.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from univfast.text.models import LanguageModel

__all__ = ["control"]


@click.command(
    cls=Command,
    short_help="Make a control: a network like a model, which learned nothing.",
    epilog="""\b
Examples:
  univfast control a.ckpt --seed 0 --out a-0.ckpt
  univfast control ./gpt2 --text corpus.txt --hooks 'transformer.h.*.mlp.act' --out gpt2-0/
  univfast control ./gpt2 --seed 1 --no-match-rate --out gpt2-1/""",
)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the weights: of several controls, 0, 1, 2, ...",
)
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    required=True,
    help="Where to write: a directory that is not there yet; of a model file, a file.",
)
@match_rate_option
@text_options
@click.option(
    "--mask",
    type=PATH,
    metavar="FILE",
    help="Match rates on the tokens that this .pt or .npy file of booleans marks as true.",
)
@option("axis")
@device_option("Where the models run.  [default: auto, a CUDA device where one can be used]")
@quiet_option
def control(model: str, seed: int, out: str, match_rate: bool, quiet: bool, **options: Any) -> None:
    """Make a control of MODEL: a network of its architecture, of random weights.

    What two models share beyond what each shares with controls of the other, they learned. Each
    neuron is shifted, before its activation function, to be active on as many tokens as the trained
    neuron of its number, of 16,384 tokens at most; dead ones stay dead.

    MODEL is the directory of a Hugging Face model, which reads --text; --hooks names modules that
    do as ReLU, GELU or SiLU do, or whose output goes into such. --out gets a directory that all
    commands read as they read MODEL's, with the shifts in univfast_control.pt.

    Or MODEL is a model file of 'univfast train', which reads its own held-out test set, and --out
    gets another.
    """
    model = local_model(model)
    if os.path.exists(out) and os.path.samefile(model, out):
        raise InputError(f"{out}: is the model itself; name another --out")
    of_text = [
        *given(options),
        *(f"--{x}" for x in ("mask", "axis", "device") if options[x] is not None),
    ]
    if not os.path.isdir(model):
        if of_text:
            raise click.UsageError(
                f"{model}: {of_text[0]} is for directories of Hugging Face models; leave it out"
            )
        _of_file(model, seed, out, match_rate)
    else:
        if not match_rate and of_text:
            raise click.UsageError(
                f"{of_text[0]} says how rates are matched; leave it or --no-match-rate out"
            )
        if match_rate and not ((options["text"] or options["inputs"]) and options["hooks"]):
            raise click.UsageError(
                f"{model}: is the directory of a model, whose rates are matched on --text FILE at"
                " --hooks GLOB; give both, or --no-match-rate for a plain control"
            )
        _of_directory(model, seed, out, options if match_rate else None)
    if not quiet:
        kind = "rate-matched" if match_rate else "plain"
        say(f"{shown(out)}: a {kind} control of {shown(model)}, seed {seed}")


def _of_file(model: str, seed: int, out: str, match_rate: bool) -> None:
    from univfast.experiment import control_of, load_model, save_model
    from univfast.machine.files import check_writable
    from univfast.machine.locks import holding_file

    trained = load_model(model)
    if trained.control is not None:
        raise InputError(f"{model}: is a control itself; give the trained model")
    check_writable(out)
    with holding_file(out):
        save_model(out, control_of(trained, seed, match_rate))


def _of_directory(model: str, seed: int, out: str, options: dict[str, Any] | None) -> None:
    """``options``: how to match rates; None for a plain control."""
    import torch

    from univfast.machine.files import check_new_directory, make_directory
    from univfast.machine.locks import holding_file
    from univfast.text.control_files import ControlNote, save_control
    from univfast.text.live_controls import make_control
    from univfast.text.models import load_model

    check_new_directory(out)
    make_directory(os.path.dirname(os.path.realpath(out)))
    with holding_file(out):  # the directory appears when it is whole
        matched_on = None
        if options is None:
            trained = load_model(model, torch.device("cpu"))
            fresh = make_control(trained, seed, None)
        else:
            trained, fresh, matched_on = _matched(model, seed, options)
        save_control(out, trained.tokenizer, fresh, ControlNote(seed, matched_on))


def _matched(
    model: str, seed: int, options: dict[str, Any]
) -> tuple[LanguageModel, nn.Module, dict[str, object]]:
    """A model, a rate-matched control of it, and what its rates were matched on."""
    from univfast.machine.devices import as_device, auto_device
    from univfast.text import open_run
    from univfast.text.live_controls import Pilot, make_control

    text, hooks = take_text(model, options, options["mask"])
    named = options["device"]
    device = as_device(None if named == "auto" else named) or auto_device()
    with open_run([model], [hooks], text, device, options["axis"]) as run:
        pilot = Pilot.of(run, 0)
        about = {
            **(run.activations[0].about or {}),
            "windows": run.windows.digest.hex(),
            "pilot_tokens": pilot.tokens,
        }
        return run.models[0], make_control(run.models[0], seed, pilot), about
