"""Models that learned nothing: controls of trained models, and models before their training."""

from __future__ import annotations

import dataclasses
import math

from univfast.checks import as_seed
from univfast.controls import PILOT_TOKENS, find_sites, initialise, match_rates
from univfast.errors import InputError
from univfast.experiment.data import Half, load_corpus
from univfast.experiment.model import ModelConfig
from univfast.experiment.model_files import TrainedModel
from univfast.experiment.sites import test_tokens
from univfast.experiment.training import TrainingOptions, initial_model
from univfast.machine.torch_state import in_plain_state
from univfast.native.place import numbers

__all__ = ["control_of", "untrained"]

# What is taken off what goes into each ReLU of a model before its training: in standard deviations
# of it, about; so that neurons are silent on most tokens, as those of trained models are.
_SILENCE = 1.0


@in_plain_state
def untrained(
    config: ModelConfig, data: str, seed: int, half: Half, options: TrainingOptions
) -> TrainedModel:
    """A model as `train` begins with it, but that its neurons are active on few tokens.

    Args:
        config: the sizes of the model.
        data: the corpus, as `load_corpus` takes it.
        seed: of the weights.
        half: the half of the training text that it would read.
        options: of the training; here, how large its test set is.

    Raises:
        InputError: the corpus cannot be used.
    """
    load_corpus(data, config.sequence)
    model = initial_model(config, as_seed(seed))
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name in state:
        if name.endswith("up.bias"):
            state[name] -= _SILENCE
    return TrainedModel(config, data, seed, half, 0, math.nan, state, options.test_samples)


@in_plain_state
def control_of(
    trained: TrainedModel, seed: int = 0, match_rate: bool = True, side: str = ""
) -> TrainedModel:
    """A control of a trained model: it took no steps, and has no loss.

    Its weights follow from the seed and the trained weights, and are no model's before training.
    With ``match_rate``, its neurons are active on as many tokens of the test set as the trained
    ones, of 16,384 at most that are spread evenly over it: the shifts are added to the biases of
    the MLPs' first layers.

    Args:
        trained: the model.
        seed: of the control.
        match_rate: whether to match rates.
        side: another text, another network, of one model and seed.

    Raises:
        InputError: the model is a control itself, or the test text cannot be used.
        TypeError: ``seed`` is no integer.
    """
    if trained.control is not None:
        raise InputError("model: is a control itself; give the trained model")
    model = trained.model()
    control = initialise(model, seed, side)
    state = {name: value.detach().clone() for name, value in control.state_dict().items()}
    if match_rate:
        tokens = test_tokens(trained)
        # Spread evenly, as the test set is in the order of the text.
        samples = min(len(tokens), -(-PILOT_TOKENS // trained.config.sequence))
        tokens = tokens[numbers(samples) * len(tokens) // samples]
        sites = find_sites(control, "blocks.*.mlp.relu", tokens[:1])
        shifts = match_rates(model, control, sites, [(tokens, None)])
        for place, shift in shifts.items():
            state[place.removesuffix("relu:input") + "up.bias"] += shift
    return dataclasses.replace(
        trained, steps=0, loss=math.nan, state=state, control=int(seed), match_rate=match_rate
    )
