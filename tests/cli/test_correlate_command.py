"""`univfast correlate` and `univfast report`: what they print and write."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import univfast as uf
from support.command import run
from support.made_up import COMMANDED, FILES, HEADER, PICTURES


def test_correlate_prints_a_table_and_a_verdict(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    text = " ".join(captured.out.split())
    assert "1,000 tokens match best hadamard x 5" in text
    assert "8 of 192 live neurons universal (4.2%): 8 partners, 8 mutual by rotation 0 in" in text
    assert "layer live universal chance mean r baseline excess mostly matched in mlp.0 96 8" in text
    assert "8 neurons of A are universal (excess above 0.5): 8 distinct partners in B, 8" in text
    assert "rotations of B, which give 0 in 5 draws (95% limit 0.6), say that axes agree" in text
    assert "no evidence" not in text


def test_correlate_writes_the_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "result"
    by_index = ("--match", "index", "--draws", 3, "--seed", 7)
    assert run("correlate", *pair, *by_index, "--out", out, "--quiet") == 0
    assert {path.name for path in out.iterdir()} == COMMANDED
    typed = f"univfast correlate {pair[0]} {pair[1]}"
    assert (out / "command.txt").read_text().startswith(typed)
    assert typed in (out / "report.html").read_text()
    text = (out / "neurons.csv").read_text()
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["neuron"] for row in rows if row["universal"] == "true"] == [
        str(i) for i in range(8)
    ]
    assert {row["layer"] for row in rows} == {"mlp.0", "mlp.1"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"] == [str(path) for path in pair]
    assert summary["rotation"] == {"kind": "hadamard", "draws": 3, "seed": 7}
    assert summary["tokens"] == 1000
    assert summary["neurons"] == 192
    assert summary["universal"] == 8
    assert summary["universal_by_chance"] == 0.0
    assert {"univfast", "match", "threshold", "dead", "fdr", "device", "seconds"} <= set(summary)


def test_a_screen_says_what_may_be_missed(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "result"
    assert run("correlate", *pair, "--screen", 400, "--out", out) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "8 neurons of A are universal" in text
    assert "Candidates were searched on a sample of 400 tokens" in text
    assert "r of these is over all tokens. 192 neurons were searched whole" in text
    assert "Of those with r above 0.5, 8 of 8 have it: at most 31% of such matches" in text
    screen = json.loads((out / "summary.json").read_text())["screen"]
    assert screen["tokens"] == 400
    even = 400 - screen["by_activity"]
    assert f"Baselines are of {even} tokens of the sample, where r by chance is higher" in text
    assert run("correlate", *pair, "--screen", 400, "--rotation", "none") == 0
    assert "Baselines are of" not in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "screened on" in page
    assert run("report", out) == 0
    assert json.loads((out / "summary.json").read_text())["screen"] == screen
    again = " ".join(capsys.readouterr().out.split())
    assert "Candidates were searched on a sample of 400 tokens" in again


def test_a_screen_that_cannot_be(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (("--screen", 400, "--match", "index"), "--screen: is for match 'best', not 'index'"),
        (("--screen", 10), "--screen: got 10, expected at least 64"),
        (("--screen", 400, "--top-k", 33), "give at most 32, or leave --screen out"),
        (("--screen", 400, "--memory-limit", 1e-3), "; raise --memory-limit, or choose layers"),
        (("--screen", 1001), None),
    ):
        assert run("correlate", *pair, *options) == (0 if message is None else 2)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert (message or "Warning: --screen: there are 1000 tokens, no more than a") in err


def test_a_screen_that_was_chosen_alone_is_named_as_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        torch.save(torch.randn(1100, 2600), path)
    out = tmp_path / "out"
    assert run("correlate", *paths, "--memory-limit", 0.25, "--draws", 2, "--out", out) == 0
    lines = capsys.readouterr().err.splitlines()
    (warning,) = [line for line in lines if "screened" in line]
    assert warning.startswith("Warning: --memory-limit: layer 'activations' of A with all of B")
    assert warning.endswith("; so pairs were screened on 1100 tokens, as --screen 1100 does")
    assert "screened on 1,100 tokens" in repr(uf.load(out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--control-tokens 500", "--control-tokens: is for controls; give --controls or"),
        ("--control-margin 0", "--control-margin: is for controls; give --controls or"),
        ("--no-match-rate", "--no-match-rate: is for controls; give --controls too"),
        ("--no-match-rate --controls-b x.pt", "--no-match-rate: is for controls; give --controls"),
        ("--draws 5 --rotation none", "--draws: is for rotations, not for --rotation none"),
        ("--examples 3", "--examples: is for details; ask for details too"),
        ("--around 3", "--around: is for details; ask for details too"),
        ("--checkpoint-every 3", "--checkpoint-every: is for a checkpoint; give --checkpoint too"),
        ("--width 9", "--width: is for sparse features, and none were given; leave it out"),
    ],
)
def test_options_that_would_say_nothing(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert run("correlate", *pair, *options.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_json_is_the_summary_and_quiet_is_silent(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, "--json", "--layers", "*.1") == 0
    summary = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in summary["layers"]] == ["mlp.1"]
    assert run("correlate", *pair, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_absent_numbers_are_null_in_json_and_nan_in_tables(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run("correlate", *pair, "--draws", 1, "--out", tmp_path / "o", "--quiet") == 0
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["universal_by_chance"] is None
    assert summary["fdr"] is None
    row = next(csv.DictReader((tmp_path / "o" / "neurons.csv").read_text().splitlines()))
    assert row["p_value"] == row["q_value"] == row["baseline_std"] == "nan"
    assert row["baseline"] != "nan"


def test_mask_file_leaves_tokens_out(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = torch.ones(50, 20, dtype=torch.bool)
    mask[:, 0] = False
    torch.save(mask, tmp_path / "mask.pt")
    assert run("correlate", *pair, "--mask", tmp_path / "mask.pt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 950


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 5])
def test_report_draws_a_saved_result_again(
    draws: int, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert run("correlate", *pair, "--out", out, "--quiet", "--draws", draws) == 0
    before = {name: (out / name).read_bytes() for name in FILES | {"layers.png"}}
    for name in PICTURES | {"layers.png"}:
        (out / name).unlink()
    assert run("report", out) == 0
    assert {name: (out / name).read_bytes() for name in before} == before
