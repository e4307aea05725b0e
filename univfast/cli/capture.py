"""`univfast capture`."""

from __future__ import annotations

import os
from typing import Any

import click

from univfast.cli.options import PATH, Command, device_option, option, quiet_option
from univfast.cli.printing import say, shown
from univfast.cli.progress import progress_bar
from univfast.cli.text_options import (
    given,
    local_model,
    say_matched,
    take_text,
    text_options,
    warn_of_hooks,
)
from univfast.errors import InputError

__all__ = ["capture"]


@click.command(
    cls=Command,
    short_help="Capture a model's activations: on a text, or on held-out text.",
    epilog="""\b
Examples:
  univfast capture a.ckpt --out a.pt
  univfast capture ./gpt2 --text corpus.txt --hooks 'transformer.h.*.mlp.act' --out acts/""",
)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    required=True,
    help="Where to write: a directory for shards; of a model file, a .pt file.",
)
@text_options
@click.option(
    "--mask",
    type=PATH,
    metavar="FILE",
    help="Write only the tokens that this .pt or .npy file of booleans marks as true.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Of what is written.  [default: auto, as the model gives it]",
)
@click.option(
    "--shard-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens of the text for one file.  [default: as many as take 512 MB]",
)
@option("axis")
@device_option("Where the model runs.  [default: auto, a CUDA device where one can be used]")
@click.option(
    "--site",
    type=click.Choice(["pre", "post"]),
    help="Of a model file. 'pre': right after the first linear layer of the MLP. 'post': after the"
    " ReLU.  [default: pre]",
)
@click.option(
    "--data",
    type=PATH,
    metavar="docs|random|FILE",
    help="Of a model file: take the test set from this text.  [default: what it was trained on]",
)
@quiet_option
def capture(model: str, out: str, quiet: bool, **options: Any) -> None:
    """Capture activations of MODEL.

    MODEL is the directory of a Hugging Face model, which reads --text; the layers that --hooks
    names go to shards in the directory --out, as they are made. Tokens that are left out are not
    written. Started again with the same arguments, a capture that was stopped goes on.

    Or MODEL is a model file of 'univfast train', which reads its held-out test set. --out gets a
    dict of layer name to a float32 tensor [samples, sequence, neurons]: of its MLPs, or of --hooks.
    """
    model = local_model(model)
    if os.path.isdir(model):
        _refuse(model, options, ("site", "data"), "a model file of 'univfast train'")
        _capture_directory(model, out, quiet, options)
    else:
        _capture_model_file(model, out, quiet, options)


def _refuse(model: str, options: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    wrong = [f"--{name.replace('_', '-')}" for name in names if options[name] is not None]
    if wrong:
        raise click.UsageError(f"{model}: {wrong[0]} is for {what}; leave it out")


def _capture_directory(model: str, out: str, quiet: bool, options: dict[str, Any]) -> None:
    from univfast.inputs.model_paths import is_model_directory
    from univfast.machine.devices import as_device, auto_device
    from univfast.machine.files import check_directory
    from univfast.machine.locks import holding_directory
    from univfast.text import Shards, identity, open_run

    text, hooks = take_text(model, options, options["mask"])
    check_directory(out)
    if is_model_directory(out):
        raise InputError(f"{out}: is the directory of a model; name another --out directory")
    named = options["device"]
    device = as_device(None if named == "auto" else named) or auto_device()
    with (
        open_run([model], [hooks], text, device, options["axis"]) as run,
        progress_bar("capture", "tokens", quiet) as progress,
    ):
        (activations,) = run.activations
        warn_of_hooks([activations])
        shards = Shards(
            activations, run.windows, run.keep, options["dtype"] or "auto", options["shard_tokens"]
        )
        with holding_directory(out):
            shards.write(out, identity(run, hooks, text), progress)
    if not quiet:
        say_matched([activations])
        say(
            f"{shown(out)}: {len(activations.layers)} layers of {shards.tokens} tokens, "
            f"{len(shards.spans)} shards"
        )


def _capture_model_file(model: str, out: str, quiet: bool, options: dict[str, Any]) -> None:
    import dataclasses

    from univfast.experiment import capture_layers, capture_mlp, load_model, test_set_name
    from univfast.machine.files import check_writable, save_tensors
    from univfast.machine.locks import holding_file

    trained = load_model(model)
    of_text = [name for name in given(options) if name != "--hooks"]
    if of_text:
        raise click.UsageError(
            f"{model}: {of_text[0]} is for directories of Hugging Face models; leave it out"
        )
    others = ("mask", "axis", "dtype", "shard_tokens", "device")
    _refuse(model, options, others, "directories of Hugging Face models")
    hooks, site = options["hooks"], options["site"]
    if hooks and site:
        raise click.UsageError("--site and --hooks both say what to capture; leave one out")
    if options["data"] is not None:
        trained = dataclasses.replace(trained, data=options["data"])
    check_writable(out)
    if os.path.exists(out) and os.path.samefile(model, out):
        raise InputError(f"{out}: is the model itself; name another --out file")
    with holding_file(out):
        if hooks:
            activations = capture_layers(trained, hooks)
        else:
            activations = capture_mlp(trained, "post" if site == "post" else "pre")
        save_tensors(out, activations)
    if not quiet:
        shape = list(next(iter(activations.values())).shape)
        say(f"{shown(out)}: {len(activations)} layers of {shape} on {test_set_name(trained)}")
