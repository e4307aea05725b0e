"""The files of a result: every number, what is saved beside it, and what is drawn again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import univfast as uf
from support.made_up import FILES, PARTNERS
from support.saved_results import CASES, files, rows, six, with_reverse
from univfast.errors import InputError
from univfast.report.files import load, redraw, save_result

pytestmark = pytest.mark.usefixtures("pictures_of_text")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("index", set()),
        ("no draws", set()),
        ("best", PARTNERS),
        ("one-to-one", PARTNERS),
        ("several, by index", {"matches.csv", "models.png"}),
        ("several, best", {*PARTNERS, "models.png"}),
        ("reverse", {*PARTNERS, *(f"reverse/{name}" for name in FILES | PARTNERS)}),
    ],
)
def test_which_files_there_are(case: str, more: set[str], tmp_path: Path) -> None:
    save_result(CASES[case], tmp_path, published=False)
    assert files(tmp_path).keys() == FILES | more


def test_published(tmp_path: Path) -> None:
    result = CASES["several, best"]
    save_result(result, tmp_path, published=True)
    found = rows(tmp_path / "published.csv")
    columns = result.published_columns()
    assert list(found[0]) == list(columns)
    assert [float(row["max_corr"]) for row in found[:20]] == [
        six(x) for x in columns["max_corr"][:20]
    ]
    save_result(result, tmp_path, published=False)
    assert not (tmp_path / "published.csv").exists()


@pytest.mark.slow
def test_files_of_an_earlier_result_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save_result(CASES["several, best"], tmp_path, published=True)
    save_result(CASES["reverse"], tmp_path, published=True)
    assert not {"models.png"} & files(tmp_path).keys()
    assert "reverse/published.csv" in files(tmp_path)
    (tmp_path / "reverse" / "notes.txt").write_text("mine too")
    save_result(CASES["index"], tmp_path, published=False)
    assert files(tmp_path).keys() == {*FILES, "notes.txt", "reverse/notes.txt"}
    (tmp_path / "reverse" / "notes.txt").unlink()
    save_result(CASES["reverse"], tmp_path, published=False)
    save_result(CASES["index"], tmp_path, published=False)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "notes.txt"}


def test_an_ablation_of_an_earlier_result_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "reverse").mkdir()
    for folder in (tmp_path, tmp_path / "reverse"):
        for name in ("summary.json", "ablation.json", "ablation.csv"):
            (folder / name).write_text("of an earlier one")
    save_result(CASES["index"], tmp_path, published=False)
    assert files(tmp_path).keys() == FILES


def test_a_failing_write_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_result(CASES["best"], tmp_path, published=True)
    before = files(tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_result(CASES["index"], tmp_path, published=False)
    monkeypatch.undo()
    assert files(tmp_path) == before


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Only where there was a result before is anything removed."""
    (tmp_path / "reverse").mkdir()
    for name in ("matches.csv", "reverse/report.html"):
        (tmp_path / name).write_text("mine")
    save_result(CASES["index"], tmp_path, published=False)
    assert (tmp_path / "matches.csv").read_text() == "mine"
    assert (tmp_path / "reverse" / "report.html").read_text() == "mine"


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    save_result(CASES["index"], tmp_path, published=False)
    (tmp_path / "top.csv" / "inside").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"top\.csv: is of an earlier result and cannot be removed"
    ):
        save_result(CASES["index"], tmp_path, published=False)


BESIDE = {
    "pre-index": ("index, pre", CASES["index"]),
    "post best": ("best, post", with_reverse("one-to-one")),
}


