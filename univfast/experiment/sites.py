"""Capture of activations on the test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from univfast.checks import check_choice
from univfast.experiment.data import Corpus, load_corpus
from univfast.experiment.model import TinyTransformer
from univfast.experiment.model_files import TrainedModel
from univfast.hooks import capture
from univfast.machine.torch_state import exact_products, in_plain_state

__all__ = [
    "SITES",
    "Site",
    "capture_layers",
    "capture_mlp",
    "record_mlp",
    "test_set_name",
    "test_tokens",
]

Site = Literal["pre", "post"]
SITES: tuple[Site, ...] = ("pre", "post")

# Samples of a forward pass: logits and hidden values of the default model stay within a few MiB.
_BATCH = 50


@in_plain_state
def capture_mlp(trained: TrainedModel, site: Site) -> dict[str, Tensor]:
    """The hidden values of every MLP on the model's test set.

    Args:
        trained: the model.
        site: ``"pre"``, right after the first linear layer, or ``"post"``, after the ReLU.

    Returns:
        ``"mlp.0"``, ``"mlp.1"``, ...: float32 ``[samples, sequence, d_mlp]`` each.

    Raises:
        InputError: ``site`` is unknown, or the test text cannot be used.
    """
    check_choice("site", site, SITES)
    return record_mlp(trained.model(), test_tokens(trained), site)


def test_set_name(trained: TrainedModel) -> str:
    """The test set in words; activations can be compared where these are equal.

    Raises:
        InputError: the test text cannot be used.
    """
    sequence = trained.config.sequence
    corpus = load_corpus(trained.data, sequence)
    return f"{corpus.name}, {_test_samples(trained, corpus)} samples of {sequence} tokens"


@in_plain_state
def test_tokens(trained: TrainedModel) -> Tensor:
    """The model's test set, int64 ``[samples, sequence]``.

    Raises:
        InputError: the test text cannot be used.
    """
    corpus = load_corpus(trained.data, trained.config.sequence)
    return corpus.test(_test_samples(trained, corpus))


def _test_samples(trained: TrainedModel, corpus: Corpus) -> int:
    # A text it was not trained on may hold fewer; so may the text of a model file that was written
    # when test samples overlapped.
    return min(trained.test_samples, corpus.most_test_samples)


@in_plain_state
def capture_layers(trained: TrainedModel, hooks: Sequence[str]) -> dict[str, Tensor]:
    """What any modules of the model give on the model's test set.

    Args:
        trained: the model.
        hooks: glob patterns of layers, as `univfast.hooks.capture` takes them.

    Returns:
        By the modules' names, as ``"blocks.0.mlp.relu"``: float32 ``[samples, sequence, neurons]``.

    Raises:
        InputError: no layers match, or the test text cannot be used.
    """
    return _record(trained.model(), test_tokens(trained), hooks)


@in_plain_state
def record_mlp(model: TinyTransformer, tokens: Tensor, site: Site) -> dict[str, Tensor]:
    """The hidden values of every MLP of ``model`` on ``tokens``, int64 ``[samples, sequence]``.

    Returns what `capture_mlp` does, and leaves no hook behind. No module of the model depends on
    its training mode.
    """
    layer = "up" if site == "pre" else "relu"
    names = {f"mlp.{i}": f"blocks.{i}.mlp.{layer}" for i in range(len(model.blocks))}
    recorded = _record(model, tokens, list(names.values()))
    return {short: recorded[name] for short, name in names.items()}


def _record(model: TinyTransformer, tokens: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
    recorded: dict[str, Tensor] = {}
    with exact_products(), capture(model, hooks) as captured:
        for start in range(0, len(tokens), _BATCH):
            captured.run(tokens[start : start + _BATCH])
            for name in captured.layers:
                values = captured.pop(name)
                if not start:
                    recorded[name] = torch.empty(
                        len(tokens), *values.shape[1:], dtype=torch.float32, device="cpu"
                    )
                recorded[name][start : start + _BATCH] = values
    return recorded
