"""`univfast correlate --controls-a ... --controls-b ...`, and its results read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import univfast as uf
from support.command import error_line, run
from support.controlled import COLUMNS, TOKENS, cut, sides, two, untrained
from support.made_up import COMMANDED, HEADER, PARTNERS
from support.saved_results import as_cells
from univfast.columns import columns_of
from univfast.report.files import load

NAMES = [*COLUMNS, "learned"]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.pt and b.pt with a0.pt and a1.pt, b0.pt and b1.pt in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, net in zip("ab", two(), strict=True):
        torch.save(net, f"{name}.pt")
    for side, nets in sides("best", 2).items():
        for k, net in enumerate(nets):
            torch.save(net, f"{side[-1]}{k}.pt")
    return tmp_path


def summary_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run("correlate", "--json", *arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    summary: dict[str, Any] = json.loads(captured.out)
    return summary


BOTH = ("--controls-a", "a0.pt", "a1.pt", "--controls-b", "b0.pt", "b1.pt")


@pytest.mark.slow
def test_controls_may_be_given_in_every_way(
    paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = uf.correlate(
        "a.pt",
        "b.pt",
        controls_a=["a0.pt", "a1.pt"],
        controls_b=["b0.pt", "b1.pt"],
        threshold=0.25,
    ).summary
    del expected["seconds"]
    assert expected["controls"]["a"] == ["a0.pt", "a1.pt"]
    assert expected["controls"]["b"] == [["b0.pt"], ["b1.pt"]]
    low = ("--threshold", "0.25")
    for arguments in (
        ("a.pt", "b.pt", *BOTH, *low),
        ("a.pt", "b.pt", *BOTH[3:], *low, *BOTH[:3]),
        (*low, *BOTH, "--device", "cpu", "a.pt", "b.pt"),
        (*low, *BOTH, "--", "a.pt", "b.pt"),
        # Repeated, and with one path of each.
        ("a.pt", "b.pt", "--controls-a", "a0.pt", *BOTH[3:], "--controls-a", "a1.pt", *low),
        ("a.pt", "b.pt", "--controls-a=a0.pt", "--controls-a=a1.pt", *BOTH[3:], *low),
        ("a.pt", "--controls-a=a0.pt", "b.pt", "--controls-a", "a1.pt", *BOTH[3:], *low),
    ):
        found = summary_of(capsys, *arguments)
        del found["seconds"]
        assert found == json.loads(json.dumps(expected)), arguments


@pytest.mark.parametrize("option", ["--controls-a", "--controls-b"])
def test_an_option_without_paths_is_refused(
    option: str, paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ((option,), (option, "--json"), (option, "--", "x.pt")):
        assert run("correlate", "a.pt", "b.pt", *arguments) == 2
        assert f"Option '{option}' requires an argument" in error_line(capsys)
    # It takes all that follows, and so what was meant for B.
    assert run("correlate", "a.pt", option, "b.pt", "a0.pt") == 2
    assert "B [C ...]" in error_line(capsys)


def test_what_is_wrong_with_a_control_is_one_line(
    paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(untrained(3, (24, 17)), "wide.pt")
    for arguments, parts in (
        (("--controls-a", "none.pt"), ("none.pt: no such file",)),
        (("--controls-a", "wide.pt"), ("wide.pt: layer 'l1' has 17 neurons, that of a.pt has 16",)),
        (("--controls-b", "a0.pt"), ("a0.pt: layer 'l0' has 24 neurons, that of b.pt has 20",)),
        (("--controls-a", "a0.pt", *BOTH[3:]), ("the models have 1 and 2 controls",)),
        (("--controls-a", "a0.pt", "--exclude-self"), ("--controls-a: is for two models",)),
        (("--controls-a", "a0.pt", "--control-tokens", "1"), ("control", "1")),
        (("--controls-a", "a0.pt", "--control-margin", "-1"), ("--control-margin", "-1")),
    ):
        assert run("correlate", "a.pt", "b.pt", *arguments) == 2
        line = error_line(capsys)
        assert all(part in line for part in parts), line


def test_controls_of_several_models(paths: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(untrained(3, (30,)), "c.pt")
    for k in range(2):
        torch.save(untrained(30 + k, (30,)), f"c{k}.pt")
    models = ("a.pt", "b.pt", "c.pt")
    of_c = ("--controls-b", "c0.pt", "c1.pt")
    found = summary_of(capsys, *models, *BOTH, *of_c)
    assert found["controls"]["b"] == [["b0.pt", "c0.pt"], ["b1.pt", "c1.pt"]]
    expected = uf.correlate(
        "a.pt",
        ["b.pt", "c.pt"],
        controls_a=["a0.pt", "a1.pt"],
        controls_b=[["b0.pt", "b1.pt"], ["c0.pt", "c1.pt"]],
    ).summary
    assert found["controls"] == expected["controls"]
    assert found["universal_by_control"] == expected["universal_by_control"]
    for options, times in ((BOTH, 1), ((*BOTH, *of_c, *of_c), 3)):
        assert run("correlate", *models, *options) == 2
        assert (
            f"--controls-b: was given {times} times, and there are 2 other models; give it once for"
            " each of them, in their order, with the paths of its controls"
        ) in error_line(capsys)
    assert run("correlate", *models, *BOTH[3:], "--controls-b", "c0.pt") == 2
    assert "the models have 2 and 1 controls" in error_line(capsys)


def test_what_is_printed(paths: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("correlate", "a.pt", "b.pt", "--threshold", "0.25")
    assert run(*command, *BOTH) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    text = " ".join(captured.out.split())
    assert "layer live dead universal chance control mean r baseline excess" in text
    assert "l0 23 1" in text
    assert "Networks that learned nothing flag" in text
    assert "over networks that learned nothing (by control: " in text
    assert run(*command, *BOTH[:3]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "This tests the training of A only." in text
    assert run(*command, *BOTH, "--control-tokens", 200, "--control-margin", 0.125) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "On the first 200 tokens" in text
    assert "by a margin of 0.125 over" in text


def test_a_warning_is_a_line_on_stderr(paths: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(untrained(3, bias=-1.5), "rare.pt")
    command = ("correlate", "a.pt", "b.pt", "--controls-a", "rare.pt")
    for more in (("--json",), ("--quiet",), ()):
        assert run(*command, *more) == 0
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("Warning: rare.pt: its median neuron is active on ")
        assert line.endswith("make controls with --match-rate")
        assert (captured.out == "") == (more == ("--quiet",))
        if more == ("--json",):
            said = json.loads(captured.out)["controls"]["warnings"]
            assert line == f"Warning: {said[0]}".replace("match_rate=True", "--match-rate")


# ---- saved, and read back ------------------------------------------------------------------------


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "neurons.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("of", [BOTH, BOTH[:3]], ids=["both", "one side"])
def test_controls_are_saved_and_read_back(
    of: tuple[str, ...], paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = paths / "out"
    low = ("--threshold", "0.25", "--control-margin", "0.1")
    assert run("correlate", "a.pt", "b.pt", *of, *low, "--reverse", "--out", out, "--quiet") == 0
    assert {path.name for path in out.iterdir()} == COMMANDED | PARTNERS | {"reverse"}
    a, b = two()
    given: Any = {
        name: nets for name, nets in sides("best", 2).items() if f"--{name}".replace("_", "-") in of
    }
    result = uf.correlate(a, b, **given, reverse=True, threshold=0.25, control_margin=0.1)
    assert result.reverse is not None
    for folder, expected in ((out, result), (out / "reverse", result.reverse)):
        rows = rows_of(folder)
        assert ",".join(rows[0]) == f"{HEADER},{','.join(NAMES)}"
        for name in COLUMNS:
            column = np.array([float(row[name]) for row in rows])
            np.testing.assert_array_equal(column, as_cells(getattr(expected, name)))
        assert [row["learned"] == "true" for row in rows] == expected.learned.tolist()  # type: ignore[union-attr]
        loaded = load(folder)
        for name in NAMES:
            got, want = getattr(loaded, name), getattr(expected, name)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got.numpy(), as_cells(want))
        known = loaded.summary["controls"]
        assert known["flagged_a"] == expected.summary["controls"]["flagged_a"]
        assert loaded.to_pandas().columns[-1] == "learned"
        page = (folder / "report.html").read_text()
        assert "above controls" in page
        assert "universal by control" in page
        assert loaded.verdict().split(". ")[0] in page
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "report.html").unlink()
    capsys.readouterr()
    assert run("report", out) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == written
    text = " ".join(capsys.readouterr().out.split())
    assert "by control" in text
    assert "learned by" in text


# What results had not before there were controls.
SINCE = (
    "universal_partners",
    "universal_mutual",
    "universal_on_control_tokens",
    "universal_by_control",
    "fdr_control",
    "learned",
    "learned_by_control",
    "controls",
)


@pytest.mark.slow
@pytest.mark.parametrize("others", [("b.pt",), ("b.pt", "b.pt")], ids=["two", "several"])
def test_results_from_before_there_were_controls(
    others: tuple[str, ...], paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = paths / "out"
    assert run("correlate", "a.pt", *others, "--out", out, "--quiet") == 0
    now = load(out)
    summary = json.loads((out / "summary.json").read_text())
    for name in SINCE:
        del summary[name]
    for row in summary["layers"]:
        for name in ("universal_by_chance", "universal_by_control", "learned"):
            del row[name]
    for row in summary.get("by_model", ()):
        for name in ("universal_partners", "universal_mutual", "universal_by_control", "learned"):
            del row[name]
    (out / "summary.json").write_text(json.dumps(summary))
    assert not set(NAMES) & set(rows_of(out)[0])
    before = load(out)
    assert before.learned is before.excess_control is None
    assert [column.name for column in columns_of("neurons", before.having)] == list(now.columns())
    assert {**summary, **before.summary} == before.summary
    assert before.summary.keys() == now.summary.keys()
    assert all(before.summary[name] is None for name in SINCE)
    (out / "report.html").unlink()
    capsys.readouterr()
    assert run("report", out) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "universal (excess above 0.5). Not compared with untrained networks" in text
    assert "layer live dead universal chance mean r" in text
    assert "How it was computed" in (out / "report.html").read_text()
    assert json.loads((out / "summary.json").read_text()) == summary  # as it was


def test_controls_may_hold_the_first_tokens_alone(
    paths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = 150
    for name in ("a0.pt", "a1.pt", "b0.pt", "b1.pt"):
        torch.save(cut(torch.load(name), few), name)
    assert run("correlate", "a.pt", "b.pt", *BOTH) == 2
    assert f"has {few} tokens, that of a.pt has {TOKENS}; run the control on the same" in (
        error_line(capsys)
    )
    found = summary_of(capsys, "a.pt", "b.pt", *BOTH, "--control-tokens", few)
    assert (found["tokens"], found["controls"]["tokens"]) == (TOKENS, few)
