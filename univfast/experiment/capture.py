"""Capture of the MLP activations on the test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from univfast.checks import check_choice
from univfast.experiment.checkpoints import Checkpoint
from univfast.experiment.data import load_corpus
from univfast.experiment.model import TinyTransformer

__all__ = ["SITES", "Site", "capture_mlp", "record_mlp", "test_set_name"]

Site = Literal["pre", "post"]
SITES: tuple[Site, ...] = ("pre", "post")

# Samples of a forward pass: logits and hidden values of the default model stay within a few MiB.
_BATCH = 50


def capture_mlp(checkpoint: Checkpoint, site: Site) -> dict[str, Tensor]:
    """The hidden values of every MLP on the checkpoint's test set.

    Args:
        checkpoint: the model.
        site: ``"pre"``, right after the first linear layer, or ``"post"``, after the ReLU.

    Returns:
        ``"mlp.0"``, ``"mlp.1"``, ...: float32 ``[samples, sequence, d_mlp]`` each.

    Raises:
        InputError: ``site`` is unknown, or the test text cannot be used.
    """
    check_choice("site", site, SITES)
    corpus = load_corpus(checkpoint.data, checkpoint.config.sequence)
    return record_mlp(checkpoint.model(), corpus.test(checkpoint.test_samples), site)


def test_set_name(checkpoint: Checkpoint) -> str:
    """The test set in words; activations can be compared where these are equal.

    Raises:
        InputError: the test text cannot be used.
    """
    sequence = checkpoint.config.sequence
    name = load_corpus(checkpoint.data, sequence).name
    return f"{name}, {checkpoint.test_samples} samples of {sequence} tokens"


def record_mlp(model: TinyTransformer, tokens: Tensor, site: Site) -> dict[str, Tensor]:
    """The hidden values of every MLP of ``model`` on ``tokens``, int64 ``[samples, sequence]``.

    Returns what `capture_mlp` does, and leaves no hook behind. No module of the model depends on
    its training mode.
    """
    layer = "up" if site == "pre" else "relu"
    modules = {
        f"mlp.{i}": model.get_submodule(f"blocks.{i}.mlp.{layer}") for i in range(len(model.blocks))
    }
    hidden = {name: torch.empty(*tokens.shape, model.config.d_mlp) for name in modules}
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: caught.update({name: output})

    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            for start in range(0, len(tokens), _BATCH):
                model(tokens[start : start + _BATCH])
                for name, values in caught.items():
                    hidden[name][start : start + _BATCH] = values
    finally:
        for handle in handles:
            handle.remove()
    return hidden
