"""Fewer tokens than neurons, or a single neuron: a warning in the summary, the verdict, Python."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import univfast as uf
from support.command import run
from univfast.cli.failures import with_options
from univfast.errors import UnivfastWarning
from univfast.report.saved import load
from univfast.report.verdict import verdict

WIDE = (
    "a: layer 'activations' has 64 tokens for 500 neurons, fewer than neurons; if rows are neurons"
    " and columns tokens, give axis=0"
)


def test_fewer_tokens_than_neurons_is_said() -> None:
    x = torch.randn(64, 500)
    with pytest.warns(UnivfastWarning) as caught:
        result = uf.correlate(x, x, draws=2)
    assert [str(one.message) for one in caught] == [WIDE, "b" + WIDE[1:]]
    assert caught[0].filename == __file__
    assert result.summary["warnings"] == [WIDE, "b" + WIDE[1:]]
    assert f"Warning: {WIDE}." in verdict(result.summary)


def test_with_the_axis_there_is_nothing_to_say() -> None:
    x = torch.randn(64, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = uf.correlate(x, x, axis=0, draws=2)
    assert (result.summary["tokens"], result.summary["neurons"]) == (500, 64)
    assert result.summary["warnings"] == []
    assert "Warning" not in verdict(result.summary)


def test_an_axis_that_was_given_is_not_advised() -> None:
    said = "; if neurons are on another axis than axis=0, give that"
    for x in (torch.randn(64, 20), torch.randn(1, 64)):
        for warning in uf.correlate(x, x, axis=0, draws=2).summary["warnings"]:
            assert warning.endswith(said)
            assert with_options(warning).endswith("another axis than --axis 0, give that")
    model = nn.Sequential(nn.Linear(4, 30)).eval()
    batches = [torch.randn(10, 4)]
    (wide, _) = uf.correlate_models(model, model, batches, hooks="0", axis=1, draws=2).summary[
        "warnings"
    ]
    assert wide.endswith(said.replace("axis=0", "axis=1"))


def test_masked_tokens_are_none() -> None:
    x = torch.randn(60, 20)
    with pytest.warns(UnivfastWarning, match="has 19 tokens for 20 neurons"):
        uf.correlate(x, x, mask=torch.arange(60) < 19, draws=2)


def test_a_single_neuron_is_said() -> None:
    layers = {"one": torch.randn(60, 1), "more": torch.randn(60, 3), "two": torch.randn(60, 1)}
    with pytest.warns(UnivfastWarning, match="a: layer 'one' and 1 more have a single neuron, and"):
        uf.correlate(layers, layers, draws=2)


def test_live_models_say_it_too() -> None:
    model = nn.Sequential(nn.Linear(4, 30)).eval()
    with pytest.warns(UnivfastWarning, match="layer '0' has 10 tokens for 30 neurons") as caught:
        result = uf.correlate_models(model, model, [torch.randn(10, 4)], hooks="0", draws=2)
    assert caught[0].filename == __file__
    assert len(result.summary["warnings"]) == 2


def test_the_command_says_it_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.randn(64, 500), path)
    assert run("correlate", path, path, "--draws", 2, "--json") == 0
    out, err = capfd.readouterr()
    assert f"Warning: {path}: layer 'activations' has 64 tokens for 500 neurons" in err
    assert err.splitlines()[0].endswith("give --axis 0")
    said = json.loads(out)["warnings"]
    assert len(said) == 2
    assert run("correlate", path, path, "--draws", 2, "--axis", 0, "--json") == 0
    out, err = capfd.readouterr()
    assert "Warning" not in err
    assert (json.loads(out)["tokens"], json.loads(out)["warnings"]) == (500, [])


@pytest.mark.slow
def test_a_saved_result_keeps_it(tmp_path: Path) -> None:
    x = torch.randn(64, 70)
    with pytest.warns(UnivfastWarning):
        result = uf.correlate(x, x, draws=2)
    result.save(tmp_path)
    assert load(tmp_path).summary["warnings"] == result.summary["warnings"]
    assert "64 tokens for 70 neurons" in (tmp_path / "report.html").read_text()


def test_a_threshold_that_no_excess_reaches() -> None:
    a = torch.randn(100, 8)
    for threshold, said in ((2.5, "no neuron is"), (-1.5, "nearly every live neuron is")):
        with pytest.warns(UnivfastWarning, match=f"^threshold: got {threshold}, .*: {said}"):
            result = uf.correlate(a, a + torch.randn(100, 8), threshold=threshold)
        assert len(result.summary["warnings"]) == 1
    assert uf.correlate(a, a, threshold=2).summary["warnings"] == []


def test_rotations_of_sparse_features_say_little() -> None:
    a, b = (torch.rand(64, 5, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    a, b = (torch.where(x > 0.5, x, 0.0).to_sparse() for x in (a, b))

    def warned(*models: object, **options: Any) -> list[str]:
        found = uf.correlate(*models, draws=2, **options)
        said = [found, found.reverse] if found.reverse is not None else [found]
        return [x.partition(":")[0] for one in said for x in one.summary["warnings"]]

    assert warned(a, b) == ["b"]
    assert warned(a.to_dense(), b, reverse=True) == ["b"]
    assert warned(a, b, reverse=True) == ["b", "a"]
    assert warned(a, [b, a.to_dense()]) == ["b[0]"]
    assert warned(a, b.to_dense()) == []
    assert warned(a, b, rotation="none") == []
    assert warned(a, b, match="index") == []
    (said,) = uf.correlate(a, b, draws=2).summary["warnings"]
    assert said == (
        "b: layer 'activations' is of sparse features, of which rotations mix those that are never"
        " active together: the baseline, and what it gives by chance, say little; give"
        " rotation='none', and controls_b= for a null"
    )
    assert with_options(said).endswith("give --rotation none, and --controls-b for a null")
    (said,) = uf.correlate(a, b, draws=2, controls_b=[torch.rand(64, 5).sub(0.5).relu()]).summary[
        "warnings"
    ]
    assert said.endswith("say little; give rotation='none', for controls are their null")
