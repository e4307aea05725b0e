"""`univfast correlate` and `univfast report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from univfast.cli.options import PATH, Command, device_option, option, quiet_option
from univfast.cli.progress import progress_bar
from univfast.cli.text_options import sources, text_options
from univfast.columns import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from univfast.result import CorrelationResult

__all__ = ["correlate", "print_result", "print_side_by_side", "report"]


@click.command(
    cls=Command,
    short_help="Correlate the neurons of two models.",
    epilog="""\b
Examples:
  univfast correlate a.pt b.pt --match best
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
@option("top_k")
@option("exclude_self")
@option("reverse")
@option("mask")
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
@option("precision")
@option("threads")
@option("memory_limit")
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
    " 2024.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@quiet_option
def correlate(
    a: str,
    b: tuple[str, ...],
    device: str,
    out: str | None,
    columns: str,
    memory_limit: float | None,
    timeout: float,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Correlate the neurons of model A with those of model B, or of each of several models.

    A and B hold the activations of two models on the same tokens, with the neurons on the last
    axis: a {files} file; a directory of such files, joined in natural order (LAYER-003.npy is shard
    3 of LAYER); a Hugging Face dataset on disk; a model file that 'univfast train' wrote, whose
    activations are captured on the way; or the directory of a Hugging Face model, which reads
    --text and whose activations are not kept. With more models, A is compared with each of the
    others, and the numbers are means over them.

    Started by torchrun ('torchrun --nproc-per-node 2 -m univfast correlate ...'), processes share
    the tokens, and the first one writes.
    """
    from univfast.cli.torchrun import join_processes
    from univfast.correlation import correlate_together
    from univfast.machine.files import check_directory
    from univfast.options import CorrelateOptions, complete

    if out is not None:
        check_directory(out)
    elif columns != "univfast":
        raise click.UsageError("--columns published needs --out DIR to write to")
    processes, place = join_processes(device, timeout)
    with (
        sources((a, *b), options, place) as (first, *others),
        progress_bar("correlate", "tokens", quiet) as progress,
    ):
        given = {
            **options,
            "device": place,
            "memory_limit": None if memory_limit is None else memory_limit * 1e9,
        }
        settings = complete(CorrelateOptions, given, "correlate")
        rest = others[0] if len(others) == 1 else others
        result = correlate_together(processes, first, rest, settings, progress)
    if result is None:  # process 0 has it
        return
    if out is not None:
        result.save(out, columns)
    if not quiet or as_json:
        print_result(result, as_json, out)


@click.command(short_help="Draw the plots and report of a saved result again.")
@click.argument("directory", type=PATH)
def report(directory: str) -> None:
    """Draw the plots and report.html of a saved result again.

    DIRECTORY is what 'univfast correlate --out' or 'univfast demo' wrote; summary.json and
    neurons.csv are read from it.
    """
    from univfast.report.files import redraw

    print_result(redraw(directory), as_json=False, out=directory)


def print_side_by_side(results: Sequence[CorrelationResult]) -> None:
    """A line for each of several results on the same models, which have titles."""
    width = max(len(result.summary["title"]) for result in results)
    click.echo(f"{'':<{width}}  universal  by chance  mean r  baseline  excess")
    for result in results:
        summary = result.summary
        r, baseline, excess = _means(summary)
        click.echo(
            f"{summary['title']:<{width}}  {summary['universal']:>9}"
            f"  {summary['universal_by_chance']:>9.1f}  {r:>6}  {baseline:>8}  {excess:>6}"
        )


def print_result(result: CorrelationResult, as_json: bool, out: str | None) -> None:
    """The summary on stdout: as JSON, or as a table a layer and a verdict."""
    from univfast.report.files import summary_json

    if as_json:
        click.echo(summary_json(result.summary), nl=False)
        return
    summary = result.summary
    # A file name need not be text, and a terminal shows text alone.
    models = " and ".join(summary["models"]).encode(errors="replace").decode()
    click.echo(f"{models}: {summary['tokens']} tokens, match {summary['match']}")
    width = max(5, *(len(row["layer"]) for row in summary["layers"]))
    click.echo(
        f"{'layer':<{width}}  neurons   dead  universal  mean r  baseline  excess",
    )
    for row in summary["layers"]:
        r, baseline, excess = _means(row)
        click.echo(
            f"{row['layer']:<{width}}  {row['neurons']:>7}  {row['dead']:>5}  {row['universal']:>9}"
            f"  {r:>6}  {baseline:>8}  {excess:>6}"
        )
    click.echo(click.wrap_text(result.verdict(), width=88))
    if out is not None:
        click.echo(f"Written to {out}: tables, summary.json, plots and report.html.")


def _means(row: dict[str, Any]) -> list[str]:
    """Mean correlation, baseline and excess, as a table has them."""
    means = [row[f"mean_{name}"] for name in ("correlation", "baseline", "excess")]
    return ["-" if mean is None else f"{mean:.3f}" for mean in means]
