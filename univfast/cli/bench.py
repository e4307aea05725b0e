"""`univfast bench`."""

from __future__ import annotations

import click

from univfast.cli.options import Command
from univfast.cli.printing import say
from univfast.cli.tables import Column, named, print_table

__all__ = ["bench"]


@click.command(
    cls=Command,
    short_help="Measure this machine against naive torch, as ratios.",
    epilog="""\b
Examples:
  univfast bench
  univfast bench --tokens 65536 --neurons 768""",
)
@click.option(
    "--tokens", type=click.IntRange(100), default=32768, show_default=True, help="Of each model."
)
@click.option(
    "--neurons", type=click.IntRange(3), default=3072, show_default=True, help="Of a layer."
)
def bench(tokens: int, neurons: int) -> None:
    """Measure univfast on this machine against naive torch, NumPy and the published method.

    Takes about a minute. Each table has one job; 'read floors' are multiples of the time that one
    pass takes which only reads both models' activations, 'product floors' of that of the one matrix
    product of A and B. Every answer is checked. Close other programs; small inputs fit into a cache
    and make the floors meaningless.
    """
    import torch

    from univfast import native
    from univfast.bench.compare import compare

    say(
        f"{torch.get_num_threads()} threads, SIMD level {native.simd_level()},"
        f" torch {torch.__version__}, float32 (all pairs float16)"
    )
    for group in compare(tokens, neurons):
        say(f"\n{group.title}")
        head, rows = group.table()
        columns = [Column(head[0], least=16), *map(Column, head[1:])]
        print_table(columns, [(named(name), *cells) for name, *cells in rows], total=False)
