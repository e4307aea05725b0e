"""The HTML report, of small made-up results and of real ones."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch

import univfast as uf
from support.made_up import TWO, made_up
from support.pictured import (
    CASES,
    SCRIPTS,
    Page,
    assert_needs_nothing_from_elsewhere,
    report,
)
from univfast.report.html import report_html
from univfast.report.plots import correlation_figure, figures, png_bytes


@pytest.mark.slow
def test_the_same_result_gives_the_same_bytes() -> None:
    assert report_html(CASES["one neuron"]) == report("one neuron")  # with both pictures in it
    png = png_bytes(correlation_figure(CASES["one neuron"]))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert not any(chunk in png for chunk in (b"tEXt", b"iTXt", b"tIME"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_report_needs_nothing_from_elsewhere(case: str) -> None:
    page = Page(report(case))
    assert_needs_nothing_from_elsewhere(page)
    pictures = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == page.tags.count("img") == len(figures(CASES[case]))


def test_the_browser_may_run_these_scripts_alone() -> None:
    html = report("one neuron")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == SCRIPTS - 1
    digests = (hashlib.sha256(one.encode()).digest() for one in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    rules = "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data:"
    assert unescape(policy) == rules.format(allowed)


def test_without_a_baseline_none_can_be_universal() -> None:
    text = Page(report_html(made_up(40, 0, draws=0, match="best"))).text
    assert text.count("none can be, without a baseline") >= 2  # above, and among all counts
    assert "universal 0 (none can be, without a baseline)" in text
    a = torch.randn(64, 3)
    alone = Page(report_html(uf.correlate(a, torch.zeros(64, 3), draws=2))).text
    assert "none can be, without a baseline" not in alone
    assert "universal 0 (0.0% of live neurons)" in alone


def test_report_shows_the_numbers() -> None:
    result = made_up(dead=7)
    result.summary.update(universal_by_chance=3.4, fdr=0.085, mean_excess=0.125, device="gpu")
    result.summary["layers"][0].update(mean_correlation=0.25, mean_baseline=-0.5, mean_excess=0.75)
    text = Page(report_html(result)).text
    version = result.summary["univfast"]
    for shown in (
        result.verdict(),
        "A a.pt B b.pt matching index tokens 123,456 neurons of A 500 dead 7 universal",
        "universal 40 (8.1% of live neurons) their distinct partners 40 universal by chance 3.4 fdr"
        " (by chance / universal) 0.085",
        f"q < 0.05 {result.summary['q_below_0.05']} mean correlation",
        "universal by control not compared with networks that learned nothing",
        "mean excess +0.125 threshold of the excess 0.5",
        f"rotation hadamard draws 5 seed 17 r computed neuron by neuron, as tokens"
        f" come; within 1e-06 device gpu computed in 1.50 s univfast {version}",
        "mlp.0 250 0 40 0.0 \N{EN DASH} \N{EN DASH} +0.250 -0.500 +0.750",
        "mlp.1 250 7 0",
    ):
        assert shown in text


@pytest.mark.slow
def test_report_of_partners() -> None:
    text = Page(report("one-to-one")).text
    summary = CASES["one-to-one"].summary
    mutual = summary["mutual"]
    assert f"dead 7 without a partner 90 mutual matches {mutual} universal" in text
    assert 0 < mutual < 403
    assert "without a partner" not in Page(report("normal")).text
    assert "mutual" not in Page(report("several, by index")).text


@pytest.mark.slow
def test_report_of_several_models() -> None:
    result = made_up(others=TWO, match="best", dead=3)
    result.summary["by_model"][1].update(
        dead=4, unmatched=5, mutual=6, universal=7, universal_partners=3, universal_by_chance=8.25
    )
    html = report_html(result)
    text = Page(html).text
    assert "Universal neurons: a.pt, b.pt, c.pt" in text
    assert "A a.pt compared with b.pt compared with c.pt matching best" in text
    none = "\N{EN DASH}"
    assert re.search(rf"c\.pt 4 5 6 7 3 8\.2 {none} {none} [+-]0\.\d+", text)
    assert "means over those in which the neuron has a match" in text
    top = html.split("with the largest excess</h3>")[1]
    first = int(result.excess.nan_to_num(nan=-9).argmax())
    assert result.correlation_min is not None
    assert result.correlation_max is not None
    numbers = [
        f"{float(values[first]):+.3f}"
        for values in (result.correlation, result.correlation_min, result.correlation_max)
    ]
    cells = [re.sub("<.*?>", "", x) for x in re.findall(r"<td.*?>(.*?)</td>", top)[:7]]
    match = [result.match_layer[first], str(int(result.match_neuron[first]))]
    assert cells == [result.layer[first], str(first), *match, *numbers]
    assert "Each model by itself" not in Page(report("best")).text


@pytest.mark.parametrize(
    ("case", "correlation", "dead"),
    [
        ("normal", "the neuron of the same number in the layer", "without variance in A or in B"),
        ("best", "of all layers of B, with which it is highest", "Those of B are nobody's match"),
        ("one-to-one", "the sum of r over all pairs is largest", "nobody's partner"),
        ("several, by index", "the neuron of the same number", "in A, or in all of the others"),
    ],
)
def test_definitions_fit_the_matching(case: str, correlation: str, dead: str) -> None:
    text = Page(report(case)).text
    assert correlation in text
    assert dead in text
    anew = "index" not in case and case != "normal"
    assert ("anew" in text) == anew
    assert ("In every draw the matches are those of that draw" in text) == anew


@pytest.mark.slow
def test_report_side_by_side() -> None:
    result = made_up(match="best")
    other = made_up(planted=11, match="one-to-one", dead=2)
    other.summary.update(
        universal_partners=7,
        universal_by_chance=2.5,
        universal_by_control=4.25,
        learned=3,
        mean_correlation=0.5,
        mean_baseline=0.25,
        mean_excess=1,
    )
    beside = {"post 1": ("<b>post</b>", other), "none": ("no draws", CASES["no baseline"])}
    html = report_html(result, beside)
    page = Page(html)
    assert "q < 0.05" not in "".join(html.split("<script")[:1])  # but &lt;
    assert page.tags.count("img") == len(figures(result))
    for address in ("post%201/report.html", "none/report.html"):
        assert page.links.count(address) == 2  # in the head, and here
    assert "<b>post" not in "".join(html.split("<script")[:1])
    start, end = page.text.index("Side by side"), page.text.index("Excess and correlation")
    assert start < end
    text = page.text[start:end]
    none = "\N{EN DASH}"
    assert re.search(
        rf"excess best best {result.summary['universal']} 40 0\.0 {none} {none} ", text
    )
    assert "<b>post</b> one-to-one 11 7 2.5 4.2 3 +0.500 +0.250 +1.000" in text
    assert re.search(rf"no draws index 0 0 {none} {none} {none} [+]0\.\d+ {none} {none}", text)
    assert "Side by side" not in Page(report("best")).text

    result.summary["title"] = "best, pre"
    assert "mean excess best, pre best 40" in Page(report_html(result, beside)).text


def test_report_lists_the_20_largest_in_order() -> None:
    for case, key in (("normal", "excess"), ("no baseline", "correlation")):
        values = getattr(CASES[case], key)
        table = report(case).split(f"with the largest {key}</h3>")[1]
        rows = re.findall(r"<tr>(.*?)</tr>", table)[1:]
        listed = [int(re.findall(r">(\d+)<", row)[0]) for row in rows[:20]]
        largest = values.nan_to_num(nan=-9).argsort(descending=True)[:20]
        assert listed == largest.tolist()
        assert f"{float(values[largest[0]]):+.3f}" in rows[0]
        has_p = f"{float(CASES[case].p_value[largest[0]]):.2g}"
        assert has_p in rows[0] if case == "normal" else has_p == "nan"


@pytest.mark.slow
def test_report_says_what_is_absent() -> None:
    one_draw = Page(report("one draw")).text
    assert one_draw.count("not available (needs at least two draws)") == 3
    for case in ("all dead", "nobody has a partner"):
        assert "None: no neuron has a correlation." in report(case)
    for case in CASES:
        assert not re.search(r"\b(nan|None)\b(?!:)", Page(report(case)).text)

    unflagged = made_up(neurons=9, planted=0)
    unflagged.summary["fdr"] = None
    assert "not defined (no neuron was flagged)" in Page(report_html(unflagged)).text


@pytest.mark.slow
def test_report_escapes_names() -> None:
    hostile = "<script>alert('&amp;')</script>\"$x"
    models = [hostile, "b\udcff.pt", hostile]
    layers = (hostile, "mlp.1")
    others = [layers, layers]
    result = made_up(9, 1, match="best", layers=layers, others=others, models=models)
    html = report_html(replace(result), {"x": (hostile, result)})
    assert Page(html).tags.count("script") == SCRIPTS
    # Title and heading, side by side, both models in the summary, by model, layers, neurons.
    assert Page(html).text.count(hostile) >= 8
    html.encode("utf-8")  # a file name that is no UTF-8 can still be written


@pytest.mark.slow
def test_a_real_result_has_them_all() -> None:
    g = np.random.default_rng(0)
    a = {f"mlp.{i}": g.standard_normal((300, 24)) for i in range(2)}
    b = {f"h.{i}": g.standard_normal((300, 16)) for i in range(3)}
    a["mlp.0"][:, 3] = 1.0
    b["h.1"][:, :8] = a["mlp.1"][:, 8:16]
    for match, others in (("best", b), ("one-to-one", a), ("best", [b, a])):
        result = uf.correlate(a, others, match=match, draws=2)
        assert Page(report_html(result)).tags.count("img") == len(figures(result)) >= 3
