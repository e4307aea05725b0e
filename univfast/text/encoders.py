"""The encoder of a model that has a decoder too: alone, with the names that it has in the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from univfast.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_in_encoder", "run_encoder_alone"]


class _EncoderAlone:
    """What is put before the class of a model: a forward pass of its encoder."""

    def forward(self, *args: Any, **kwargs: Any) -> object:
        return what_runs(self)(*args, **kwargs)


def run_encoder_alone(module: nn.Module) -> None:
    """Has a forward pass of the model be one of its encoder.

    The class keeps its name, and makes models from a configuration as before: controls do so.
    """
    kind = type(module)
    module.__class__ = type(kind.__name__, (_EncoderAlone, kind), {"__module__": kind.__module__})


def what_runs(module: Any) -> Any:
    """The module that a forward pass is one of: the model, or its encoder alone."""
    alone = isinstance(module, _EncoderAlone)
    return module.get_encoder() if alone else module


def check_in_encoder(layers: Iterable[str]) -> None:
    """Refuses layers of the decoder, which reads a text of its own.

    Raises:
        InputError: naming the first.
    """
    for layer in layers:
        if "encoder" not in layer.removesuffix(":input").split("."):
            raise InputError(
                f"hooks: layer {layer!r} is not in the encoder, which is what runs on a text: the"
                " decoder reads two, its own and the encoder's; hook 'encoder.*', or run the model"
                " in Python on batches of both (univfast.correlate_models)"
            )
