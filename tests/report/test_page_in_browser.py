"""``report.html`` in headless Chromium: what is driven there has the effect that it should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.browser import Seen, browser, opened
from support.made_up import TWO, made_up
from univfast.report.beside import beside_html
from univfast.report.html import report_html
from univfast.report.web.data import MOST_LISTED, page_axis, thresholds
from univfast.result import CorrelationResult

pytestmark = pytest.mark.slow

EVIL = (
    "<script>window.hit = 1</script>",
    "</script><img src=x onerror='window.hit = 2'>",
    "\N{FOX FACE}\N{BRAIN}" * 9 + "'\"",
    "long." * 60,
    "\u202e\u05d0\u05d1\u05d2",
    "@name{safe} ${x} `",
)
RESULTS: dict[str, Callable[[], CorrelationResult]] = {
    "best": lambda: made_up(dead=7, match="best"),
    "nothing flagged": lambda: made_up(planted=0),
    "one draw": lambda: made_up(draws=1),
    "rotation none": lambda: made_up(draws=0, match="best"),
    "three neurons": lambda: made_up(3, 1, layers=["mlp.0"], others=[["mlp.0"]]),
    "several": lambda: made_up(others=TWO, match="best", dead=3),
    "all dead": lambda: made_up(neurons=12, planted=0, dead=12),
    "names": lambda: made_up(
        200, 60, match="best", layers=EVIL, others=[EVIL], models=[EVIL[0], EVIL[1]]
    ),
}
Open = Callable[..., Seen]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("pages")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            path.write_text(report_html(RESULTS[name](), pictures={}), encoding="utf-8")
        return path

    return path_of


@pytest.fixture
def best(chromium: Any, pages: Callable[[str], Path]) -> Iterator[Seen]:
    with opened(chromium, pages("best")) as seen:
        yield seen
        assert seen.complaints == []


def assert_in_order(seen: Seen, path: Path) -> None:
    """Nothing complained of or asked for, nothing wider than the window, no tile cut."""
    assert seen.complaints == []
    assert [one for one in seen.requests if not one.startswith("data:")] == [path.as_uri()]
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('.tiles > div > *')].every("
                         "(x) => x.scrollWidth <= x.clientWidth)")  # fmt: skip
    assert page.evaluate("window.hit") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_it_opens(chromium: Any, pages: Callable[[str], Path], scheme: str, width: int) -> None:
    path = pages("names")
    with opened(chromium, path, scheme, width) as seen:
        assert_in_order(seen, path)
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
        # A cell is one line, whatever its name: its table scrolls.
        heights = "rows => rows.map(row => row.getBoundingClientRect().height)"
        assert max(seen.page.eval_on_selector_all("#rows tr", heights)) < 45


@pytest.mark.parametrize("name", RESULTS)
def test_all_kinds_of_results_make_sense(
    chromium: Any, pages: Callable[[str], Path], name: str
) -> None:
    path = pages(name)
    result = RESULTS[name]()
    with opened(chromium, path) as seen:
        assert_in_order(seen, path)
        body = seen.page.inner_text("body")
        if name == "all dead":
            assert "no neuron has a correlation" in body
            assert not seen.page.query_selector("canvas")
            return
        live = int((~result.correlation.isnan()).sum())
        flagged = int(result.universal.sum())
        expected = live if name == "rotation none" else flagged
        assert seen.text("count").endswith(f"of {expected:,}" if expected else "none")
        assert ("rotation none" in seen.text("charts")) == (name == "rotation none")
        one = name == "one draw"
        assert ("needs at least two draws" in seen.text("charts")) == one
        charts = seen.page.eval_on_selector_all(".chart", "all => all.map(x => x.id)")
        assert ("cloud" in charts) == (name != "rotation none")
        assert ("heat" in charts) == (name in ("best", "rotation none", "several", "names"))
        assert ("range" in charts) == (name == "several")


def test_the_keyboard_goes_on_where_it_was(best: Seen) -> None:
    page = best.page
    page.focus("#rows tr:nth-child(3)")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # closes it
    assert page.is_hidden("#detail")
    assert page.evaluate("document.activeElement === document.querySelector('#rows').children[2]")


def test_the_slider(best: Seen) -> None:
    """Counts follow it, and are those of the result's own draws and neurons."""
    result = RESULTS["best"]()
    assert result.null_excess is not None
    steps = thresholds(0.5)
    for threshold in (0.5, 0.0, 0.23, 0.84, 1.0):
        best.page.locator("#threshold").evaluate(
            "(x, at) => { x.value = at; x.dispatchEvent(new Event('input')); }",
            steps.index(threshold),
        )
        universal = int((result.excess > threshold).sum())
        chance = float((result.null_excess > threshold).sum(dim=1).double().mean())
        assert best.text("threshold-value") == f"{threshold:g}"
        assert best.text("now-universal") == str(universal)
        assert best.text("now-chance") == f"{chance:.1f}"
        assert best.text("count").endswith(f"of {universal}" if universal else "none")
        counts = best.page.evaluate("univfast.bars(univfast.results[0])")
        assert sum(counts["flagged"]) == universal
        assert sum(counts["rest"]) == 493 - universal
    best.page.click("#reset-threshold")
    assert best.text("now-universal") == str(result.summary["universal"])
    assert float(best.text("now-chance")) == result.summary["universal_by_chance"]


