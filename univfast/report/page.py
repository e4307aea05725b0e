"""A web page that needs no other file and no network, and what it is made of."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Collection, Iterable, Sequence

__all__ = [
    "facts",
    "figure",
    "folded",
    "number",
    "page",
    "section",
    "table",
    "terms",
    "text",
    "whole",
]

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
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
details p { margin: .4rem 0; font-size: .92rem; overflow-wrap: anywhere; }
.window { font: .85rem/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: isolate; padding: .15rem 0 .3rem .8rem; margin: .2rem 0;
  border-left: 2px solid var(--line); }
.window small { display: block; color: var(--soft); font: .78rem system-ui, sans-serif; }
.window b { font-weight: inherit; }
.window .at { border-bottom: 2px solid var(--text); font-weight: 700; }
"""

# Each half of a token has a strength of its own, at most such that text stays legible.
_CSS += """
.window b, .key { print-color-adjust: exact; -webkit-print-color-adjust: exact; background:
  linear-gradient(rgb(238 119 0 / var(--a, 0)) 0 0) 0 0 / 100% 50% no-repeat,
  linear-gradient(rgb(0 119 238 / var(--b, 0)) 0 0) 0 100% / 100% 50% no-repeat; }
"""
_CSS += "".join(
    f".{half}{level} {{ --{half}: {0.07 * level:.2f}; }}\n"
    for half in "ab"
    for level in range(1, 10)
)

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


def page(title: str, verdict: str, sections: Iterable[str]) -> str:
    """The page; title and verdict are plain text, sections are HTML."""
    return _PAGE.format(
        title=text(title), css=_CSS, verdict=text(verdict), sections="\n".join(sections)
    )


def text(value: object) -> str:
    """``value`` escaped for HTML; bytes of a file name that are no UTF-8 become ``?``."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def whole(value: int | None) -> str:
    """A count, or a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{value:,}"


def number(value: float | None, form: str = "+.3f") -> str:
    """``value`` in this format, or a dash where there is none."""
    absent = value is None or math.isnan(value)
    return "\N{EN DASH}" if absent else format(value, form)


def section(title: str, body: str) -> str:
    """A heading and what stands under it, which is HTML."""
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str] = ("layer",)
) -> str:
    """A table of cells that are HTML already; the columns not in ``words`` are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{cell}</{tag}>" if name in words else f'<{tag} class="number">{cell}</{tag}>'
            for name, cell in zip(head, cells, strict=True)
        )

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    names = line("th", [text(name) for name in head])
    return (
        f'<div class="wide"><table>\n<thead><tr>{names}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A table of a name and a value a row, both plain text."""
    body = "\n".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows
    )
    return f'<div class="wide"><table>\n<tbody>\n{body}\n</tbody></table></div>'


def terms(definitions: Iterable[tuple[str, str]]) -> str:
    """Words and what they mean, as plain text."""
    items = "\n".join(f"<dt>{text(word)}</dt><dd>{text(says)}</dd>" for word, says in definitions)
    return f"<dl>\n{items}\n</dl>"


def folded(title: str, body: str) -> str:
    """A line of plain text that opens to what it is about, which is HTML."""
    return f"<details><summary>{text(title)}</summary>\n{body}\n</details>"


def figure(png: bytes, alt: str, caption: str) -> str:
    """A picture that is part of the page; its words are plain text."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{text(alt)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
