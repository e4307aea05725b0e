"""The models of the command line without some neurons: directories on a text, and model files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from univfast.ablation.ablate import Neurons, Wanted, measure
from univfast.ablation.ablation_passes import Text
from univfast.ablation.ablation_result import AblationResult
from univfast.errors import InputError
from univfast.experiment import TrainedModel, test_set_name, test_tokens
from univfast.feeding import BatchProgress
from univfast.result import CorrelationResult
from univfast.text.live_layers import accepted_inputs, naming, running
from univfast.text.models import LanguageModel
from univfast.text.opening import TextOptions, described, read_text
from univfast.text.windows import TokenWindows

__all__ = ["ablate_directory", "ablate_model_file", "modules_of"]

# Tokens of a forward pass, and bytes that its logits may take: they are held twice, those of the
# whole model and those without some neurons.
_BATCH_TOKENS = 8192
_LOGITS_BYTES = 256 << 20
# Samples of a forward pass of a model file.
_SAMPLES = 50

_MLP = re.compile(r"mlp\.\d+")


def ablate_directory(
    directory: str,
    options: TextOptions,
    hooks: Sequence[str],
    neurons: Neurons,
    wanted: Wanted,
    device: torch.device,
    progress: BatchProgress | None,
) -> tuple[AblationResult, dict[str, object]]:
    """What `ablate` gives for the model of a directory on a text, and what it read.

    Raises:
        InputError: the directory, the text or an option cannot be used, the model predicts no
            tokens, or what `ablate` refuses.
    """
    (model,), windows, keep = read_text([directory], options, device)
    if not model.has_head:
        raise InputError(
            f"{directory}: has no head that predicts tokens, or not the weights of one; use a"
            " causal language model"
        )
    text = _text(model, windows, keep, options.batch_tokens)
    with naming(directory):
        found = measure(
            model.module,
            text,
            hooks,
            neurons,
            wanted,
            directory,
            progress,
            partial(running, directory),
        )
    return found, {**described(options, windows), "hooks": list(hooks)}


class _Each:
    """What a function makes of each of some ranges of tokens, as often as it is gone through."""

    def __init__(self, ranges: Sequence[tuple[int, int]], make: Callable[[int, int], Any]) -> None:
        self._ranges, self._make = ranges, make

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[Any]:
        return (self._make(*each) for each in self._ranges)


def _text(
    model: LanguageModel, windows: TokenWindows, keep: Tensor | None, batch_tokens: int | None
) -> Text:
    accepted = accepted_inputs(model, windows)
    module: Any = model.module
    weight = module.get_output_embeddings().weight
    row = len(weight) * weight.element_size()
    most = batch_tokens or min(_BATCH_TOKENS, _LOGITS_BYTES // row)
    ranges = list(windows.batches(0, windows.tokens, most))

    def inputs(start: int, stop: int) -> dict[str, Tensor]:
        made = windows.inputs(start, stop, torch.device("cpu"))
        return {name: value for name, value in made.items() if name in accepted}

    def kept(start: int, stop: int) -> Tensor | None:
        if keep is None:
            return None
        return keep[start:stop].view(-1, min(windows.window, stop - start))

    return Text(_Each(ranges, inputs), _Each(ranges, kept))


def ablate_model_file(
    path: str,
    trained: TrainedModel,
    hooks: Sequence[str],
    neurons: Neurons,
    wanted: Wanted,
    progress: BatchProgress | None,
) -> tuple[AblationResult, dict[str, object]]:
    """What `ablate` gives for a model file of `univfast train` on its test set, and what that is.

    Raises:
        InputError: the test text cannot be used, or what `ablate` refuses.
    """
    with naming(path):
        tokens = test_tokens(trained)
        text = Text([tokens[i : i + _SAMPLES] for i in range(0, len(tokens), _SAMPLES)])
        found = measure(trained.model(), text, hooks, neurons, wanted, path, progress)
    return found, {"test_set": test_set_name(trained), "hooks": list(hooks)}


def modules_of(path: str, result: CorrelationResult, site: str | None) -> list[str]:
    """Patterns of the modules of a model file that a result's layers are.

    Args:
        path: of the model file.
        result: whose layers are ``mlp.0``, ``mlp.1``, ..., or modules of their own names.
        site: of the former, ``"pre"`` or ``"post"``; None where nobody said.

    Raises:
        InputError: it is open which they are.
    """
    layers = list(dict.fromkeys(result.layer))
    if not all(_MLP.fullmatch(layer) for layer in layers):
        return layers
    if site is None:
        raise InputError(
            f"{path}: the result does not say whether its layer {layers[0]!r} is before the ReLU"
            " or after it; give site='pre' or site='post'"
        )
    return [f"blocks.*.mlp.{'up' if site == 'pre' else 'relu'}"]
