"""Controls of trained models: rates, files, and what they are not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from support.tiny_models import BRIEF, SMALL, WEIGHT, same_state
from univfast.errors import InputError
from univfast.experiment import (
    TrainedModel,
    capture_mlp,
    control_of,
    from_dict,
    load_model,
    save_model,
    sites,
    train,
)
from univfast.experiment.training import TrainingOptions


@pytest.fixture(scope="module")
def sparse() -> TrainedModel:
    """As if trained: some neurons fire seldom, one never."""
    trained = train(SMALL, "docs", 1, "first", BRIEF)
    state = {name: value.clone() for name, value in trained.state.items()}
    for name in state:
        if name.endswith("up.bias"):
            state[name] -= torch.linspace(0, 1, len(state[name]))
            state[name][0] = -100
    return dataclasses.replace(trained, state=state)


def test_rates_are_the_trained_ones(sparse: TrainedModel) -> None:
    control, plain = control_of(sparse, 0), control_of(sparse, 0, match_rate=False)
    layers = [capture_mlp(model, "post") for model in (sparse, control, plain)]
    for name in layers[0]:
        count, matched, drawn = ((x[name] > 0).flatten(0, 1).sum(0) for x in layers)
        # Windows that begin alike have equal values, which go together.
        assert (count - matched).abs().float().mean() < 1
        assert (count - drawn).abs().float().mean() > 50
        assert matched[0] == 0
        assert count.max() > 100
    assert control.state.keys() == sparse.state.keys()
    other = [name for name in control.state if not name.endswith("up.bias")]
    assert all(torch.equal(control.state[name], plain.state[name]) for name in other)


def test_a_control_has_the_weights_of_no_other_model(sparse: TrainedModel) -> None:
    still = TrainingOptions(steps=1, batch_size=1, samples=1, test_samples=70, learning_rate=0)
    start = train(SMALL, "docs", 1, "first", still)  # as it was drawn
    models = [start, control_of(start, 1, False), control_of(sparse, 1, False)]
    models += [control_of(sparse, 2, False), control_of(sparse, 1, False, side="1")]
    weights = [model.state[WEIGHT] for model in models]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    assert same_state(control_of(sparse, 2), control_of(sparse, 2))


def test_it_says_what_it_is_in_its_file(sparse: TrainedModel, tmp_path: Path) -> None:
    for match_rate in (True, False):
        control = control_of(sparse, 7, match_rate)
        save_model(tmp_path / "c.ckpt", control)
        back = load_model(tmp_path / "c.ckpt")
        assert same_state(control, back)
        assert (back.control, back.match_rate, back.steps) == (7, match_rate, 0)
        assert math.isnan(back.loss)
        assert sites.test_set_name(back) == sites.test_set_name(sparse)
    with pytest.raises(InputError, match="is a control itself"):
        control_of(back, 0)


def test_files_of_trained_models_are_as_they_were(sparse: TrainedModel, tmp_path: Path) -> None:
    save_model(tmp_path / "a.ckpt", sparse)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert not {"control", "match_rate"} & content.keys()
    assert from_dict(content, "a").control is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": -1}, "steps: got -1, expected at least 0"),
        ({"control": "0"}, "seed: expected an integer, got str"),
        ({"control": -1}, "seed: got -1"),
        ({"match_rate": 1}, "match_rate must be a bool, not int"),
    ],
)
def test_damaged_controls_are_named(
    sparse: TrainedModel, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    save_model(tmp_path / "c.ckpt", control_of(sparse, 0))
    content = torch.load(tmp_path / "c.ckpt", weights_only=True)
    with pytest.raises(InputError, match=rf"^c: is a damaged model file \({reason}[^\n]*; write"):
        from_dict({**content, **changes}, "c")