@pytest.mark.slow
def test_results_beside(tmp_path: Path) -> None:
    result = CASES["several, best"]
    save_result(result, tmp_path, published=True, beside=BESIDE)
    assert "beside" not in result.summary
    assert load(tmp_path).summary == {
        **result.summary,
        "beside": [
            {"directory": "pre-index", "title": "index, pre"},
            {"directory": "post best", "title": "best, post"},
        ],
    }
    for name, (_, other) in BESIDE.items():
        alone = tmp_path / "alone" / name
        save_result(other, alone, published=True)
        assert files(tmp_path / name) == files(alone)
        assert load(tmp_path / name).summary == other.summary
    report = (tmp_path / "report.html").read_text()
    assert "Side by side" in report
    assert report.index("index, pre") < report.index("best, post")

    # A result that was read back says nothing of what is not beside it.
    save_result(load(tmp_path), tmp_path / "copy", published=False)
    assert load(tmp_path / "copy").summary == result.summary


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "reverse"])
def test_names_of_results_beside(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beside"):
        save_result(
            CASES["index"], tmp_path / "out", published=False, beside={name: ("", CASES["index"])}
        )
    assert not (tmp_path / "out").exists()

    # Nor does a summary that somebody edited make redraw write elsewhere.
    save_result(CASES["index"], tmp_path / "out", published=False)
    summary = tmp_path / "out" / "summary.json"
    changed = {**CASES["index"].summary, "beside": [{"directory": name, "title": "x"}]}
    summary.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=f"^{tmp_path / 'out'}: does not hold a saved result"):
        redraw(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_redraw_gives_the_same_files(case: str, tmp_path: Path) -> None:
    beside = {name: BESIDE[name] for name in BESIDE if case in ("reverse", "several, best")}
    result = replace(CASES[case], summary={**CASES[case].summary, "title": "the main one"})
    save_result(result, tmp_path, published=True, beside=beside)
    before = files(tmp_path)
    drawn = [name for name in before if name.endswith((".png", ".html"))]
    for name in drawn:
        (tmp_path / name).write_bytes(b"spoilt")
    (tmp_path / "report.html").unlink()
    returned = redraw(tmp_path)
    assert returned.summary == load(tmp_path).summary
    assert files(tmp_path) == before


@pytest.mark.slow
def test_redraw_names_what_is_missing(tmp_path: Path) -> None:
    save_result(CASES["index"], tmp_path, published=False, beside=BESIDE)
    before = files(tmp_path)
    (tmp_path / "post best" / "neurons.csv").unlink()
    with pytest.raises(InputError, match=r"post best/neurons\.csv: cannot be read"):
        redraw(tmp_path)
    assert {**files(tmp_path), "post best/neurons.csv": before["post best/neurons.csv"]} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("match_layers", {"rows": ["mlp.0"], "columns": ["mlp.0"], "counts": [[1, 2], [3]]}),
        ("match_layers", 3),
        ("match", "nearest"),
        ("by_model", [{}]),
        ("beside", 3),
        ("beside", [3]),
        ("unmatched", None),
        ("models", None),
    ],
)
def test_redraw_refuses_a_spoilt_summary(key: str, value: object, tmp_path: Path) -> None:
    save_result(CASES["best"], tmp_path, published=False)
    before = files(tmp_path)
    changed = json.dumps({**CASES["best"].summary, key: value})
    (tmp_path / "summary.json").write_text(changed)
    with pytest.raises(InputError, match=f"^{tmp_path}: does not hold a saved result") as caught:
        redraw(tmp_path)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {**before, "summary.json": changed.encode()}


@pytest.mark.slow
def test_half_a_range_is_refused(tmp_path: Path) -> None:
    save_result(CASES["several, best"], tmp_path, published=False)
    path = tmp_path / "neurons.csv"
    path.write_text(path.read_text().replace("correlation_max", "other", 1))
    with pytest.raises(InputError, match="correlation_max"):
        load(tmp_path)


@pytest.mark.slow
def test_real_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # real pictures
    g = np.random.default_rng(0)
    a = {f"mlp.{i}": g.standard_normal((300, 24)) for i in range(2)}
    b = {f"h.{i}": g.standard_normal((300, 12)) for i in range(3)}
    a["mlp.0"][:, 3] = 1.0
    options: dict[str, Any] = {"match": "best", "draws": 2, "top_k": 4}
    results = {
        "two": uf.correlate(a, b, reverse=True, **options),
        "many": uf.correlate(a, [b, a, b], **options),
    }
    for name, result in results.items():
        result.save(tmp_path / name, columns="published")
        before = files(tmp_path / name)
        for path, content in before.items():
            if path.endswith(".png"):
                assert content.startswith(b"\x89PNG")
        redraw(tmp_path / name)
        assert files(tmp_path / name) == before
    assert len(rows(tmp_path / "two" / "top.csv")) == 47 * 4
    assert len(rows(tmp_path / "two" / "reverse" / "neurons.csv")) == 36
    assert len(rows(tmp_path / "many" / "matches.csv")) == 3 * 48


def test_a_real_one_to_one(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    a, b = g.standard_normal((300, 40)), g.standard_normal((300, 25))
    uf.correlate(a, b, match="one-to-one", draws=2).save(tmp_path)
    unmatched = [row for row in rows(tmp_path / "matches.csv") if row["match_neuron"] == "-1"]
    assert len(unmatched) == 15
    assert {(row["match_layer"], row["correlation"], row["mutual"]) for row in unmatched} == {
        ("", "nan", "false")
    }
