"""The encoder of a model that has a decoder too: alone, with the names that it has in the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from univfast.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_in_encoder", "run_encoder_alone"]


class _EncoderAlone:
    """What is put before the class of a model: a forward pass of its encoder."""

    encoder_runs_alone = True

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> object:
        encoder: Any = self.get_encoder()  # type: ignore[attr-defined]
        return encoder(input_ids=input_ids, attention_mask=attention_mask)


def run_encoder_alone(directory: str, module: nn.Module) -> None:
    """Has a forward pass of the model be one of its encoder.

    The class keeps its name, and makes models from a configuration as before: controls do so.

    Raises:
        InputError: the encoder reads no tokens.
    """
    encoder: Any = module.get_encoder()  # type: ignore[operator]
    reads = getattr(encoder, "main_input_name", "input_ids")
    if reads != "input_ids":
        raise InputError(
            f"{directory}: its encoder reads {reads}, no tokens; use a model that reads text, or"
            " run it in Python (univfast.correlate_models)"
        )
    kind = type(module)
    module.__class__ = type(kind.__name__, (_EncoderAlone, kind), {"__module__": kind.__module__})


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
