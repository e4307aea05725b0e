"""`univfast correlate` and `univfast report`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from univfast.cli.failures import INTERRUPTED, typed, with_options
from univfast.cli.options import (
    PATH,
    PATHS,
    Command,
    device_option,
    every_option,
    figures_option,
    match_rate_option,
    option,
    quiet_option,
)
from univfast.cli.printing import complain, load_pictures, plain_warnings, say, shown
from univfast.cli.progress import progress_bars
from univfast.cli.results import print_result
from univfast.cli.sources import Sources, sources
from univfast.cli.text_options import say_matched, text_options, warn_of_hooks
from univfast.columns import NAMES
from univfast.errors import InputError

if TYPE_CHECKING:
    from univfast.machine.processes import Processes
    from univfast.result import CorrelationResult

__all__ = ["correlate", "report"]

# Options that say nothing without one of others.
_OF_CONTROLS = {
    "match_rate": ("controls",),
    "control_tokens": ("controls", "controls_a", "controls_b"),
    "control_margin": ("controls", "controls_a", "controls_b"),
}


@click.command(
    cls=Command,
    short_help="Correlate the neurons of two models.",
    epilog="""\b
Examples:
  univfast correlate a.pt b.pt
  univfast correlate a.pt b.pt --controls-a a0.pt a1.pt --controls-b b0.pt b1.pt
  univfast correlate a.safetensors b.safetensors --layers 'mlp.*' --draws 20 --out result/
  univfast correlate base.ckpt tuned.ckpt --json > summary.json
  univfast correlate ./base ./tuned --text corpus.txt --hooks 'transformer.h.*.mlp.act'""",
)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH, nargs=-1, required=True, metavar="B [C ...]")
@option("match")
@option("rotation")
@option("draws")
@option("shifts")
@option("seed")
@option("threshold")
@option("layers")
@option("files")
@option("axis")
@option("top_k")
@option("exclude_self")
@option("reverse")
@option("width")
@option("mask")
@option("details")
@option("token_ids")
@click.option(
    "--tokenizer",
    type=PATH,
    metavar="DIR",
    help="With --details and --token-ids, the directory of a Hugging Face tokenizer, which says"
    " what ids stand for.",
)
@option("neurons")
@option("examples")
@option("around")
@option("controls_a", type=PATHS, multiple=True)
@option("controls_b", type=PATHS, multiple=True)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Make K controls of each model on the way: of model files, and of directories that read"
    " --text. 4 are advised.",
)
@match_rate_option
@option("control_tokens")
@option("control_margin")
@text_options
@click.option(
    "--hooks-b",
    multiple=True,
    metavar="GLOB",
    help="As --hooks, of B and all others; by index, as many layers of other names are paired in"
    " order.  [default: --hooks]",
)
@device_option(
    "Where to compute. 'auto': on a CUDA device where one can be used, else on the CPU.", "auto"
)
@option("products")
@option("precision")
@option("threads")
@option("memory_limit")
@option("screen")
@option("checkpoint")
@option("checkpoint_every")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1, max=86_400),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Under torchrun: give up when another process does not answer for so long.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Write tables (neurons.csv, ...), summary.json, plots and report.html here.",
)
@click.option(
    "--columns",
    type=click.Choice(NAMES),
    default=NAMES[0],
    show_default=True,
    help="'published': write published.csv too, with the column names of the data of Gurnee et al."
    " 2024; of activations with --details, of weights where A is a model.",
)
@figures_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@every_option
@quiet_option
def correlate(
    a: str,
    b: tuple[str, ...],
    device: str,
    out: str | None,
    columns: str,
    figures: tuple[str, ...],
    tokenizer: str | None,
    memory_limit: float | None,
    timeout: float,
    as_json: bool,
    every: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Correlate the neurons of model A with those of model B, or of each of several models.

    A and B hold the activations of two models on the same tokens, with the neurons on the last
    axis: a {files} file; a directory of such files, joined in natural order (LAYER-003.npy is shard
    3 of LAYER); a Hugging Face dataset on disk; a directory that another tool wrote (Parquet, zarr,
    SAEV, activation caches of memmaps); a model file that 'univfast train' wrote, whose activations
    are captured on the way; or the directory of a Hugging Face model, which reads --text and whose
    activations are not kept. With more models, A is compared with each of the
    others, and the numbers are means over them.

    Started by torchrun ('torchrun --nproc-per-node 2 -m univfast correlate ...'), processes share
    the tokens (or, where the co-moments of all pairs fit none of them, the layers of A) and the
    search, and the first one writes.
    """
    from univfast.cli.torchrun import joined_processes
    from univfast.correlation import correlate_together
    from univfast.machine.files import check_directory
    from univfast.options import CorrelateOptions, complete

    if out is not None:
        check_directory(out)
        for path in (a, *b):
            if os.path.isdir(path) and os.path.isdir(out) and os.path.samefile(path, out):
                raise InputError(f"{out}: --out is an input, which would be changed; name another")
        load_pictures()
    elif columns != "univfast":
        raise click.UsageError("--columns published needs --out DIR to write to")
    elif figures != ("png",):
        raise click.UsageError("--figures needs --out DIR to write to")
    with typed({"token_text": "--tokenizer"}):
        token_text = None if tokenizer is None else _text_of(tokenizer)
        _check(options, token_text)
    with (
        typed({"token_text": "--tokenizer"}),
        joined_processes(device, timeout) as (processes, place),
        _writing_alone(out, processes),
        plain_warnings(),
        sources((a, *b), options, place) as given,
    ):
        asked = {
            **options,
            **given.arguments(),
            "device": place,
            "memory_limit": None if memory_limit is None else memory_limit * 1e9,
            "token_text": token_text,
        }
        settings = complete(CorrelateOptions, asked, "correlate")
        warn_of_hooks(given.models)
        model, *others = given.models
        rest = others[0] if len(others) == 1 else others
        # On one terminal, bars of several processes would erase each other.
        other = processes is not None and processes.rank > 0
        with (
            _told_by_first(other),
            progress_bars(quiet or other, ("read", "tokens"), ("search", "pairs")) as bars,
        ):
            result = correlate_together(processes, model, rest, settings, *bars, say=bars.say)
        if result is not None:  # process 0 has it
            if columns == "published":
                result = _with_weights(result, given)
            typed_words = ["univfast", *click.get_current_context().obj]
            result = replace(result, command=shlex.join(typed_words))
            if not (quiet or as_json):
                say_matched(given.models)
            try:
                _save(result, out, columns, figures)
            except Exception:
                print_result(result, as_json, None, every)  # what was found, where it can be
                raise
            if not quiet or as_json:
                print_result(result, as_json, out, every)


