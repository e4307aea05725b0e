"""The model of a Hugging Face directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from univfast.errors import InputError
from univfast.inputs.model_paths import is_model_directory
from univfast.machine.reading import check_folder
from univfast.text.control_files import ControlNote, apply_note
from univfast.text.library import LOCAL, quiet_transformers

__all__ = ["LanguageModel", "load_model"]

# Bytes of weights that are copied from the device, and hashed, at a time.
_PART = 64 << 20
# Of a configuration, what says where a model comes from and not what it is.
_ORIGIN = ("_name_or_path", "transformers_version")
_MOST_LAYERS = 10_000  # more than any model has: each is made before a weight is read
_REMEDY = "check the directory, or save the model again with save_pretrained"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model that reads tokens.

    Attributes:
        directory: as the user named it.
        module: in evaluation mode, on the device that it was loaded to.
        config: its configuration; of a model of several parts, that of the text part.
        vocabulary: token ids that it knows: 0 to this, exclusive.
        longest: tokens of the longest window that it can read; None where it does not say.
        control: of a control, how it was made; None of all others.
        has_head: whether the directory has what predicts tokens; where it has not, the weights of
            that are random.
    """

    directory: str
    module: nn.Module
    config: Any
    vocabulary: int
    longest: int | None
    control: ControlNote | None = None
    has_head: bool = True

    @cached_property
    def fingerprint(self) -> bytes:
        """Tells this model from others: of its configuration, all weights and a control's shifts.

        Reads every weight once, so it is made when it is asked for.
        """
        config: Any = self.module.config
        described = json.dumps(_without_origin(config.to_diff_dict()), sort_keys=True, default=str)
        digest = hashlib.sha256(described.encode())
        seen: dict[object, str] = {}  # weights that two modules share
        for name, value in self.module.state_dict().items():
            place = value.data_ptr(), value.shape, value.stride(), value.dtype
            first = seen.setdefault(place, name) if value.numel() else name
            digest.update(repr((name, first, tuple(value.shape), str(value.dtype))).encode())
            if first == name:
                for part in value.detach().reshape(-1).split(_PART // value.itemsize):
                    digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.digest()

    @contextmanager
    def with_its_own_weights(self) -> Iterator[nn.Module]:
        """The module, within the block without a head whose weights are random."""
        head = None if self.has_head else self.module.get_output_embeddings()  # type: ignore[operator]
        places = [
            (parent, name)
            for parent in self.module.modules()
            for name, child in parent.named_children()
            if child is head
        ]
        for parent, name in places:
            setattr(parent, name, None)
        try:
            yield self.module
        finally:
            for parent, name in places:
                setattr(parent, name, head)


def load_model(directory: str, device: torch.device) -> LanguageModel:
    """The model of a directory, in the dtype that it was saved in.

    Where its architecture can predict tokens, it is loaded as such: its modules are then called
    ``transformer.h.0.mlp.act`` and not ``h.0.mlp.act``. A rate-matched control that `univfast
    control` wrote has its shifts.

    Raises:
        InputError: transformers is missing, the directory holds no model that it can load without
            running code of the directory, or none that reads tokens, or weights are missing; or
            what it says of a control is damaged, or of another network.
    """
    if not is_model_directory(directory):
        raise InputError(
            f"{directory}: is not the directory of a Hugging Face model: it has no config.json "
            "that names one; name a directory that save_pretrained wrote"
        )
    check_folder(directory)
    with quiet_transformers(directory, _REMEDY) as transformers:
        config = transformers.AutoConfig.from_pretrained(directory, **LOCAL)
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(
                f"{directory}: is an encoder and decoder, which read two texts; "
                "use a model of one stack"
            )
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > _MOST_LAYERS:
            raise InputError(
                f"{directory}: config.json says that the model has {layers} layers, and none has"
                f" over {_MOST_LAYERS:,}; {_REMEDY}"
            )
        predicts = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        auto = transformers.AutoModelForCausalLM if predicts else transformers.AutoModel
        module, loading = auto.from_pretrained(
            directory, config=config, dtype="auto", output_loading_info=True, **LOCAL
        )
        has_head = _check_weights(directory, module, loading) and predicts
        module.config.use_cache = (
            False  # no token is generated: keys and values would be for nothing
        )
        embedding = getattr(module.get_input_embeddings(), "weight", None)
        if embedding is None:
            raise InputError(
                f"{directory}: has no embedding of tokens; use a model that reads text"
            )
        control = apply_note(directory, module)
        module.eval().to(device)
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", getattr(text, "n_positions", None))
    return LanguageModel(directory, module, text, len(embedding), longest, control, has_head)


def _without_origin(value: Any) -> Any:
    """A configuration, and those within it, without what depends on where it was loaded from."""
    if not isinstance(value, dict):
        return value
    return {str(k): _without_origin(x) for k, x in value.items() if k not in _ORIGIN}


def _check_weights(directory: str, module: Any, loading: dict[str, Any]) -> bool:
    """Refuses a model with weights that the directory lacks: the library draws them at random.

    Returns whether it has those that predict tokens, which activations do not follow from.
    """
    head = module.get_output_embeddings()
    unused = {id(weight) for weight in head.parameters()} if head is not None else set()
    weights = dict(module.named_parameters())
    missing = [
        name
        for name in sorted(loading["missing_keys"])
        if name not in weights or id(weights[name]) not in unused
    ]
    # Pairs of (name, shapes) in older versions of the library, names in newer ones.
    missing += [str(entry) for entry in loading["mismatched_keys"]]
    if missing:
        raise InputError(
            f"{directory}: lacks {len(missing)} weights of the model (first {missing[0]}), which "
            f"would be random; {_REMEDY}"
        )
    return head is not None and not loading["missing_keys"]
