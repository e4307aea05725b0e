"""Made-up results for pictures and reports, and what a page says."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser

from support.made_up import NAMES, TWO, made_up
from univfast.report.html import report_html

CASES = {
    "normal": made_up(dead=7),
    "no baseline": made_up(draws=0),
    "one draw": made_up(draws=1),
    "all dead": made_up(neurons=12, planted=0, dead=12),
    "one neuron": made_up(neurons=1, planted=1),
    "no flags": made_up(planted=0),
    "large": made_up(neurons=50_000, planted=400),
    "threshold 0": made_up(threshold=0.0),
    "threshold out of reach": made_up(threshold=3.0),
    "best": made_up(match="best", dead=7),
    "one-to-one": made_up(match="one-to-one", dead=7, unmatched=90),
    "nobody has a partner": made_up(neurons=12, planted=0, dead=2, unmatched=10, match="best"),
    "several, by index": made_up(others=(NAMES, NAMES), dead=3),
    "several, best": made_up(others=TWO, match="best", dead=3),
    "several, no baseline": made_up(others=TWO, match="best", draws=0),
    "several, all dead": made_up(neurons=9, planted=0, dead=9, others=TWO, match="best"),
}


@cache
def report(case: str) -> str:
    return report_html(CASES[case])


class Page(HTMLParser):
    """Tags, what they load or link to, and the text of a page, which scripts and styles are not."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.markup: list[str] = []  # all but what scripts hold
        self._inside = ""
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.markup.append(self.get_starttag_text() or "")
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside != "script":
            self.markup.append(data)
        if not self._inside:
            self.words.append(data)


SCRIPTS = 6  # the data, BokehJS in two parts, and ours in three


def assert_needs_nothing_from_elsewhere(page: Page) -> None:
    """No address but those of pictures in it, of its parts and of files beside it."""
    for link in page.links:
        assert re.match(r"data:(image/png;base64)?,|#[a-z]+$|[\w%./-]+\.(csv|json|html)$", link), (
            link
        )
    assert page.tags.count("script") == SCRIPTS
    assert page.tags.count("link") == 1  # the icon, which is empty
    assert not {"iframe", "object", "embed", "base"} & {*page.tags}
    assert not re.search(r"https?://|@import|url\(", "".join(page.markup))
