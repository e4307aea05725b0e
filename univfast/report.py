"""``report.html``: one result on one page that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from univfast.plots import correlation_figure, excess_figure, png_bytes

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

_TOP = 20  # neurons listed by name
_NEEDS_DRAWS = "not available (needs at least two draws)"

_ROTATIONS = {
    "hadamard": "R is a structured orthogonal matrix: rounds of random signs, each followed by a "
    "fast orthonormal transform.",
    "haar": "R is drawn uniformly from all orthogonal matrices.",
    "gaussian": "R is a Gaussian matrix whose rows are scaled to norm 1; it is not orthogonal.",
    "none": "No rotation was asked for, so this result has no baseline, no excess and no "
    "universal neurons.",
}
_DEFINITIONS = (
    ("excess", "Correlation minus baseline."),
    ("universal", "The excess is above the threshold."),
    (
        "by chance",
        "Each draw in turn is taken as if it were the real one: the mean of the other draws is "
        "subtracted from it, and the neurons that pass the threshold are counted. The mean of "
        "these counts is what chance alone would flag. It needs at least two draws.",
    ),
    (
        "fdr",
        "False discovery rate: the number expected by chance over the number flagged. Near 0, "
        "almost every flag is real; near 1 or above, the flags are what chance gives.",
    ),
    (
        "p",
        "The share of the excesses that chance gives in the same layer that reach the neuron's own "
        "excess: (1 + hits) / (1 + number of them).",
    ),
    ("q", "p after the correction of Benjamini and Hochberg over all live neurons."),
    (
        "dead",
        "A neuron without variance in A (with index matching: in A or in B). It has no "
        "correlation and is never universal.",
    ),
)

_CSS = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5c6670; --line: #d5dade;
  --page: #ffffff; --panel: #f4f6f7; --mark: #00775a; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a3adb7; --line: #3a424a;
  --page: #15181b; --panel: #1e2327; --mark: #4fc9a4; } }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb;
  --page: #fff; --panel: #fff; --mark: #00775a; } main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; } }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
.verdict { background: var(--panel); border-left: 4px solid var(--mark);
  padding: .8rem 1.1rem; white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; min-width: 2.5rem; }
th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; white-space: nowrap; }
td:first-child { min-width: 7rem; }
.number { text-align: right; white-space: nowrap; }
.yes { color: var(--mark); font-weight: 600; }
figure { margin: 0 0 2rem; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  box-sizing: border-box; }
figcaption, .note { color: var(--soft); font-size: .92rem; }
dt { font-weight: 600; } dd { margin: 0 0 .6rem 1.25rem; }
"""

# The policy makes the browser itself enforce that the page loads nothing and runs nothing.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body><main>
<h1>{title}</h1>
<p class="verdict">{verdict}</p>
{sections}
</main></body>
</html>
"""


def report_html(result: CorrelationResult) -> str:
    """The result as a self-contained HTML page: verdict, summary, plots, tables, definitions."""
    sections = (
        _section("Summary", _summary_table(result.summary)),
        _section("Plots", _figures(result)),
        _section("Layers", _layer_table(result.summary["layers"])),
        _top_neurons(result),
        _section("How it was computed", _definitions(result.summary)),
    )
    return _PAGE.format(
        title=_text("Universal neurons: " + ", ".join(result.summary["models"])),
        css=_CSS,
        verdict=_text(result.verdict()),
        sections="\n".join(sections),
    )


def _text(value: object) -> str:
    """``value`` escaped for HTML; bytes of a file name that are no UTF-8 become ``?``."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _number(value: float | None, form: str = "+.3f") -> str:
    """``value`` in this format, or a dash where there is none."""
    absent = value is None or math.isnan(value)
    return "\N{EN DASH}" if absent else format(value, form)


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{body}\n</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of cells that are HTML already; columns from ``words`` on are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{cell}</{tag}>" if column < words else f'<{tag} class="number">{cell}</{tag}>'
            for column, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{line("th", head)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _summary_table(summary: dict[str, Any]) -> str:
    rotation = summary["rotation"]
    neurons, universal = summary["neurons"], summary["universal"]
    share = f" ({universal / neurons:.1%})" if neurons else ""
    chance = summary["universal_by_chance"]
    first, second = summary["models"]
    rows = (
        ("A", first),
        ("B", second),
        ("matching", summary["match"]),
        ("tokens", f"{summary['tokens']:,}"),
        ("neurons of A", f"{neurons:,}"),
        ("dead", f"{summary['dead']:,}"),
        ("universal", f"{universal:,}{share}"),
        ("universal by chance", _NEEDS_DRAWS if chance is None else f"{chance:,.1f}"),
        ("fdr (by chance / universal)", _fdr(summary)),
        ("mean correlation", _number(summary["mean_correlation"])),
        ("mean baseline", _number(summary["mean_baseline"])),
        ("mean excess", _number(summary["mean_excess"])),
        ("threshold of the excess", f"{summary['threshold']:g}"),
        ("rotation", rotation["kind"]),
        ("draws", rotation["draws"]),
        ("seed", rotation["seed"]),
        ("device", summary["device"]),
        ("computed in", f"{_number(summary['seconds'], '.2f')} s"),
        ("univfast", summary["univfast"]),
    )
    body = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in rows
    )
    return f'<div class="wide"><table>\n<tbody>\n{body}\n</tbody></table></div>'


