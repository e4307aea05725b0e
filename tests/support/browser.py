"""Pages in headless Chromium: what they say on the console, ask for, and look like."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Seen", "browser", "opened"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser that is installed already; skips where there is none, or fails where one must be.

    ``UNIVFAST_BROWSER=require`` says that one must.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        _absent(f"there is none of {', '.join(_NAMES)}")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else [], timeout=60_000
        )
        yield found
        found.close()


def _absent(reason: str) -> None:
    if os.environ.get("UNIVFAST_BROWSER") == "require":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Seen:
    """A page, with all that it complained of and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, element: str) -> str:
        """The text of the element of this id, on the screen."""
        return str(self.page.inner_text(f"#{element}"))

    def rows(self) -> list[list[str]]:
        """The cells of the table of neurons."""
        script = "rows => rows.map(row => [...row.children].map(cell => cell.innerText))"
        found: list[list[str]] = self.page.eval_on_selector_all("#rows tr", script)
        return found

    def place(self, chart: str, x: float, y: float) -> tuple[float, float]:
        """Where these coordinates of a chart are on the screen, which is scrolled to it."""
        self.page.locator(f"#{chart}").evaluate("x => x.scrollIntoView({ block: 'center' })")
        left, top = self.page.evaluate(
            """([id, x, y]) => {
              const element = document.getElementById(id);
              const box = element.getBoundingClientRect();
              const { frame } = univfast.shown.get(element).view;
              return [box.x + frame.x_scale.compute(x), box.y + frame.y_scale.compute(y)];
            }""",
            [chart, x, y],
        )
        return left, top

    def drag(self, chart: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draws a box over a chart, in its coordinates."""
        first, last = self.place(chart, *start), self.place(chart, *end)
        mouse = self.page.mouse
        mouse.move(*first)
        mouse.down()
        mouse.move(*last, steps=4)
        mouse.up()


@contextmanager
def opened(found: Any, path: Path, scheme: str = "light", width: int = 1280) -> Iterator[Seen]:
    """A page of a file, drawn, in a window of this width in pixels."""
    context = found.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(30_000)
    seen = Seen(context.new_page())
    page = seen.page
    page.on("console", lambda said: _note(seen, said.type, said.text))
    page.on("pageerror", lambda error: _note(seen, "error", str(error)))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "() => [...univfast.shown.values()].every((one) => one.view && one.view.is_idle !== false)"
    )
    yield seen
    context.close()


def _note(seen: Seen, kind: str, text: str) -> None:
    seen.complaints.append(f"{kind}: {text}")
