"""Training: it learns, it repeats, and the seed alone decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from support.tiny_models import BRIEF, SMALL, WEIGHT, same_state
from univfast import experiment
from univfast.errors import InputError
from univfast.experiment import (
    HALVES,
    ModelConfig,
    TrainedModel,
    TrainingOptions,
    capture_mlp,
    default_half,
    train,
    train_together,
)


@pytest.mark.slow
def test_the_loss_falls() -> None:
    losses: list[float] = []
    options = TrainingOptions(steps=40, batch_size=16)
    trained = train(
        ModelConfig(), "docs", 1, "first", options, lambda step, steps, loss: losses.append(loss)
    )
    assert len(losses) == 40
    assert losses[0] > 4.5, "about log(128) before anything is learnt"
    assert losses[-1] < 3.3
    assert trained.loss == losses[-1]


@pytest.mark.slow
def test_random_tokens_cannot_be_predicted() -> None:
    """A model that saw its targets would do better than log(128), which is 4.85."""
    options = TrainingOptions(steps=40, batch_size=16)
    assert train(ModelConfig(), "random", 1, "first", options).loss > 4.8


def test_the_seed_alone_sets_the_initial_weights() -> None:
    untrained = dataclasses.replace(BRIEF, learning_rate=0)
    one, other_half, other_seed = (
        train(SMALL, "docs", seed, half, untrained)
        for seed, half in ((1, HALVES[0]), (1, HALVES[1]), (2, HALVES[0]))
    )
    assert same_state(one, other_half)
    assert not torch.equal(one.state[WEIGHT], other_seed.state[WEIGHT])


def test_a_seed_gives_one_model_file(trained: TrainedModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = train(SMALL, "docs", 1, "first", BRIEF)
    assert same_state(trained, again)
    assert again.loss == trained.loss
    capture_mlp(again, "pre")
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was moved"


@pytest.mark.parametrize(
    ("data", "seed", "half"),
    [
        ("docs", 2, "first"),
        ("docs", 1, "second"),
        ("random", 1, "first"),
    ],
)
def test_seed_half_and_data_change_the_model(
    trained: TrainedModel, data: str, seed: int, half: experiment.Half
) -> None:
    assert not same_state(trained, train(SMALL, data, seed, half, BRIEF))


def test_models_that_are_trained_together_are_those_of_each_alone() -> None:
    threads = torch.get_num_threads()
    steps: list[int] = []
    state = torch.get_rng_state()
    together = train_together(SMALL, "docs", (1, 2, 4), BRIEF, lambda done, *_: steps.append(done))
    assert steps == list(range(1, 3 * BRIEF.steps + 1))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was moved"
    torch.set_num_threads(1)
    try:
        for model, seed in zip(together, (1, 2, 4), strict=True):
            alone = train(SMALL, "docs", seed, default_half(seed), BRIEF)
            assert same_state(model, alone)
            assert (model.loss, model.half, model.seed) == (alone.loss, alone.half, seed)
    finally:
        torch.set_num_threads(threads)


def test_all_stop_when_one_fails_or_the_user_asks_for_it() -> None:
    long = dataclasses.replace(BRIEF, steps=100_000)
    seen = []

    def stop(done: int, total: int, loss: float) -> None:
        seen.append(total)
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_together(SMALL, "docs", (1, 2), long, stop)
    assert set(seen) == {200_000}
    wild = dataclasses.replace(long, learning_rate=10.0, weight_decay=10.0)
    with pytest.raises(InputError, match=r"^learning_rate: 10\.0 is too large"):
        train_together(SMALL, "docs", (1, 2), wild)


def test_halves_follow_the_seed() -> None:
    assert [default_half(seed) for seed in range(4)] == ["second", "first", "second", "first"]


def test_a_diverging_loss_is_reported() -> None:
    options = dataclasses.replace(BRIEF, steps=50, learning_rate=10.0, weight_decay=10.0)
    with pytest.raises(InputError, match=r"^learning_rate: 10\.0 is too large, the loss is"):
        train(SMALL, "docs", 1, "first", options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 0}, InputError, "^steps: got 0, expected at least 1$"),
        ({"batch_size": 0}, InputError, "^batch_size: got 0, expected at least"),
        ({"samples": 0}, InputError, "^samples: got 0, expected at least"),
        ({"test_samples": 0}, InputError, "^test_samples: got 0, expected at least"),
        ({"learning_rate": float("nan")}, InputError, "^learning_rate: got nan, expected a finite"),
        ({"weight_decay": -1}, InputError, "^weight_decay: got -1.0, expected at least 0$"),
        ({"learning_rate": "1"}, TypeError, "^learning_rate: expected a number, got str"),
    ],
)
def test_bad_options_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TrainingOptions(**change)


@pytest.mark.parametrize(
    ("seed", "half", "message"),
    [
        (-1, "first", "^seed: got -1, expected at least"),
        (1, "third", "^half: got 'third', expected first or second$"),
    ],
)
def test_a_bad_seed_or_half_is_named(seed: int, half: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(SMALL, "docs", seed, half, BRIEF)