def _fdr(summary: dict[str, Any]) -> str:
    if summary["universal_by_chance"] is None:
        return _NEEDS_DRAWS
    if summary["fdr"] is None:
        return "not defined (no neuron was flagged)"
    return _number(summary["fdr"], ".3f")


def _figures(result: CorrelationResult) -> str:
    threshold = f"{result.summary['threshold']:g}"
    chance = (
        "The orange outline is the same distribution for a randomly rotated B, scaled to as many "
        "neurons: bars that stay inside it are what chance gives."
        if result.null_excess is not None
        else "There is no outline of what chance gives, as this result does not hold its draws."
    )
    draws = result.summary["rotation"]["draws"]
    averaged = (
        f" The baseline is a mean over {draws} draws, which makes it narrower than the "
        "correlation even where the networks share nothing: compare where they are centred, and "
        "look for a tail to the right. The excess below is the fair comparison."
        if draws > 1
        else ""
    )
    captions = (
        "Actual against baseline. Left: a dot a neuron. On the solid line a neuron correlates with "
        "B as it would with a randomly rotated B; those above the dashed line, more than "
        f"{threshold} higher, are universal (green). Right: the same numbers as two distributions."
        f"{averaged}",
        "Excess: how much higher a neuron's correlation is than its baseline. Universal neurons, "
        f"right of the dashed line at {threshold}, are green. {chance}",
    )
    figures = (correlation_figure(result), excess_figure(result))
    alts = ("Plot of correlation against baseline", "Histogram of the excess")
    return "\n".join(
        f'<figure><img alt="{alt}" src="data:image/png;base64,'
        f'{base64.b64encode(png_bytes(figure)).decode("ascii")}">\n'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for figure, alt, caption in zip(figures, alts, captions, strict=True)
    )


def _layer_table(layers: list[dict[str, Any]]) -> str:
    head = (
        "layer",
        "neurons",
        "dead",
        "universal",
        "mean correlation",
        "mean baseline",
        "mean excess",
    )
    rows = (
        (
            _text(layer["layer"]),
            f"{layer['neurons']:,}",
            f"{layer['dead']:,}",
            f"{layer['universal']:,}",
            _number(layer["mean_correlation"]),
            _number(layer["mean_baseline"]),
            _number(layer["mean_excess"]),
        )
        for layer in layers
    )
    return _table(head, rows)


def _top_neurons(result: CorrelationResult) -> str:
    """The neurons that stand out most: by excess, or by correlation where there is no baseline."""
    by_excess = not bool(result.excess.isnan().all())
    key = result.excess if by_excess else result.correlation
    # A stable sort, so that ties keep the order of the neurons on every machine.
    order = key.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)[:_TOP].tolist()
    rows = [_neuron_row(result, i) for i in order if not math.isnan(float(key[i]))]
    title = f"Neurons with the largest {'excess' if by_excess else 'correlation'}"
    if not rows:
        return _section(title, '<p class="note">None: every neuron is dead.</p>')
    head = (
        "layer",
        "neuron",
        "correlation",
        "baseline",
        "\N{PLUS-MINUS SIGN} over draws",
        "excess",
        "p",
        "q",
        "universal",
    )
    return _section(title, _table(head, rows))


def _neuron_row(result: CorrelationResult, i: int) -> tuple[str, ...]:
    return (
        _text(result.layer[i]),
        str(int(result.neuron[i])),
        _number(float(result.correlation[i])),
        _number(float(result.baseline[i])),
        _number(float(result.baseline_std[i]), ".3f"),
        _number(float(result.excess[i])),
        _number(float(result.p_value[i]), ".2g"),
        _number(float(result.q_value[i]), ".2g"),
        '<span class="yes">yes</span>' if bool(result.universal[i]) else "no",
    )


def _definitions(summary: dict[str, Any]) -> str:
    rotation = summary["rotation"]
    kind = _ROTATIONS.get(rotation["kind"], "")
    definitions = (
        (
            "correlation, r",
            "Pearson's correlation, over all tokens, of a neuron of A with its match in B: the "
            "neuron of the same number in the layer of the same name.",
        ),
        (
            "baseline",
            "The same statistic after each layer of B is multiplied by a random matrix R; the mean "
            f"over draws of R. {kind}",
        ),
        *_DEFINITIONS,
    )
    return (
        "<dl>\n"
        + "\n".join(f"<dt>{_text(word)}</dt><dd>{_text(says)}</dd>" for word, says in definitions)
        + "\n</dl>"
    )
