"""`univfast weights`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from univfast.cli.failures import typed
from univfast.cli.options import PATH, Command, device_option, quiet_option
from univfast.cli.printing import say, shown
from univfast.cli.progress import progress_bar
from univfast.cli.text_options import local_model
from univfast.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from univfast.experiment import TrainedModel

__all__ = ["weights"]


@click.command(
    cls=Command,
    short_help="Say what a model's weights say of its neurons.",
    epilog="""\b
Examples:
  univfast weights ./gpt2 --out weights.csv
  univfast weights ./gpt2 --hooks 'transformer.h.11.mlp.act' --top-k 20 --out last.csv
  univfast weights a.ckpt --out a.csv""",
)
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--hooks",
    multiple=True,
    metavar="GLOB",
    help="Modules of neurons, as 'transformer.h.*.mlp.act' or"
    " 'model.layers.*.mlp.down_proj:input'. May be given several times.  [default: all MLPs of"
    " GPT-2, GPT-NeoX, Llama, BERT and alike, and of a model file]",
)
@click.option(
    "--unembedding",
    metavar="NAME",
    help="The module or parameter that makes logits, as 'lm_head'.  [default: as the model has it]",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Tokens whose logits a neuron raises, and lowers, most.",
)
@click.option(
    "--out", type=PATH, metavar="FILE.csv", required=True, help="Where to write the table."
)
@device_option("Where the model is.  [default: auto, a CUDA device where one can be used]")
@quiet_option
def weights(
    model: str,
    hooks: tuple[str, ...],
    unembedding: str | None,
    top_k: int,
    out: str,
    device: str | None,
    quiet: bool,
) -> None:
    """Say what the weights of MODEL say of its neurons: a table, a row a neuron.

    Norms of its input and output weights, its bias, the cosine between these weights; and of what
    it writes to the vocabulary (its row of W_out W_U, before the final norm) mean, variance, skew,
    kurtosis and the tokens that it raises and lowers most.

    MODEL is the directory of a Hugging Face model, or a model file of 'univfast train'. It is not
    run, and needs no text.
    """
    from univfast.machine.files import check_writable
    from univfast.machine.locks import holding_file
    from univfast.neuron_weights.weights import weights_of

    model = local_model(model)
    if os.path.exists(out) and os.path.samefile(model, out):
        raise InputError(f"{out}: is the model itself; name another --out file")
    check_writable(out)
    names = {"hooks": "--hooks", "unembedding": "--unembedding"}
    with (
        _opened(model, device) as (opened, tokenizer),
        holding_file(out),
        progress_bar("weights", "neurons", quiet) as progress,
        typed(names),
    ):
        table = weights_of(opened, hooks or None, unembedding, top_k, tokenizer, progress)
        table.save(out)
    if not quiet:
        layers = len({*table.layer})
        vocabulary = (
            f"logits by {shown(table.unembedding)}"
            if table.unembedding
            else "no logits, as the model has no unembedding of their width (--unembedding)"
        )
        which = "layer" if layers == 1 else "layers"
        say(f"{shown(out)}: {len(table):,} neurons of {layers} {which}, {vocabulary}")


@contextmanager
def _opened(model: str, device: str | None) -> Iterator[tuple[nn.Module | TrainedModel, Any]]:
    """A model, and its tokenizer if it has one.

    Raises:
        UsageError: a device for a model file.
    """
    if not os.path.isdir(model):
        from univfast.experiment import load_model

        if device is not None:
            raise click.UsageError(
                f"{model}: --device is for directories of Hugging Face models; leave it out"
            )
        yield load_model(model), None
        return
    from univfast.machine.devices import as_device, auto_device
    from univfast.text.models import load_model as load_directory
    from univfast.text.vocabulary import load_vocabulary

    place = as_device(None if device == "auto" else device) or auto_device()
    loaded = load_directory(model, place)
    tokenizer = load_vocabulary(loaded.tokenizer, loaded.config).tokenizer
    with loaded.with_its_own_weights() as module:
        yield module, tokenizer
