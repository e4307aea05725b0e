"""`univfast export`."""

from __future__ import annotations

import os

import click

from univfast.cli.options import PATH, Command
from univfast.cli.printing import say, shown

__all__ = ["export"]

_FORMATS = ("neuronpedia", "parquet")


class _LayerNumber(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """``LAYER=N``."""

    name = "layer number"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        layer, equals, number = value.rpartition("=")
        if not equals or not (number.isascii() and number.isdigit()) or len(number) > 6:
            self.fail(f"{value!r} is no LAYER=N; give such as mlp.act=3", param, ctx)
        return layer, int(number)


@click.command(
    cls=Command,
    short_help="Write what neurons do for other programs.",
    epilog="""\b
Examples:
  univfast export result/ --to neuronpedia --out features/
  univfast export result/ --to parquet --out contexts.parquet""",
)
@click.argument("result", type=PATH)
@click.option(
    "--to",
    "form",
    type=click.Choice(_FORMATS),
    required=True,
    help="'neuronpedia': a directory a model and layer of the batch-*.json files that SAEDashboard"
    " writes and Neuronpedia's tools convert. 'parquet': a table, a row an example.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    metavar="PATH",
    help="A new directory, or for parquet the file.",
)
@click.option(
    "--layer-number",
    "layer_numbers",
    type=_LayerNumber(),
    multiple=True,
    metavar="LAYER=N",
    help="For Neuronpedia, the number of a layer whose name has none, or several.",
)
def export(result: str, form: str, out: str, layer_numbers: tuple[tuple[str, int], ...]) -> None:
    """Write what the neurons of a saved result do, and their matches, for other programs.

    RESULT is the directory that 'univfast correlate --out' wrote, or its contexts.jsonl.
    """
    if form == "parquet":
        from univfast.contexts.frames import write_parquet

        if layer_numbers:
            raise click.UsageError("--layer-number is for --to neuronpedia")
        write_parquet(result, out)
        say(f"Written to {shown(out)}: a row an example.")
        return
    from univfast.contexts.neuronpedia import write_neuronpedia
    from univfast.report.files import load

    # Of contexts.jsonl alone, means and shares of active tokens are not known.
    there = os.path.isfile(os.path.join(result, "summary.json"))
    known = load(result) if there else None
    directories = write_neuronpedia(result, out, known, dict(layer_numbers))
    for name, features in directories.items():
        say(f"{shown(os.path.join(out, name))}: {features:,} features")
    say(f"Written to {shown(out)}, with pairs.jsonl, which names models and layers of matches.")
