"""Training by next-token prediction."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from univfast.checks import as_integer, as_number, as_seed
from univfast.errors import InputError
from univfast.experiment.data import TEST_SAMPLES, Half, generator, load_corpus, shuffled
from univfast.experiment.model import ModelConfig, TinyTransformer
from univfast.experiment.model_files import TrainedModel
from univfast.machine.torch_state import exact_products, in_plain_state

__all__ = ["Progress", "TrainingOptions", "initial_model", "train"]

# Held while torch's random state, which threads share, is another than the caller's.
_DRAWING = threading.Lock()

Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, the steps in all and the loss of the batch."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: samples of a step.
        learning_rate: the highest; it rises over the first twelfth of the steps, then falls as a
            cosine.
        weight_decay: of AdamW.
        sparsity: weight of a penalty on what the MLPs add to the residual stream (the L1 norm of
            the hidden values, each times the norm of its output weights), beside the cross entropy.
            It makes neurons active on fewer tokens, so that models of different seeds come to
            share some; 0 trains on the cross entropy alone.
        samples: different samples of the training text the model sees, over and over.
        test_samples: size of the held-out test set that activations are captured on.

    Raises:
        TypeError: a value is no number, or no int where one is needed.
        InputError: a value is out of range.
    """

    # Chosen on models of seeds 11 to 14, not on the demo's 1 and 2, within what two cores train in
    # a minute: of the settings tried, on one of their pairs each, what two such models share was
    # clearest against controls of the same rates. Fewer steps, less sparsity, another rate and more
    # decay left fewer neurons that both learned; more sparsity left more of them dead.
    steps: int = 1_200
    batch_size: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    sparsity: float = 8e-3
    samples: int = 10_000
    test_samples: int = TEST_SAMPLES

    def __post_init__(self) -> None:
        as_integer("steps", self.steps, 1, 1_000_000)
        as_integer("batch_size", self.batch_size, 1, 10_000)
        as_number("learning_rate", self.learning_rate, 0, 10)
        as_number("weight_decay", self.weight_decay, 0, 10)
        as_number("sparsity", self.sparsity, 0, 10)
        as_integer("samples", self.samples, 1, 1_000_000)
        as_integer("test_samples", self.test_samples, 1, 1_000_000)


@in_plain_state
def train(
    config: ModelConfig,
    data: str,
    seed: int,
    half: Half,
    options: TrainingOptions,
    progress: Progress | None = None,
) -> TrainedModel:
    """Train a model on the CPU.

    The same arguments give the same model on the same machine with the same number of torch
    threads. torch's global random state is left as it was.

    Args:
        config: the sizes of the model.
        data: the corpus, as `load_corpus` takes it.
        seed: of the initial weights, the samples and their order.
        half: the half of the training text to read.
        options: how to train.
        progress: called after each step.

    Raises:
        InputError: the corpus cannot be used, or the loss is no longer finite.
    """
    seed = as_seed(seed)
    corpus = load_corpus(data, config.sequence)
    corpus.test(options.test_samples)  # a text too short to test on is refused before the work
    samples = corpus.training(half, options.samples, seed)
    model = initial_model(config, seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    drawn = options.steps * options.batch_size
    order = shuffled(len(samples), drawn, generator("order", seed)).view(options.steps, -1)
    hidden = _watch_hidden(model)
    loss = math.nan
    for step, batch in enumerate(order, start=1):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, options.steps)
        with _learning():
            loss = _step(model, optimizer, samples[batch], hidden, options.sparsity)
        if not math.isfinite(loss):
            raise InputError(
                f"learning_rate: {options.learning_rate} is too large, the loss is {loss} after "
                f"{step} steps; use a smaller one"
            )
        if progress is not None:
            progress(step, options.steps, loss)
    return TrainedModel(
        config=config,
        data=corpus.source,
        seed=seed,
        half=half,
        steps=options.steps,
        loss=loss,
        state={name: value.detach().clone() for name, value in model.state_dict().items()},
        test_samples=options.test_samples,
    )


@contextmanager
def _learning() -> Iterator[None]:
    """With gradients; a loss that is not finite is refused below, and not where it comes about."""
    anomalies = torch.autograd.set_detect_anomaly(False)
    with anomalies, torch.enable_grad(), exact_products():
        yield


@in_plain_state
def initial_model(config: ModelConfig, seed: int) -> TinyTransformer:
    """The model that training begins with; torch's random state is left as it was."""
    # torch.manual_seed would also reseed the CUDA generators, which fork_rng leaves alone here.
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator("weights", seed).initial_seed())
        return TinyTransformer(config).train()


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate at a step, counted from 1."""
    warm_up = max(1, steps // 12)
    return min(step / warm_up, (1 + math.cos(math.pi * (step - 1) / steps)) / 2)


def _watch_hidden(model: TinyTransformer) -> dict[int, Tensor]:
    """A dict that has, after each forward pass, every block's hidden values after the ReLU."""
    hidden: dict[int, Tensor] = {}

    def catch(i: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: hidden.update({i: output})

    for i in range(len(model.blocks)):
        model.get_submodule(f"blocks.{i}.mlp.relu").register_forward_hook(catch(i))
    return hidden


def _step(
    model: TinyTransformer,
    optimizer: torch.optim.Optimizer,
    samples: Tensor,
    hidden: dict[int, Tensor],
    sparsity: float,
) -> float:
    """One optimiser step on samples ``[batch, sequence + 1]``; returns the cross entropy before."""
    logits = model(samples[:, :-1])
    loss = cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten())
    penalty = torch.zeros((), dtype=torch.float32, device="cpu")
    for i, values in hidden.items():
        # The norm of a neuron's output weights: the penalty on its values alone could be escaped by
        # making these small and the weights large.
        weights = model.get_parameter(f"blocks.{i}.mlp.down.weight").norm(dim=0)
        penalty = penalty + values.mean(dim=(0, 1)) @ weights
    optimizer.zero_grad()
    (loss + sparsity * penalty).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()
