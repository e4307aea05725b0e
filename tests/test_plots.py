"""The plots and the HTML report, on small made-up results."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from univfast.plots import GREEN, correlation_figure, excess_figure, png_bytes
from univfast.report import report_html


@dataclass
class MadeUpResult:
    """The attributes of a ``CorrelationResult`` that plots and report read."""

    layer: list[str]
    neuron: torch.Tensor
    correlation: torch.Tensor
    baseline: torch.Tensor
    baseline_std: torch.Tensor
    excess: torch.Tensor
    p_value: torch.Tensor
    q_value: torch.Tensor
    universal: torch.Tensor
    dead: torch.Tensor
    summary: dict[str, Any]
    null_excess: torch.Tensor | None
    words: str = "40 neurons were flagged."

    def verdict(self) -> str:
        return self.words


def made_up(
    neurons: int = 500,
    planted: int = 40,
    dead: int = 0,
    draws: int = 5,
    threshold: float = 0.5,
    layers: tuple[str, ...] = ("mlp.0", "mlp.1"),
) -> Any:
    """A result whose first neurons are planted as universal and whose last ones are dead."""
    random = np.random.default_rng(0)
    correlation = random.normal(0, 0.12, neurons).clip(-1, 1)
    correlation[:planted] = random.uniform(0.7, 0.98, planted)
    is_dead = np.arange(neurons) >= neurons - dead
    correlation[is_dead] = np.nan
    null = random.normal(0, 0.12, (draws, neurons))
    null[:, is_dead] = np.nan
    absent = np.full(neurons, np.nan)
    baseline = null.mean(0) if draws else absent
    excess = correlation - baseline
    universal = excess > threshold
    layer = [layers[i * len(layers) // neurons] for i in range(neurons)]
    means = {f"mean_{name}": 0.125 for name in ("correlation", "baseline", "excess")}
    counts = {"neurons": neurons, "dead": dead, "universal": int(universal.sum())}
    summary = {
        "univfast": "1.2.3",
        "models": ["a.pt", "b.pt"],
        "match": "index",
        "rotation": {"kind": "hadamard" if draws else "none", "draws": draws, "seed": 17},
        "threshold": threshold,
        "tokens": 123456,
        "universal_by_chance": 3.4 if draws > 1 else None,
        "fdr": 0.085 if draws > 1 else None,
        "device": "cpu",
        "seconds": 1.5,
        "layers": [{"layer": name, **counts, **means} for name in layers],
        **counts,
        **means,
    }
    p_value = np.where(is_dead | (draws < 2), np.nan, 0.004)
    return MadeUpResult(
        layer=layer,
        neuron=torch.arange(neurons),
        correlation=torch.from_numpy(correlation),
        baseline=torch.from_numpy(baseline),
        baseline_std=torch.from_numpy(null.std(0, ddof=1) if draws > 1 else absent),
        excess=torch.from_numpy(excess),
        p_value=torch.from_numpy(p_value),
        q_value=torch.from_numpy(p_value),
        universal=torch.from_numpy(universal),
        dead=torch.from_numpy(is_dead),
        summary=summary,
        null_excess=torch.from_numpy(null) if draws > 1 else None,
    )


def green_dots(axes: Any) -> int:
    return sum(
        len(dots.get_offsets())
        for dots in axes.collections
        if to_hex(dots.get_facecolor()[0]) == GREEN
    )


def bars(axes: Any, colour: str | None = None) -> list[tuple[float, float]]:
    """Left edge and height of each bar that is not empty, of one colour or of all."""
    return [
        (bar.get_x(), bar.get_height())
        for bar in axes.patches
        if hasattr(bar, "get_height")
        and bar.get_height() > 0
        and (colour is None or to_hex(bar.get_facecolor()) == colour)
    ]


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
}


@cache
def report(case: str) -> str:
    return report_html(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_draws_every_neuron_and_every_flag(case: str) -> None:
    result = CASES[case]
    flagged = int(result.universal.sum())
    comparable = int(result.excess.isfinite().sum())
    figure, excess = correlation_figure(result), excess_figure(result)

    dots, histograms = figure.axes
    shown = [np.asarray(collection.get_offsets()) for collection in dots.collections]
    assert sum(len(offsets) for offsets in shown) == comparable
    assert sum(height for _, height in bars(histograms)) == int(result.correlation.isfinite().sum())
    assert sum(height for _, height in bars(excess.axes[0])) == comparable
    assert sum(height for _, height in bars(excess.axes[0], GREEN)) == flagged
    if comparable:
        assert green_dots(dots) == flagged


def test_threshold_lines_stand_at_the_threshold() -> None:
    result = made_up(threshold=0.3)
    dots: Any = correlation_figure(result).axes[0]
    lines = {line.get_linestyle(): line for line in dots.lines}
    assert (lines["-"].get_xy1(), lines["-"].get_slope()) == ((0, 0), 1)
    assert (lines["--"].get_xy1(), lines["--"].get_slope()) == ((0, 0.3), 1)

    axes: Any = excess_figure(result).axes[0]
    assert list(axes.lines[0].get_xdata()) == [0.3, 0.3]
    assert min(left for left, _ in bars(axes, GREEN)) >= 0.3 - 1e-12


def test_axes_are_equal_and_hold_every_dot_and_the_threshold() -> None:
    for planted in (0, 40):
        dots = correlation_figure(made_up(planted=planted)).axes[0]
        low, high = dots.get_xlim()
        assert dots.get_ylim() == (low, high)
        assert dots.get_aspect() == 1
        assert low < -0.3
        assert high > 0.5
        for collection in dots.collections:
            offsets = np.asarray(collection.get_offsets())
            assert ((offsets > low) & (offsets < high)).all()


def outline(axes: Any) -> np.ndarray[Any, Any] | None:
    steps = [patch for patch in axes.patches if hasattr(patch, "get_data")]
    return np.asarray(steps[0].get_data().values) if steps else None


def test_chance_is_scaled_to_the_number_of_neurons() -> None:
    heights = outline(excess_figure(made_up(dead=7)).axes[0])
    assert heights is not None
    assert np.nansum(heights) == pytest.approx(500 - 7)
    assert outline(excess_figure(made_up(draws=1)).axes[0]) is None


def test_title_gives_the_flags_and_the_chance_count() -> None:
    assert excess_figure(made_up()).axes[0].get_title() == (
        "40 of 500 neurons universal\n3.4 expected by chance"
    )
    assert "needs at least two draws" in excess_figure(made_up(draws=1)).axes[0].get_title()


@pytest.mark.parametrize(
    ("case", "message"),
    [("no baseline", "rotation none"), ("all dead", "every neuron is constant")],
)
def test_says_why_there_is_nothing_to_draw(case: str, message: str) -> None:
    for figure in (correlation_figure(CASES[case]), excess_figure(CASES[case])):
        assert message in figure.axes[0].texts[0].get_text()


def test_counts_are_logarithmic_only_where_small_bars_would_vanish() -> None:
    assert excess_figure(CASES["normal"]).axes[0].get_yscale() == "linear"
    assert excess_figure(CASES["large"]).axes[0].get_yscale() == "log"


def test_the_same_result_gives_the_same_bytes() -> None:
    assert report_html(CASES["one neuron"]) == report("one neuron")  # with both pictures in it
    png = png_bytes(correlation_figure(CASES["one neuron"]))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert not any(chunk in png for chunk in (b"tEXt", b"iTXt", b"tIME"))


class Page(HTMLParser):
    """Tags, what they load or link to, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("case", CASES)
