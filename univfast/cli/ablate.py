"""`univfast ablate`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from univfast.cli.failures import typed
from univfast.cli.options import PATH, Command, device_option, quiet_option
from univfast.cli.printing import say, shown
from univfast.cli.progress import progress_bar
from univfast.cli.tables import Column, decimal, named, print_table, wrapped
from univfast.cli.text_options import given, local_model, take_text, text_alone_options
from univfast.errors import InputError

if TYPE_CHECKING:
    from univfast.ablation.ablate import Wanted
    from univfast.ablation.ablation_result import AblationResult
    from univfast.feeding import BatchProgress
    from univfast.result import CorrelationResult

__all__ = ["ablate"]


@click.command(
    cls=Command,
    short_help="Say what a model loses without its universal neurons.",
    epilog="""\b
Examples:
  univfast ablate univfast-demo/a.ckpt --result univfast-demo
  univfast ablate ./gpt2 --result result/ --text held-out.txt --out ablation/
  univfast ablate ./gpt2-b --result result/ --reverse --text held-out.txt --top 50""",
)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--result",
    "directory",
    type=PATH,
    metavar="DIR",
    required=True,
    help="What 'univfast correlate --out' or 'univfast demo' wrote, with MODEL as A.",
)
@click.option(
    "--reverse", is_flag=True, help="MODEL is B: of a result that was made with --reverse."
)
@click.option(
    "--learned", is_flag=True, help="Take out those that are learned, by comparison with controls."
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="Take them out of this layer alone. May be given several times.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Take out the N with the largest excess one at a time, too.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="R",
    help="Random sets of neurons of like activity, of each layer.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the random sets.",
)
@click.option(
    "--mean-tokens",
    type=click.IntRange(min=1),
    default=262_144,
    show_default=True,
    metavar="N",
    help="Means of neurons, and how active they are, are of the first N tokens that count.",
)
@text_alone_options
@click.option(
    "--mask",
    type=PATH,
    metavar="FILE",
    help="Use only the tokens that this .pt or .npy file of booleans marks as true.",
)
@click.option(
    "--site",
    type=click.Choice(["pre", "post"]),
    help="Of a model file, where layers mlp.0, mlp.1, ... of the result are: 'pre', before the"
    " ReLU, or 'post', after it.  [default: where the result says]",
)
@device_option("Where the model runs.  [default: auto, a CUDA device where one can be used]")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Write ablation.json and ablation.csv here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print ablation.json instead of text.")
@quiet_option
def ablate(
    model: str,
    directory: str,
    reverse: bool,
    out: str | None,
    as_json: bool,
    quiet: bool,
    learned: bool,
    layers: tuple[str, ...],
    top: int,
    repeats: int,
    seed: int,
    mean_tokens: int,
    **options: Any,
) -> None:
    """Say what MODEL loses without its universal neurons.

    The universal neurons of a layer are set to their means, and how much the loss of the next token
    rises is measured on a text, beside the same of random neurons that are about as active; so too
    of all layers together, and of single neurons. Use a text that the neurons were not found on.

    MODEL is the directory of a Hugging Face causal language model, which reads --text; --hooks
    names the layers' modules where the result does not. Or MODEL is a model file of 'univfast
    train', which reads its held-out test set.
    """
    from univfast.ablation.ablate import Wanted
    from univfast.machine.files import check_directory
    from univfast.machine.locks import holding_directory

    name, model = model, local_model(model)
    if out is not None:
        check_directory(out)
        if os.path.isdir(model) and os.path.isdir(out) and os.path.samefile(model, out):
            raise InputError(f"{out}: is the directory of the model; name another --out")
    result = _result(name, directory, reverse)
    wanted = Wanted([*layers] or None, learned, top, repeats, seed, mean_tokens)
    names = {
        "neurons": directory,
        "layers": "--layer",
        "learned": "--learned",
        "batches": "--text",
    }
    with progress_bar("ablate", "batches", quiet) as progress, typed(names):
        found, about = _measured(model, result, wanted, options, progress)
    found = replace(found, model=name)
    found.settings.update(
        result=directory, reverse=reverse, models=result.summary["models"], text=about
    )
    if out is not None:
        with holding_directory(out):
            found.save(out)
    if as_json:
        say(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    elif not quiet:
        _tell(found, out)


def _result(model: str, directory: str, reverse: bool) -> CorrelationResult:
    """The result whose neurons of A are those of the model.

    Raises:
        InputError: there is none, or the model is another of it.
    """
    from univfast.inputs.hub import is_hub_name
    from univfast.report.saved import load

    folder = os.path.join(directory, "reverse") if reverse else directory
    if reverse and not os.path.isdir(folder) and os.path.isdir(directory):
        raise InputError(
            f"{directory}: has no result in reverse; correlate with --reverse, or give A's model"
            " without it"
        )
    result = load(folder)
    own, *others = result.summary["models"]
    if _same(model, own):
        return result
    for number, other in enumerate(others):
        if _same(model, other):
            letter = "A" if reverse else chr(ord("B") + number) if number < 25 else "another model"
            do = "leave out --reverse" if reverse else "take B's neurons with --reverse"
            if number:
                do = f"correlate it as A, or give {own}"
            raise InputError(f"{model}: is {letter} of the result, and not {own}; {do}")
    if _is_model(own) or (is_hub_name(own) and is_hub_name(model)):
        raise InputError(
            f"{model}: is none of the models of the result in {directory}; give {own}"
            + ("" if reverse else f", or {others[0]} with --reverse")
        )
    return result


def _same(one: str, other: str) -> bool:
    there = os.path.exists(one) and os.path.exists(other)
    return one == other or (there and os.path.samefile(one, other))


def _is_model(path: str) -> bool:
    """Whether a model is there, and no activations."""
    from univfast.inputs.formats import read_file
    from univfast.inputs.model_paths import is_model_directory, is_model_file

    if os.path.isdir(path):
        return is_model_directory(path)
    try:
        return os.path.exists(path) and is_model_file(read_file(path, "activations"))
    except InputError:
        return False


def _measured(
    model: str,
    result: CorrelationResult,
    wanted: Wanted,
    options: dict[str, Any],
    progress: BatchProgress,
) -> tuple[AblationResult, dict[str, object]]:
    from univfast.ablation.held_out import ablate_directory, ablate_model_file, modules_of
    from univfast.experiment import load_model
    from univfast.machine.devices import as_device, auto_device

    if os.path.isdir(model):
        if options["site"] is not None:
            raise click.UsageError(
                f"{model}: --site is for model files of 'univfast train'; leave it out"
            )
        if not options["text"]:
            raise click.UsageError(f"{model}: is the directory of a model, which needs --text FILE")
        options["hooks"] = options["hooks"] or _hooks(result)
        text, hooks = take_text(model, options, options["mask"])
        named = options["device"]
        device = as_device(None if named == "auto" else named) or auto_device()
        return ablate_directory(model, text, hooks, result, wanted, device, progress)
    trained = load_model(model)
    wrong = [name for name in given(options) if name != "--hooks"]
    wrong += [f"--{name}" for name in ("mask", "device") if options[name] is not None]
    if wrong:
        raise click.UsageError(
            f"{model}: {wrong[0]} is for directories of Hugging Face models; leave it out"
        )
    if options["hooks"] and options["site"]:
        raise click.UsageError("--site and --hooks both say where layers are; leave one out")
    own = result.summary["models"][0]
    # What 'univfast correlate' captures of model files is before the ReLU.
    site = options["site"] or result.summary.get("site") or ("pre" if _same(model, own) else None)
    names = [*options["hooks"]] or modules_of(model, result, site)
    return ablate_model_file(model, trained, names, result, wanted, progress)


def _hooks(result: CorrelationResult) -> list[str]:
    """Those of A that a result says; or its layers, which are modules of these names."""
    text = result.summary.get("text")
    hooks = text.get("hooks") if isinstance(text, dict) else None
    own = hooks[0] if isinstance(hooks, list) and hooks else None
    if isinstance(own, list) and own and all(isinstance(x, str) for x in own):
        return own
    return list(dict.fromkeys(result.layer))


def _tell(found: AblationResult, out: str | None) -> None:
    """What was found, as text."""
    loss = found.loss.mean
    means = ""
    if found.mean_tokens < found.tokens:
        means = f"; means are of the first {found.mean_tokens:,}"
    say(
        f"{shown(found.model)}: loss {loss:.3f} nats a token, over {found.tokens:,} predicted"
        f" tokens of {found.documents:,} documents{means}"
    )
    if found.singles:
        layers = sorted({one.layer for one in found.singles})
        columns = [Column("neuron", least=16), *map(Column, ("excess", "loss", "95% interval"))]
        rows = [
            (
                named(one.layer, layers, f"/{one.neuron}"),
                decimal(one.excess),
                f"{one.effect.loss.mean:+.1e}",
                f"[{one.effect.loss.low:+.2e}, {one.effect.loss.high:+.2e}]",
                f"{one.effect.kl.mean:.1e}",
            )
            for one in found.singles
        ]
        print_table([*columns, Column("kl")], rows, total=False)
    for sentence in found.sentences():
        say(wrapped(shown(sentence)))
    if out is not None:
        say(f"Written to {shown(out)}: ablation.json and ablation.csv.")