def _check(options: dict[str, Any], token_text: Callable[[int], str] | None) -> None:
    """Refuses options that are wrong, mean nothing or exclude each other, before models are opened.

    Raises:
        UsageError: an option of controls or rotations, and there are none.
    """
    from univfast.option import declared
    from univfast.options import CorrelateOptions, complete

    asked = {
        name: x for name, x in options.items() if name in declared(CorrelateOptions) and x != ()
    }
    complete(CorrelateOptions, {**asked, "token_text": token_text}, "correlate")
    source = click.get_current_context().get_parameter_source
    given = {name for name in options if source(name) is ParameterSource.COMMANDLINE}
    if "draws" in given and options["draws"] and options["rotation"] == "none":
        raise click.UsageError("--draws: is for rotations, not for --rotation none; leave one out")
    for name, needs in _OF_CONTROLS.items():
        if name in given and not any(options[need] for need in needs):
            no = "no-" if options[name] is False else ""
            named = " or ".join(f"--{need.replace('_', '-')}" for need in needs)
            raise click.UsageError(
                f"--{no}{name.replace('_', '-')}: is for controls; give {named} too"
            )


def _text_of(tokenizer: str) -> Callable[[int], str]:
    from univfast.text import token_text

    return token_text(tokenizer)


@contextmanager
def _writing_alone(out: str | None, processes: Processes | None) -> Iterator[None]:
    """A block in which process 0, which writes, alone does so to the directory.

    Raises:
        InputError: another run does.
    """
    from univfast.machine.locks import holding_directory

    with ExitStack() as held:
        if out is not None:
            with nullcontext(True) if processes is None else processes.first_alone() as first:
                if first:
                    held.enter_context(holding_directory(out))
        yield


@contextmanager
def _told_by_first(other: bool) -> Iterator[None]:
    """A block that all processes are interrupted in together: the first one says so, no other."""
    from univfast.runs.run import Interrupted

    try:
        yield
    except Interrupted:
        if other:
            raise SystemExit(INTERRUPTED) from None
        raise


def _with_weights(result: CorrelationResult, given: Sources) -> CorrelationResult:
    """The result with the weights of A, where A is a model whose weights are known."""
    try:
        table = given.weights()
        if table is None:
            return result
        if table.unembedding is None:
            complain("Warning: published.csv says nothing of the vocabulary (A has no unembedding)")
        return result.with_weights(table)
    except InputError as error:  # of a result that is there, and says all else
        complain(f"Warning: published.csv has no columns of weights ({error})")
        return result


def _warn(result: CorrelationResult) -> None:
    for warning in result.summary["warnings"]:
        complain(f"Warning: {with_options(warning)}")


def _save(result: CorrelationResult, out: str | None, columns: Any, figures: Any) -> None:
    """Writes a result, and tells what may be wrong with it, and with its controls."""
    _warn(result)
    controls = result.summary["controls"]
    for warning in [] if controls is None else controls["warnings"]:
        complain(f"Warning: {with_options(warning)}")
    if out is not None:
        result.save(out, columns, figures=figures)


@click.command(
    cls=Command,
    short_help="Draw the plots and report of saved results again.",
    epilog="""\b
Examples:
  univfast report result/
  univfast report result/ --all --figures png,svg
  univfast report first/ second/ --out beside.html""",
)
@click.argument("directory", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE.html",
    help="Write one page with all of them beside each other, on the same axes; needs two or more.",
)
@figures_option
@every_option
def report(
    directory: tuple[str, ...], out: str | None, figures: tuple[str, ...], every: bool
) -> None:
    """Draw the plots and report.html of saved results again.

    Each DIRECTORY is what 'univfast correlate --out' or 'univfast demo' wrote; summary.json and
    neurons.csv are read from it.
    """
    from univfast.machine.locks import holding_directory
    from univfast.report.files import redraw, save_beside

    if out is not None and len(directory) < 2:
        raise click.UsageError(
            "--out: puts results beside each other, and needs two directories or more"
        )
    if out is not None and not out.endswith((".html", ".htm")):
        raise click.UsageError(
            f"--out: expected the name of a page, which ends in .html, got {out!r}"
        )
    if out is not None and os.path.isdir(os.path.dirname(out) or os.curdir):
        own = {os.path.realpath(os.path.join(folder, "report.html")) for folder in directory}
        if os.path.realpath(out) in own:
            raise click.UsageError(
                f"--out: {out!r} is the report of one of them; give another name"
            )
    load_pictures()
    results = []
    for folder in directory:
        with holding_directory(folder) if os.path.isdir(folder) else nullcontext():
            results.append((folder, redraw(folder, figures)))
        _warn(results[-1][1])
        print_result(results[-1][1], as_json=False, out=folder, every=every)
    if out is not None:
        save_beside(results, out)
        say(f"Beside each other: {shown(out)}")
