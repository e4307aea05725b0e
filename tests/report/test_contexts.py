"""The report's section on what neurons do, and `contexts.jsonl` among the files of a result."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.contexts import example, explanation, record, silent, write
from support.made_up import FILES, made_up
from support.pictured import SCRIPTS, Page, assert_needs_nothing_from_elsewhere
from univfast.contexts.records import StoredRecords, read_records
from univfast.errors import InputError
from univfast.report.contexts import contexts_section
from univfast.report.files import load, redraw, save_result
from univfast.report.html import report_html
from univfast.result import CorrelationResult


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfast.report.plots.png_bytes", lambda figure: b"")
    monkeypatch.setattr("univfast.report.html.png_bytes", lambda figure: b"")


def of(path: Path, **options: Any) -> CorrelationResult:
    return replace(made_up(30, 12, **options), explained=StoredRecords(path))


def test_a_pair_side_by_side(tmp_path: Path) -> None:
    path = write(tmp_path / "contexts.jsonl", record())
    html = report_html(of(path), pictures={})
    page = Page(html)
    assert_needs_nothing_from_elsewhere(page)
    assert "mlp.0/3 \u2192 mlp.1/17 \xb7 r +0.910 \xb7 excess +0.700 \xb7 token 'T' (r2 0.93)" in (
        page.text
    )
    assert "A: token 'T' (r2 0.93), position 0 (r2 0.02); together 0.95" in page.text
    assert "Match: token 'T' (r2 0.84), position 0" in page.text
    first, second = re.findall(r'<div class="window" dir="ltr">(.*?)</div>', html)
    assert first == (
        'the<b class="a2" title="A 0.3, match 0"> cat</b><b class="b2" title="A 0, match 4">'
        '\u21b5</b><b class="a9 b9 at" title="A 1.5, match 20">T</b>he<b class="a5" title='
        '"A 0.75, match 0"> dog</b>\u21e5'
        "<small>sample 2, position 0: A 1.5, match 20</small>"
    )
    assert 'class="a9 at" title="A 1.5, match 0">T' in second
    body = html[html.index('id="contexts"') :]
    assert body.index("Agreement") < body.index(first) < body.index("Disagreement")
    assert body.index("Disagreement") < body.index(second)
    places = [html.index(f'id="{part}"') for part in ("neurons", "contexts", "definitions")]
    assert places == sorted(places)
    assert 'data-neuron="mlp.0/3"' in html  # where a row of the table finds it


def test_each_level_has_a_colour(tmp_path: Path) -> None:
    html = report_html(of(write(tmp_path / "contexts.jsonl", record())), pictures={})
    style = html[html.index("<style>") : html.index("</style>")]
    strengths = [float(x) for x in re.findall(r"\.[ab]\d \{ --[ab]: (.*?); \}", style)]
    assert len(strengths) == 18
    assert strengths[:9] == strengths[9:] == sorted({*strengths})
    assert "print-color-adjust: exact" in style


def test_what_tokens_and_names_hold_is_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    odd = example(tokens=[bad, '"', "\u202e", "\x1b", "\ud800", "&amp;", "'"])
    strong = example(tokens=[bad] * 7, activation=[1.0] * 7)
    one = record(
        layer=bad, match_layer='x" onclick="', explanation=explanation(bad), examples=[odd, strong]
    )
    html = report_html(of(write(tmp_path / "contexts.jsonl", one)), pictures={})
    assert bad not in html
    page = Page(html)
    assert page.tags.count("script") == SCRIPTS
    assert bad in page.text
    assert '"> onclick' not in html
    unseen = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]"
    assert not re.search(unseen, "".join(page.markup))


def test_families_are_counted(tmp_path: Path) -> None:
    position = explanation("position 0", 0.5, "position")
    path = write(
        tmp_path / "contexts.jsonl",
        record(1, explanation=explanation(r2=0.9), match_explanation=explanation(r2=0.7)),
        record(2, explanation=explanation(r2=0.5), match_explanation=position),
        record(3, explanation=position, match_explanation=position),
        record(4, explanation=explanation(r2=0.7), match_explanation=None),
        record(5, explanation=None, match_explanation=None),
        record(6, universal=False),
    )
    text = Page(contexts_section(read_records(path))).text
    head = "family in A of matches of both mean r2 in A mean r2 of matches"
    assert f"{head} token 3 1 1 0.70 0.70 position 1 2 1 0.50 0.50" in text
    write(path, record(explanation=None, match_explanation=None))
    text = Page(contexts_section(read_records(path))).text
    assert "not explained, as token ids are not known" in text
    assert "family" not in text


def test_the_page_is_bounded(tmp_path: Path) -> None:
    """200 pairs, those of the largest excess, and 6 examples of each kind."""
    many = [*(example(i) for i in range(10)), *(silent(i) for i in range(20, 27))]
    pairs = [record(i, excess=i / 1000, examples=[]) for i in range(300)]
    pairs.append(record(300, excess=0.9, examples=many))
    pairs.append(record(301, excess=None, correlation=0.95))
    html = contexts_section(read_records(write(tmp_path / "contexts.jsonl", *pairs)))
    page = Page(html)
    assert page.tags.count("details") == 200
    assert "These are the 200 of 302 pairs with the largest excess; see contexts.jsonl" in page.text
    numbers = [int(x) for x in re.findall(r"<summary>mlp\.0/(\d+) ", html)]
    assert numbers == [301, 300, *range(299, 101, -1)]
    assert html.count('class="window"') == 6 + 6 + 2
    assert "is among its highest (6 of 10; see contexts.jsonl)" in page.text
    assert "below its mean (6 of 7; see contexts.jsonl)" in page.text


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfast.report.contexts._PAIRS", 2)
    pairs = [record(i, examples=[example() for _ in range(40)]) for i in range(60)]
    path = write(tmp_path / "contexts.jsonl", *pairs)
    tracemalloc.start()
    contexts_section(read_records(path))
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size
    tracemalloc.stop()


def test_pairs_of_several_models_and_of_none(tmp_path: Path) -> None:
    two = [record(), record(model="c.pt", universal=False)]
    path = write(tmp_path / "contexts.jsonl", *two, models=["a.pt", "b.pt", "c.pt"])
    text = Page(contexts_section(read_records(path))).text
    assert "\u2192 b.pt: mlp.1/17" in text
    assert "\u2192 c.pt: mlp.1/17" in text
    assert text.count("not universal") == 1
    assert "No pairs were looked at." in contexts_section(read_records(write(path)))


@pytest.mark.slow
def test_saved_and_drawn_again(tmp_path: Path) -> None:
    source = write(tmp_path / "elsewhere.jsonl", record())
    out = tmp_path / "out"
    save_result(of(source), out, published=False)
    assert {path.name for path in out.iterdir()} == {*FILES, "contexts.jsonl"}
    assert (out / "contexts.jsonl").read_bytes() == source.read_bytes()
    before = (out / "report.html").read_bytes()
    assert b"What they do" in before
    source.unlink()
    (out / "report.html").unlink()
    loaded = redraw(out)
    assert loaded.explained is not None
    assert [*loaded.explained.records(loaded)] == [*read_records(out)]
    assert (out / "report.html").read_bytes() == before

    save_result(loaded, out, published=False)  # where it is already
    assert (out / "report.html").read_bytes() == before
    assert "contexts.jsonl" in {path.name for path in out.iterdir()}
    save_result(load(out), tmp_path / "copy", published=False)
    assert (tmp_path / "copy" / "report.html").read_bytes() == before
    assert (tmp_path / "copy" / "contexts.jsonl").exists()

    save_result(made_up(30, 12), out, published=False)  # without contexts
    assert {path.name for path in out.iterdir()} == FILES
    assert b"What they do" not in (out / "report.html").read_bytes()


@pytest.mark.slow
def test_parts_have_their_own(tmp_path: Path) -> None:
    """The reverse, and a result beside."""
    one, two = (write(tmp_path / f"{i}.jsonl", record(i)) for i in (1, 2))
    result = replace(of(one, match="best"), reverse=of(two, match="best"))
    save_result(result, tmp_path / "out", published=False)
    for folder, neuron in (("", 1), ("reverse", 2)):
        html = (tmp_path / "out" / folder / "report.html").read_text()
        assert f"<summary>mlp.0/{neuron} " in html
    save_result(made_up(30, 12), tmp_path / "out", published=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_result(of(write(tmp_path / "c.jsonl", record())), out, published=False)
    before = (out / "report.html").read_bytes()
    write(out / "contexts.jsonl", record(), record(-1))
    with pytest.raises(InputError, match=r"^\S*/out/contexts\.jsonl: is damaged .*line 3: "):
        redraw(out)
    assert (out / "report.html").read_bytes() == before
    assert load(out).summary["universal"] == 12
    gone = of(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read"):
        save_result(gone, tmp_path / "none", published=False)
    assert not (tmp_path / "none").exists()
