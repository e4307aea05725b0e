"""`univfast correlate --controls K`: what `univfast control` writes, made on the way."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.command import SMALL_MODEL, error_line, run
from support.controlled import COLUMNS
from support.language_models import FILTERS, LLAMA_HOOKS, Directories, on_text

LOW = ("--threshold", 0.2, "--control-margin", 0.05, "--draws", 2)
NUMBERS = ("correlation", "baseline", "excess", *COLUMNS)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "neurons.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "layers", "text", "models"):
        summary.pop(name, None)
    del summary["controls"]["a"], summary["controls"]["b"]
    return summary


def assert_same(made: Path, given: Path) -> None:
    one, other = rows_of(made), rows_of(given)
    for name in NUMBERS:
        x, y = ([float(row[name]) for row in rows] for rows in (one, other))
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6, err_msg=name)
    for name in ("learned", "universal", "match_neuron"):
        assert [row[name] for row in one] == [row[name] for row in other]
    found, expected = summary_of(made), summary_of(given)
    for name in ("flagged", "flagged_a", "flagged_b", "tokens", "active_in_controls"):
        assert found["controls"].get(name) == expected["controls"].get(name), name
    for name in ("universal", "universal_by_control", "learned", "tokens", "neurons"):
        assert found[name] == expected[name], name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two model files."""
    folder = tmp_path_factory.mktemp("trained")
    paths = [folder / "a.ckpt", folder / "b.ckpt"]
    for seed, path in enumerate(paths):
        assert run("train", path, "--seed", seed, *SMALL_MODEL) == 0
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("match", ["best", "index", "one-to-one"])
@pytest.mark.parametrize("rate", [(), ("--no-match-rate",)], ids=["matched", "plain"])
def test_of_model_files(
    rate: tuple[str, ...], match: str, trained: list[Path], tmp_path: Path
) -> None:
    given: list[object] = []
    for path, side in zip(trained, "ab", strict=True):
        given.append(f"--controls-{side}")
        for seed in range(2):
            given.append(tmp_path / f"{side}{seed}.ckpt")
            assert run("control", path, "--seed", seed, "--out", given[-1], *rate, "--quiet") == 0
    command = ("correlate", *trained, *LOW, "--match", match, "--quiet", "--out")
    assert run(*command, tmp_path / "made", "--controls", 2, *rate) == 0
    assert run(*command, tmp_path / "given", *given) == 0
    assert_same(tmp_path / "made", tmp_path / "given")
    made = json.loads((tmp_path / "made" / "summary.json").read_text())["controls"]
    assert made["a"] == [f"{trained[0]} (control {seed})" for seed in range(2)]
    assert made["b"] == [[f"{trained[1]} (control {seed})"] for seed in range(2)]


@pytest.mark.slow
def test_none_are_made_of_nothing(trained: list[Path], tmp_path: Path) -> None:
    for options, name in (((), "plain"), (("--controls", 0), "none")):
        assert run("correlate", *trained, *options, "--quiet", "--out", tmp_path / name) == 0
    plain, none = ((tmp_path / x / "neurons.csv").read_bytes() for x in ("plain", "none"))
    assert plain == none
    assert json.loads((tmp_path / "none" / "summary.json").read_text())["controls"] is None


@pytest.mark.slow
def test_one_model_has_two_controls_of_a_seed(trained: list[Path], tmp_path: Path) -> None:
    """On both sides: else a control on one side would be that on the other."""
    out = tmp_path / "out"
    options = ("--controls", 2, "--quiet", "--out", out)
    assert run("correlate", trained[0], trained[0], "--match", "index", *options) == 0
    flagged = json.loads((out / "summary.json").read_text())["controls"]["flagged_both"]
    assert max(flagged) < 24


@pytest.mark.slow
@pytest.mark.parametrize("match", ["best", "index"])
def test_of_directories(
    match: str, directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = (directories.gpt2, directories.half)
    text = on_text(directories, *FILTERS)
    given: list[object] = []
    for path, side in zip(models, "ab", strict=True):
        given.append(f"--controls-{side}")
        for seed in range(2):
            given.append(tmp_path / f"{side}{seed}")
            arguments = ("--seed", seed, *text, "--out", given[-1], "--quiet")
            assert run("control", path, *arguments) == 0
    command = ("correlate", *models, *text, *LOW, "--match", match, "--quiet", "--out")
    assert run(*command, tmp_path / "made", "--controls", 2, "--details") == 0
    assert run(*command, tmp_path / "given", *given) == 0
    assert_same(tmp_path / "made", tmp_path / "given")
    # Live models know their tokens.
    assert {row["token_r2"] for row in rows_of(tmp_path / "made")} != {"nan"}
    details = json.loads((tmp_path / "made" / "summary.json").read_text())["details"]
    assert details["follow_token"] is not None
    assert capfd.readouterr().out == ""


# ---- what is refused -----------------------------------------------------------------------------


def test_files_of_activations_have_no_controls(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("correlate", *pair, "--controls", 2) == 2
    line = error_line(capsys)
    assert f"{pair[0]}: is no model file of 'univfast train' that can be read, of which" in line
    assert "--controls-a and --controls-b" in line


def test_controls_are_made_or_given(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("--controls-a", "--controls-b"):
        assert run("correlate", *pair, "--controls", 2, side, pair[0]) == 2
        assert "--controls makes controls, --controls-a and --controls-b name some;" in (
            error_line(capsys)
        )
    assert run("correlate", *pair, "--controls", -1) == 2
    assert "--controls" in error_line(capsys)


def test_layers_whose_rates_cannot_be_matched(
    directories: Directories, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = on_text(directories, *FILTERS, hooks=LLAMA_HOOKS)
    command = ("correlate", directories.llama, directories.llama, *text, "--controls", 1)
    assert run(*command) == 2
    line = error_line(capfd)
    assert "rates cannot be matched at layer 'model.layers.0.mlp.down_proj:input'" in line
    assert run(*command, "--no-match-rate", "--json") == 0
    assert len(json.loads(capfd.readouterr().out)["controls"]["b"]) == 1


@pytest.mark.slow
def test_a_control_has_no_controls(
    trained: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = tmp_path / "c.ckpt"
    assert run("control", trained[0], "--out", control, "--quiet") == 0
    capsys.readouterr()
    assert run("correlate", control, trained[1], "--controls", 1) == 2
    assert "is a control itself" in error_line(capsys)
    torch.save({"x": torch.randn(5, 3)}, tmp_path / "x.pt")
    assert run("correlate", trained[0], tmp_path / "x.pt", "--controls", 1) == 2
    assert "x.pt: is no model" in error_line(capsys)