def test_bars_are_those_of_numpy(best: Seen) -> None:
    result = RESULTS["best"]()
    counts = best.page.evaluate("univfast.bars(univfast.results[0])")
    edges = np.array(counts["edges"])
    excess = result.excess[~result.excess.isnan()].numpy()
    assert [edges[0], edges[-1]] == page_axis(result)
    total = np.array(counts["rest"]) + np.array(counts["flagged"])
    np.testing.assert_array_equal(total, np.histogram(excess, edges)[0])


def test_the_table(best: Seen) -> None:
    result = RESULTS["best"]()
    flagged = result.universal.nonzero()[:, 0].tolist()
    by_excess = sorted(flagged, key=lambda i: -float(result.excess[i]))
    rows = best.rows()
    assert [int(row[1]) for row in rows] == by_excess
    first = by_excess[0]
    signs = [f"{float(x[first]):+.3f}".replace("-", "\u2212")
             for x in (result.correlation, result.baseline, result.excess)]  # fmt: skip
    assert rows[0][:7] == ["mlp.0", str(first), result.match_layer[first], str(first), *signs]

    best.page.click("th[data-key=r] button")
    by_r = sorted(flagged, key=lambda i: -float(result.correlation[i]))
    assert [int(row[1]) for row in best.rows()] == by_r
    best.page.click("th[data-key=r] button")
    assert [int(row[1]) for row in best.rows()] == by_r[::-1]
    assert best.page.get_attribute("th[data-key=r]", "aria-sort") == "ascending"

    best.page.fill("#search", "mlp.0/3 ")
    named = [(i, f"mlp.0/{i} {result.match_layer[i]}/{i}") for i in flagged]
    assert {int(row[1]) for row in best.rows()} == {i for i, name in named if "mlp.0/3" in name}
    best.page.fill("#search", "no such layer")
    assert best.page.is_visible("#nothing")
    best.page.fill("#search", "")
    best.page.select_option("#layer", "1")
    assert best.text("count") == "none"  # all that are planted are in the first
    best.page.select_option("#layer", "")

    best.page.locator("#rows tr").first.press("Enter")
    detail = best.text("detail")
    opened_row = int(best.rows()[0][1])
    assert f"mlp.0/{opened_row} \u2192 {result.match_layer[opened_row]}/{opened_row}" in detail
    assert result.top_neuron is not None
    assert "Highest r in B" in detail
    partners = [int(x) for x in result.top_neuron[opened_row] if x >= 0]
    for partner in partners:
        assert f"/{partner}\t" in detail
    assert "q_value" in detail
    best.page.click("#detail .close")
    assert not best.page.is_visible("#detail")


def test_boxes_filter_the_table(best: Seen) -> None:
    result = RESULTS["best"]()
    r, baseline = result.correlation, result.baseline
    best.drag("cloud", (-0.3, 0.8), (0.0, 1.0))
    inside = result.universal & (baseline <= 0.0) & (baseline >= -0.3) & (r >= 0.8)
    found = {int(row[1]) for row in best.rows()}
    # Of neurons at the very edge of the box a pixel decides.
    clear = inside & ((r - 0.8).abs() > 0.01) & (baseline.abs() > 0.01)
    near = result.universal & (baseline <= 0.01) & (r >= 0.79)
    assert {*clear.nonzero()[:, 0].tolist()} <= found <= {*near.nonzero()[:, 0].tolist()}
    assert 0 < len(found) < int(result.universal.sum())
    best.page.click("#chips button")
    best.drag("histogram", (0.8, 1.0), (1.4, 1.0))
    found = {int(row[1]) for row in best.rows()}
    assert found
    assert all(float(result.excess[i]) > 0.79 for i in found)
    assert {*(result.excess > 0.81).nonzero()[:, 0].tolist()} <= found
    best.page.click("#chips button")
    assert len(best.rows()) == int(result.universal.sum())


def test_the_pointer_names_a_neuron(chromium: Any, pages: Callable[[str], Path]) -> None:
    result = RESULTS["names"]()
    i = int(result.excess.nan_to_num(nan=-9).argmax())
    with opened(chromium, pages("names"), "dark") as seen:
        place = seen.place("cloud", float(result.baseline[i]), float(result.correlation[i]))
        seen.page.mouse.move(*place)
        tip = seen.page.locator(".bk-Tooltip").filter(has_text="neuron")
        tip.wait_for()
        said = tip.locator(".bk-tooltip-content").inner_text()
        assert f"{result.layer[i]}/{int(result.neuron[i])}" in said
        assert f"{float(result.excess[i]):+.3f}" in said
        assert tip.evaluate("x => getComputedStyle(x).backgroundColor") == "rgb(28, 33, 37)"
        assert seen.page.evaluate("window.hit") is None
        assert seen.complaints == []


