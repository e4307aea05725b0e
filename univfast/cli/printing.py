"""What commands print of results."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from univfast.result import CorrelationResult

__all__ = ["plain_warnings", "print_result", "print_side_by_side"]


@contextmanager
def plain_warnings() -> Iterator[None]:
    """A block whose warnings are lines on stderr, without the place in the code."""

    def show(message: Warning | str, *rest: object, **options: object) -> None:
        click.echo("Warning: " + " ".join(str(message).split()), err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_side_by_side(results: Sequence[CorrelationResult]) -> None:
    """A line for each of several results on the same models, which have titles."""
    width = max(len(result.summary["title"]) for result in results)
    click.echo(
        f"{'':<{width}}  universal  by chance  by control  learned  mean r  baseline  excess"
    )
    for result in results:
        summary = result.summary
        r, baseline, excess = _means(summary)
        click.echo(
            f"{summary['title']:<{width}}  {summary['universal']:>9}"
            f"  {_mean(summary['universal_by_chance']):>9}"
            f"  {_mean(summary['universal_by_control']):>10}  {_count(summary['learned']):>7}"
            f"  {r:>6}  {baseline:>8}  {excess:>6}"
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
    controls = summary["controls"] is not None
    by_control = "  by control" if controls else ""
    click.echo(
        f"{'layer':<{width}}     live   dead  universal  by chance{by_control}  mean r  baseline"
        "  excess",
    )
    for row in summary["layers"]:
        r, baseline, excess = _means(row)
        by_control = f"  {_mean(row['universal_by_control']):>10}" if controls else ""
        click.echo(
            f"{row['layer']:<{width}}  {row['neurons'] - row['dead']:>7}  {row['dead']:>5}"
            f"  {row['universal']:>9}  {_mean(row['universal_by_chance']):>9}{by_control}"
            f"  {r:>6}  {baseline:>8}  {excess:>6}"
        )
    click.echo(_total(summary))
    click.echo(click.wrap_text(result.verdict(), width=88))
    if out is not None:
        click.echo(f"Written to {out}: tables, summary.json, plots and report.html.")


def _total(summary: dict[str, Any]) -> str:
    """One line of all layers: counts beside their nulls, and what a count of 0 bounds."""
    from univfast.report.verdict import by_chance_in_words

    live, universal = summary["neurons"] - summary["dead"], summary["universal"]
    share = f" ({universal / live:.1%})" if live else ""
    parts = [f"{universal} of {live} live neurons universal{share}"]
    if (by_chance := by_chance_in_words(summary)) is not None:
        parts.append(f"by chance {by_chance}")
    if summary["universal_by_control"] is not None:
        parts.append(f"by control {summary['universal_by_control']:.1f}")
    return "all: " + ", ".join(parts)


def _means(row: dict[str, Any]) -> list[str]:
    """Mean correlation, baseline and excess, as a table has them."""
    means = [row[f"mean_{name}"] for name in ("correlation", "baseline", "excess")]
    return ["-" if mean is None else f"{mean:.3f}" for mean in means]


def _mean(count: float | None) -> str:
    return "-" if count is None else f"{count:.1f}"


def _count(count: int | None) -> str:
    return "-" if count is None else str(count)
