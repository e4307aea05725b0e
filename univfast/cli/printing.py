"""What commands print: on stdout results, on stderr what is wrong."""

from __future__ import annotations

import errno
import logging
import re
import sys
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from univfast.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from univfast.result import CorrelationResult

__all__ = [
    "check_said",
    "complain",
    "forget",
    "heard",
    "load_pictures",
    "plain_warnings",
    "print_result",
    "print_side_by_side",
    "say",
    "shown",
]

# Of what `say` could not print, the first reason since `forget`.
_failures: list[OSError] = []

# Names may move the cursor, or colour the rest of the day; and a name of a file need not be text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def say(text: str, nl: bool = True, styled: bool = False) -> None:
    """Prints on stdout. Where that fails the work goes on, and `check_said` tells in the end.

    What is ``styled`` colours itself, and holds nothing else that moves a cursor.
    """
    if _failures:
        return
    try:
        click.echo(_encodable(text, sys.stdout, styled), nl=nl, color=styled or None)
    except OSError as error:
        _failures.append(error)


def heard() -> bool:
    """Whether all could be printed since `forget`; else nothing will be."""
    return not _failures


def complain(text: str) -> None:
    """Prints a line on stderr, if anybody listens."""
    with suppress(OSError):
        click.echo(_encodable(text, sys.stderr), err=True)


def forget() -> None:
    """What could not be printed before was another command's."""
    _failures.clear()


def check_said() -> None:
    """Tells of what could not be printed.

    Raises:
        BrokenPipeError: who read it has gone.
        InputError: any other reason.
    """
    for error in _failures:
        if error.errno == errno.EPIPE:
            raise error
        reason = error.strerror or error
        raise InputError(f"stdout: cannot be written ({reason}); print to another place")


def shown(name: str) -> str:
    """A name within one line."""
    return "".join(map(_escape, name)) if not name.isprintable() else name


def load_pictures() -> None:
    """Loads Matplotlib, so that what it lacks is told before the work whose result it draws."""
    # It warns of where its cache is, and that fonts are looked for.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib.figure  # noqa: F401


def _encodable(text: str, stream: TextIO | None, styled: bool = False) -> str:
    """A text that the stream can encode, and that moves no cursor unless it is ``styled``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    plain = text if styled else _UNPRINTABLE.sub(lambda found: _escape(found[0]), text)
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


@contextmanager
def plain_warnings() -> Iterator[None]:
    """A block whose warnings are lines on stderr, without the place in the code."""

    def show(message: Warning | str, *rest: object, **more: object) -> None:
        complain("Warning: " + " ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_side_by_side(results: Sequence[CorrelationResult]) -> None:
    """A line for each of several results on the same models, which have titles."""
    width = max(len(result.summary["title"]) for result in results)
    say(f"{'':<{width}}  universal  by chance  by control  learned  mean r  baseline  excess")
    for result in results:
        summary = result.summary
        r, baseline, excess = _means(summary)
        say(
            f"{summary['title']:<{width}}  {summary['universal']:>9}"
            f"  {_mean(summary['universal_by_chance']):>9}"
            f"  {_mean(summary['universal_by_control']):>10}  {_count(summary['learned']):>7}"
            f"  {r:>6}  {baseline:>8}  {excess:>6}"
        )


def print_result(result: CorrelationResult, as_json: bool, out: str | None) -> None:
    """The summary on stdout: as JSON, or as a table a layer and a verdict."""
    from univfast.report.files import summary_json

    if as_json:
        say(summary_json(result.summary), nl=False)
        return
    summary = result.summary
    models = " and ".join(map(shown, summary["models"]))
    say(f"{models}: {summary['tokens']} tokens, match {summary['match']}")
    width = max(5, *(len(shown(row["layer"])) for row in summary["layers"]))
    controls = summary["controls"] is not None
    by_control = "  by control" if controls else ""
    say(
        f"{'layer':<{width}}     live   dead  universal  by chance{by_control}  mean r  baseline"
        "  excess",
    )
    for row in summary["layers"]:
        r, baseline, excess = _means(row)
        by_control = f"  {_mean(row['universal_by_control']):>10}" if controls else ""
        say(
            f"{shown(row['layer']):<{width}}  {row['neurons'] - row['dead']:>7}  {row['dead']:>5}"
            f"  {row['universal']:>9}  {_mean(row['universal_by_chance']):>9}{by_control}"
            f"  {r:>6}  {baseline:>8}  {excess:>6}"
        )
    say(_total(summary))
    say(click.wrap_text(result.verdict(), width=88))
    if out is not None:
        say(f"Written to {shown(out)}: tables, summary.json, plots and report.html.")


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