def test_report_needs_nothing_from_elsewhere(case: str) -> None:
    html = report(case)
    page = Page(html)
    assert len(page.links) == page.tags.count("img") == 2
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", html)


def test_report_shows_the_numbers() -> None:
    text = Page(report("normal")).text
    for shown in (
        "40 neurons were flagged.",
        "A a.pt B b.pt matching index tokens 123,456 neurons of A 500 dead 7",
        "universal 40 (8.0%) universal by chance 3.4 fdr (by chance / universal) 0.085",
        "rotation hadamard draws 5 seed 17 device cpu computed in 1.50 s univfast 1.2.3",
        "mlp.0 500 7 40 +0.125 +0.125 +0.125",
    ):
        assert shown in text


def test_report_lists_the_20_largest_in_order() -> None:
    for case, key in (("normal", "excess"), ("no baseline", "correlation")):
        values = getattr(CASES[case], key)
        rows = re.findall(r"<tr>(.*?)</tr>", report(case).split(f"largest {key}")[1])[1:]
        listed = [int(re.findall(r">(\d+)<", row)[0]) for row in rows]
        largest = values.nan_to_num(nan=-9).argsort(descending=True)[:20]
        assert listed == largest.tolist()
        assert f"{float(values[largest[0]]):+.3f}" in rows[0]
        assert ("0.004" in rows[0]) == (case == "normal")


def test_report_says_what_is_absent() -> None:
    one_draw = Page(report("one draw")).text
    assert one_draw.count("not available (needs at least two draws)") == 2
    assert "None: every neuron is dead." in report("all dead")
    for case in CASES:
        assert not re.search(r"\b(nan|None)\b(?!:)", Page(report(case)).text)

    unflagged = made_up(neurons=9, planted=0)
    unflagged.summary["fdr"] = None
    assert "not defined (no neuron was flagged)" in Page(report_html(unflagged)).text


def test_report_escapes_names() -> None:
    hostile = "<script>alert('&amp;')</script>\"$x"
    result = made_up(neurons=9, planted=1, layers=(hostile, "mlp.1"))
    result.summary["models"] = [hostile, "b\udcff.pt"]
    html = report_html(replace(result, words=hostile))
    assert "<script" not in html
    assert Page(html).text.count(hostile) >= 4  # title, verdict, summary, tables
    html.encode("utf-8")  # a file name that is no UTF-8 can still be written