def test_the_map(best: Seen) -> None:
    result = RESULTS["best"]()
    counts = np.zeros((2, 2), dtype=int)
    for i in range(500):
        if bool(result.universal[i]):
            counts[int(result.layer[i][-1]), int(result.match_layer[i][-1])] += 1

    def cells(name: str) -> Any:
        return np.array([*best.page.evaluate(f"univfast.heat().data.data.{name}")]).reshape(2, 2)

    np.testing.assert_array_equal(cells("count"), counts)
    best.page.check("input[value=mutual]")
    mutual = result.mutual
    assert mutual is not None
    assert cells("count").sum() == int(mutual.sum())
    best.page.check("input[value=all]")
    every = np.array(result.summary["match_layers"]["counts"])
    np.testing.assert_array_equal(cells("count"), every)
    best.page.check("input[value=ratio]")
    expected = every.sum(1, keepdims=True) * every.sum(0, keepdims=True) / every.sum()
    np.testing.assert_array_equal(
        cells("ratio").astype(float), np.round(every / expected, 2)
    )  # fmt: skip
    best.page.wait_for_function("univfast.shown.get(document.getElementById('heat')).view")
    best.page.mouse.click(*best.place("heat", 1, 0))
    rows = best.rows()
    assert len(rows) == counts[0, 1]
    assert {(row[0], row[2]) for row in rows} == {("mlp.0", "mlp.1")}


def test_logarithmic_counts_are_asked_for(best: Seen) -> None:
    axis = "univfast.shown.get(document.getElementById('histogram')).figure.left[0].type"
    assert best.page.evaluate(axis) == "LinearAxis"
    best.page.check("input[value=log]")
    assert best.page.evaluate(axis) == "LogAxis"


def test_100000_neurons(
    chromium: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    layers = [f"mlp.{i}" for i in range(24)]
    result = made_up(100_000, 7_000, match="best", layers=layers, others=[layers], draws=2)
    path = tmp_path / "large.html"
    path.write_text(report_html(result, pictures={}), encoding="utf-8")
    assert path.stat().st_size < 15e6
    with opened(chromium, path) as seen:
        assert_in_order(seen, path)
        names = (
            "univfast.shown.get(document.getElementById('cloud')).figure.renderers.map(x => x.name)"
        )
        assert "density" in seen.page.evaluate(names)
        assert seen.page.evaluate("document.querySelectorAll('*').length") < 3_000
        assert seen.text("now-universal") == f"{int(result.universal.sum()):,}"
        assert seen.text("count") == f"1\u201350 of {MOST_LISTED:,}"
        assert "neurons.csv has all" in seen.text("neurons")
        took = seen.page.evaluate(
            """() => {
              const start = performance.now();
              const slider = document.getElementById("threshold");
              slider.value = 80;
              slider.dispatchEvent(new Event("input"));
              return performance.now() - start;
            }"""
        )
        record_property("slider_ms", took)
        assert seen.text("now-universal") == f"{int((result.excess > 0.8).sum()):,}"


def test_without_scripts_and_on_paper(chromium: Any, tmp_path: Path) -> None:
    """Pictures and the first neurons stand in for what is drawn."""
    result = RESULTS["best"]()
    path = tmp_path / "still.html"
    path.write_text(report_html(result), encoding="utf-8")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("img").count() == 3
    assert page.locator("img").first.is_visible()
    assert page.get_by_text("Neurons with the largest excess").is_visible()
    assert not page.locator("#threshold").is_visible()
    context.close()
    with opened(chromium, path) as seen:
        image = seen.page.locator("img").first
        assert not image.is_visible()
        seen.page.emulate_media(media="print")
        assert image.is_visible()
        assert not seen.page.locator("#threshold").is_visible()


def test_results_beside_each_other(chromium: Any, tmp_path: Path) -> None:
    """On the same axes, though one alone would need wider ones."""
    results = [(name, RESULTS[name]()) for name in ("best", "all dead", "three neurons")]
    path = tmp_path / "beside.html"
    path.write_text(beside_html([*results, (EVIL[1], RESULTS["names"]())]), encoding="utf-8")
    for width in (390, 1280):
        with opened(chromium, path, width=width) as seen:
            assert_in_order(seen, path)
            ranges = seen.page.evaluate(
                """[0, 2, 3].map((k) => {
                  const { figure } = univfast.shown.get(document.getElementById(`histogram-${k}`));
                  return [figure.x_range.start, figure.x_range.end, figure.y_range.end];
                })"""
            )
            assert ranges[0] == ranges[1] == ranges[2]
            axes = [page_axis(result) for _, result in results]
            assert ranges[0][0] <= min(axis[0] for axis in axes)
            assert ranges[0][1] >= max(axis[1] for axis in axes)
            assert not seen.page.query_selector("#histogram-1")
