"""Models of an encoder and a decoder: whose tokens a layer's rows are, and which of them count."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from univfast.errors import InputError
from univfast.feeding import attention_mask
from univfast.machine.torch_state import PlainState

__all__ = ["Tokens", "has_two_stacks", "tokens_of"]

_ENCODER, _DECODER, _EITHER = "encoder", "decoder", "either"
_STACK = re.compile(r"encoder|decoder", re.IGNORECASE)
# Of attention from the decoder to the encoder, some have rows of the one and some of the other.
_CROSS = re.compile(r"cross|encdec|enc_dec|encoder_att", re.IGNORECASE)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch that rows are of.

    Attributes:
        mask: true for those that count; None for all.
        name: what to call the mask in errors.
        ids: of what `univfast.runs.detail_streams.TokenRecord` takes the ids: the batch, where
            they are its own.
    """

    mask: object
    name: str
    ids: object


def has_two_stacks(model: nn.Module, batch: object) -> bool:
    """Whether a batch has tokens of an encoder and of a decoder, for this model."""
    if not isinstance(batch, Mapping):
        return False
    if any(str(key).startswith("decoder_") for key in batch):
        return True
    both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    # One stack taken out of such a model has its configuration too.
    return both and any(
        _STACK.search(name) and not _CROSS.search(name) for name, _ in model.named_modules()
    )


def tokens_of(
    batch: object, models: Iterable[tuple[nn.Module, Mapping[str, Shape | None]]]
) -> Tokens:
    """The tokens that the rows of all layers are of, by the batch alone.

    Args:
        batch: that models were run on.
        models: each with the leading axes of its layers, by name; None where they are not known.

    Raises:
        InputError: layers of both stacks; or the mask of one cannot be told.
    """
    models = list(models)
    mask = attention_mask(batch, [model for model, _ in models])
    plain = Tokens(mask, "batches: attention_mask", batch)
    found: dict[str, str] = {}
    pads: list[int] = []
    for model, layers in models:
        if not isinstance(batch, Mapping) or not has_two_stacks(model, batch):
            found.setdefault(_ENCODER, next(iter(layers), ""))
            continue
        pad = getattr(getattr(model, "config", None), "pad_token_id", None)
        pads += [pad] if isinstance(pad, int) else []
        for layer, leading in layers.items():
            found.setdefault(_stack(layer, leading, batch), layer)
    if set(found) <= {_ENCODER} or not isinstance(batch, Mapping):
        return plain
    either = _EITHER in found
    if either:
        layer = found.pop(_EITHER)
        if not _are_same(plain.mask, _of_decoder(batch, pads).mask, batch, pads):
            raise InputError(
                f"mask: layer {layer!r} may be of the tokens of the encoder or of the decoder,"
                " whose masks differ; give mask=, or hook modules of one of both"
            )
        found.setdefault(_DECODER, layer)
    if len(found) > 1:
        raise InputError(
            f"hooks: match {found[_ENCODER]!r} of the encoder and {found[_DECODER]!r} of the"
            " decoder, which have other tokens; hook layers of one of both, or give mask="
        )
    decoder = _of_decoder(batch, pads)
    if decoder.doubt is not None:
        raise InputError(
            f"mask: layer {found[_DECODER]!r} is of the decoder, {decoder.doubt}; give"
            " decoder_attention_mask in batches, or mask="
        )
    ids = batch.get("decoder_input_ids")
    known = isinstance(ids, Tensor) and not either
    return Tokens(decoder.mask, decoder.name, ids if known else None)


@dataclass(frozen=True)
class _Decoder:
    mask: object
    doubt: str | None = None
    name: str = "batches: decoder_attention_mask"


def _of_decoder(batch: Mapping[Any, Any], pads: list[int]) -> _Decoder:
    """The mask of the decoder's tokens."""
    seen = batch.get("decoder_attention_mask")
    if seen is not None:
        return _Decoder(attention_mask({"attention_mask": seen}))
    ids, labels = batch.get("decoder_input_ids"), batch.get("labels")
    with PlainState():
        if isinstance(ids, Tensor):
            padded = any(bool((ids[..., -1] == pad).any()) for pad in pads if ids.numel())
            return _Decoder(None, "whose decoder_input_ids end in padding" if padded else None)
        if batch.get("decoder_inputs_embeds") is not None:
            return _Decoder(None)
        if isinstance(labels, Tensor):
            unseen = bool((labels < 0).any())
            return _Decoder(None, "whose tokens follow from labels with -100" if unseen else None)
        mask = attention_mask(batch)
        padded = isinstance(mask, Tensor) and not bool(mask.all())
    return _Decoder(None, "whose tokens follow from padded input_ids" if padded else None)


def _are_same(mask: object, other: object, batch: Mapping[Any, Any], pads: list[int]) -> bool:
    """Whether both stacks have the same tokens to use."""
    if _of_decoder(batch, pads).doubt is not None:
        return False
    with PlainState():
        one, two = (
            None if isinstance(x, Tensor) and bool(x.bool().all()) else x for x in (mask, other)
        )
        if one is None or two is None:
            return one is two
        if not isinstance(one, Tensor) or not isinstance(two, Tensor):
            return False
        return one.shape == two.shape and bool((one.bool().cpu() == two.bool().cpu()).all())


def _stack(layer: str, leading: Shape | None, batch: Mapping[Any, Any]) -> str:
    """Whose tokens the rows of a layer are, by its name and by how many there are."""
    own, theirs = _shapes(batch)
    fits = leading is None or (_fits(leading, own), _fits(leading, theirs))
    if fits == (True, False):
        return _ENCODER
    if fits == (False, True) and own is not None:
        return _DECODER
    if _CROSS.search(layer):
        return _EITHER
    for part in layer.lower().split("."):
        for side in (_ENCODER, _DECODER):
            if part.startswith(side):
                return side
    return _EITHER


def _shapes(batch: Mapping[Any, Any]) -> tuple[Shape | None, Shape | None]:
    """Of the tokens of the encoder and of the decoder; None where that is not known."""
    own = _shape(batch, "input_ids", "inputs_embeds")
    theirs = _shape(batch, "decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask")
    if theirs is None:
        theirs = _shape(batch, "labels") or own
    return own, theirs


def _shape(batch: Mapping[Any, Any], *names: str) -> Shape | None:
    for name in names:
        x = batch.get(name)
        if isinstance(x, Tensor):
            return tuple(x.shape[:-1] if name.endswith("embeds") else x.shape)
    return None


def _fits(leading: Shape, tokens: Shape | None) -> bool:
    return tokens is not None and leading in (tokens, (math.prod(tokens),))
