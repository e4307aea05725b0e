"""A web page that needs no other file and no network, and what it is made of."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from markupsafe import Markup

from univfast.report.web.assets import policy, scripts, style, template

__all__ = [
    "facts",
    "figure",
    "folded",
    "middle",
    "named",
    "number",
    "page",
    "section",
    "table",
    "terms",
    "text",
    "whole",
]

_ABSENT = "\N{EN DASH}"


def page(
    title: str,
    heading: str,
    models: str,
    parts: Iterable[tuple[str, str]],
    links: Iterable[tuple[str, str]],
    sections: Iterable[str],
    data: Sequence[dict[str, Any]],
    script: str,
) -> str:
    """The page.

    Args:
        title: of the browser's window, plain text as all below but ``models`` and ``sections``.
        heading: above all sections.
        models: HTML, in the head that stays.
        parts: ids and names of the sections that the head links to.
        links: addresses and names of files that the head links to.
        sections: HTML.
        data: of each result, what `page_data` gives.
        script: which of our scripts reads it.
    """
    # In a script element nothing is escaped, and a "<" may begin what ends it.
    stored = json.dumps(list(data), allow_nan=False).replace("<", "\\u003c")
    return template().render(
        policy=policy(script),
        style=Markup(style()),
        title=_clean(title),
        heading=_clean(heading),
        models=Markup(models),
        parts=list(parts),
        links=list(links),
        sections=[Markup(one) for one in sections if one],
        data=Markup(stored),
        scripts=[Markup(one) for one in scripts(script)],
    )


def text(value: object) -> str:
    """``value`` escaped for HTML; bytes of a file name that are no UTF-8 become ``?``."""
    return html.escape(_clean(value))


def _clean(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode("utf-8")


def middle(name: str, most: int = 40) -> str:
    """A name of at most so many characters, without its middle."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[: most - 1 - half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def named(name: str, most: int = 40) -> str:
    """A name from outside as HTML, whole where the pointer rests, and in its own direction."""
    short = middle(name, most)
    title = f' title="{text(name)}"' if short != name else ""
    return f"<bdi{title}>{text(short)}</bdi>"


def whole(value: int | None) -> str:
    """A count, or a dash where there is none."""
    return _ABSENT if value is None else f"{value:,}"


def number(value: float | None, form: str = "+.3f") -> str:
    """``value`` in this format, or a dash where there is none."""
    absent = value is None or math.isnan(value)
    return _ABSENT if absent else format(value, form)


def section(title: str, body: str, mark: str = "") -> str:
    """A heading and what stands under it, which is HTML; ``mark`` is what links name."""
    own = f' id="{mark}"' if mark else ""
    return f"<section{own}>\n<h2>{text(title)}</h2>\n{body}\n</section>"


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
    return f'<div class="wide facts"><table>\n<tbody>\n{body}\n</tbody></table></div>'


def terms(definitions: Iterable[tuple[str, str]]) -> str:
    """Words and what they mean, as plain text."""
    items = "\n".join(f"<dt>{text(word)}</dt><dd>{text(says)}</dd>" for word, says in definitions)
    return f'<dl class="terms">\n{items}\n</dl>'


def folded(title: str, body: str, neuron: str = "") -> str:
    """A line of plain text that opens to what it is about, which is HTML; of a neuron, if any."""
    own = f' data-neuron="{text(neuron)}"' if neuron else ""
    return f"<details{own}><summary>{text(title)}</summary>\n{body}\n</details>"


def figure(png: bytes, alt: str, caption: str) -> str:
    """A picture that is part of the page; its words are plain text."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{text(alt)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
