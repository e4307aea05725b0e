"""Model files that carry their own configuration.

A file is a plain dict written by ``torch.save``: ``format``, ``version`` and the attributes of
`TrainedModel`, ``config`` as a dict of ints; those that mark a control only where it is one. It
loads with ``weights_only=True``, so no code in a file is ever run.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from univfast.checks import as_integer, as_seed, check_choice
from univfast.errors import InputError
from univfast.experiment.data import HALVES, Half
from univfast.experiment.model import ModelConfig, TinyTransformer
from univfast.inputs.model_paths import MODEL_FILE_FORMAT, is_model_file
from univfast.inputs.torch_files import load_plain
from univfast.machine.files import save_tensors
from univfast.machine.reading import open_file
from univfast.machine.torch_state import in_plain_state

__all__ = ["TrainedModel", "from_dict", "is_model_file", "load_model", "save_model"]

_VERSION = 1
_REMEDY = "write it again with `univfast train`"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model and how it came to be.

    Attributes:
        config: the sizes of the model.
        data: the corpus it was trained on, as `load_corpus` takes it.
        seed: of its initial weights, its samples and their order.
        half: the half of the training text it read.
        steps: optimiser steps taken; 0 before training, when there is no loss (NaN).
        loss: next-token cross entropy of the last training batch, in nats.
        state: ``state_dict`` of the `TinyTransformer`, float32.
        test_samples: size of the test set its activations are captured on; all test samples of
            a text that holds fewer.
        control: None of a trained model. Of a control, which took no steps and has no loss (NaN),
            its seed; ``seed`` and all else are those of the model that it is a control of.
        match_rate: of a control, whether its neurons are active as often as the trained ones.
    """

    config: ModelConfig
    data: str
    seed: int
    half: Half
    steps: int
    loss: float
    state: dict[str, Tensor]
    test_samples: int
    control: int | None = None
    match_rate: bool = False

    @in_plain_state
    def model(self) -> TinyTransformer:
        """The model, on the CPU, in evaluation mode."""
        # The weights are replaced; drawing them must not move the caller's random state.
        with torch.random.fork_rng(devices=[]):
            model = TinyTransformer(self.config)
        model.load_state_dict(self.state)
        return model.eval()


@in_plain_state
def save_model(path: str | os.PathLike[str], trained: TrainedModel) -> None:
    """Write a model file, in one step: a file already there is replaced or left as it was.

    Raises:
        InputError: the file cannot be written.
    """
    content = {field.name: getattr(trained, field.name) for field in fields(trained)}
    content["config"] = asdict(trained.config)
    if trained.control is None:  # a file as it always was
        del content["control"], content["match_rate"]
    save_tensors(path, {"format": MODEL_FILE_FORMAT, "version": _VERSION, **content})


@in_plain_state
def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a model file, with ``weights_only=True``.

    Raises:
        InputError: the file is missing, unreadable or no model file; names the file.
    """
    source = os.fspath(path)
    if not os.path.lexists(source):
        raise InputError(f"{source}: no such file; write it with `univfast train`")
    with open_file(source, "give a model file"):
        pass  # it is one that can be read
    try:
        content = load_plain(source)
    except InputError as error:
        raise InputError(
            f"{source}: is damaged, or not a file of plain tensors, "
            f"which alone can be loaded safely; {_REMEDY}"
        ) from error
    return from_dict(content, source)


def from_dict(obj: object, source: str) -> TrainedModel:
    """The trained model in a loaded object.

    Args:
        obj: what ``torch.load`` returned.
        source: the file it came from, for messages.

    Raises:
        InputError: it is no model file, of another version, or its parts do not fit together.
    """
    if not is_model_file(obj):
        raise InputError(f"{source}: is not a model file of univfast; {_REMEDY}")
    if obj.get("version") != _VERSION:
        raise InputError(
            f"{source}: has model file version {obj.get('version')!r}, this univfast reads "
            f"{_VERSION}; update univfast or {_REMEDY}"
        )
    names = [field.name for field in fields(TrainedModel) if field.default is MISSING]
    missing = [name for name in names if name not in obj]
    if missing:
        raise InputError(f"{source}: is a model file without {', '.join(missing)}; {_REMEDY}")
    try:
        parts = {name: obj[name] for name in names}
        parts["control"] = obj.get("control")
        parts["match_rate"] = obj.get("match_rate", False)
        _check_parts(parts)
        parts["config"] = ModelConfig(**parts["config"])
        _check_state(parts["config"], parts["state"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: is a damaged model file ({error}); {_REMEDY}") from error
    return TrainedModel(**parts)


def _check_parts(parts: dict[str, Any]) -> None:
    """Types and ranges of all but the sizes and the weights."""
    kinds = {"config": dict, "data": str, "loss": float, "state": dict, "match_rate": bool}
    for name, kind in kinds.items():
        if not isinstance(parts[name], kind):
            raise TypeError(f"{name} must be a {kind.__name__}, not {type(parts[name]).__name__}")
    check_choice("half", parts["half"], HALVES)
    as_seed(parts["seed"])
    if parts["control"] is not None:
        as_seed(parts["control"])
    as_integer("steps", parts["steps"], 0, 2**63 - 1)
    as_integer("test_samples", parts["test_samples"], 1, 2**63 - 1)
    sizes = {field.name for field in fields(ModelConfig)}
    if parts["config"].keys() != sizes:
        raise InputError(f"config: must have {', '.join(sorted(sizes))}")


def _check_state(config: ModelConfig, state: dict[Any, Any]) -> None:
    """Names, types and shapes of the weights, before any memory is taken for a model."""
    if config.layers > len(state):
        raise InputError(f"state: too few tensors for {config.layers} layers")
    with torch.device("meta"):
        expected = TinyTransformer(config).state_dict()
    if set(state) != set(expected):
        name = min(map(str, set(state) ^ set(expected)))
        raise InputError(f"state: {name} is missing or unexpected")
    for name, like in expected.items():
        value = state[name]
        if not isinstance(value, Tensor) or value.dtype != like.dtype:
            raise TypeError(f"state: {name} must be a {like.dtype} tensor")
        if value.shape != like.shape:
            raise InputError(
                f"state: {name} has shape {list(value.shape)}, expected {list(like.shape)}"
            )
