"""The model of a Hugging Face directory."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from univfast.errors import InputError
from univfast.text.adapters import merge_adapter
from univfast.text.control_files import ControlNote, apply_note
from univfast.text.encoders import check_in_encoder, run_encoder_alone, what_runs
from univfast.text.library import LOCAL, quiet_transformers
from univfast.text.model_places import find_model

__all__ = ["LanguageModel", "load_model"]

# Bytes of weights that are copied from the device, and hashed, at a time.
_PART = 64 << 20
# Of a configuration, what says where a model comes from and not what it is.
_ORIGIN = ("_name_or_path", "transformers_version")
_PLACES = {"embed_positions", "position_embeddings"}  # of learned positions, as those of BART
_EXPERTS = "experts"  # what mixtures of experts call them in transformers
_MOST_LAYERS = 10_000  # more than any model has: each is made before a weight is read
_REMEDY = "check the directory, or save the model again with save_pretrained"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model that reads tokens, or other samples.

    Attributes:
        directory: as the user named it.
        module: in evaluation mode, on the device that it was loaded to.
        config: its configuration; of a model of several parts, that of the text part.
        vocabulary: token ids that it knows: 0 to this, exclusive; 0 of one that reads none.
        longest: tokens of the longest window that it can read; None where it does not say.
        control: of a control, how it was made; None of all others.
        has_head: whether the directory has what predicts tokens.
        tokenizer: the directory of its tokenizer, which may be that of an adapter's base.
        unknown: modules whose weights the directory lacks: heads and poolers that layers do not
            follow from.
    """

    directory: str
    module: nn.Module
    config: Any
    vocabulary: int
    longest: int | None
    control: ControlNote | None = None
    has_head: bool = True
    tokenizer: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it was loaded as, for reports."""
        name = type(self.module).__name__
        alone = what_runs(self.module) is not self.module
        return f"{name}, its encoder alone" if alone else name

    @property
    def reads(self) -> str:
        """Its name for what it reads: ``input_ids``, ``pixel_values``."""
        return str(getattr(what_runs(self.module), "main_input_name", "input_ids"))

    @cached_property
    def accepted(self) -> frozenset[str]:
        """Names of the inputs that it can be called with, of those that `Windows` give."""
        names = {*inspect.signature(what_runs(self.module).forward).parameters}
        if _counted_places(self.module) is not None:
            names.discard("position_ids")  # it numbers tokens from another number on
        return frozenset(names)

    @property
    def counts_padding(self) -> bool:
        """Whether it numbers tokens from the start of a sample, which may be filled up."""
        runs = what_runs(self.module)
        names = {name.rpartition(".")[2] for name, _ in runs.named_modules()}
        numbered = "position_ids" in self.accepted or _counted_places(runs) is not None
        return bool(names & _PLACES) and not numbered

    def check_hooked(self, layers: Iterable[str]) -> None:
        """Refuses layers with no row a token, or that follow from weights that are not known.

        Raises:
            InputError: naming the layer.
        """
        if what_runs(self.module) is not self.module:
            check_in_encoder(layers)
        for layer in layers:
            name = layer.removesuffix(":input")
            # Also where each token goes to one expert, so that the number of rows tells nothing.
            if _EXPERTS in name.split(".")[:-1]:
                whole = name[: f".{name}".index(f".{_EXPERTS}.") + len(_EXPERTS)]
                raise InputError(
                    f"hooks: layer {layer!r} is within experts, which are given tokens in an order"
                    f" of their own; hook {whole!r}, or a shared expert"
                )
            inside = next((x for x in self.unknown if f"{name}.".startswith(f"{x}.")), None)
            if inside is not None and layer != f"{inside}:input":
                raise InputError(
                    f"hooks: the directory lacks the weights of layer {layer!r} ({inside}); hook"
                    " others, or save the model again with them"
                )

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
        """The module, within the block without those whose weights are not known."""
        places = [
            (self.module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], part)
            for name, part in self.module.named_modules()
            if name in self.unknown
        ]
        for parent, name, _ in places:
            setattr(parent, name, None)
        try:
            yield self.module
        finally:
            for parent, name, part in places:
                setattr(parent, name, part)


def load_model(directory: str, device: torch.device) -> LanguageModel:
    """The model of a directory, in the dtype that it was saved in.

    A decoder is loaded as what predicts tokens: its modules are then called
    ``transformer.h.0.mlp.act`` and not ``h.0.mlp.act``. An encoder is loaded without a head,
    whichever it was saved with or without: ``encoder.layer.0.intermediate``. Of a model of both,
    the encoder runs alone, as ``encoder.block.0``. An adapter is merged into its base, whose names
    stay. A rate-matched control that `univfast control` wrote has its shifts.

    Weights that no such layer follows from may be missing: heads, poolers, the decoder of an
    encoder. They are 0 then, and hooks in them are refused (`LanguageModel.check_hooked`).

    Raises:
        InputError: transformers is missing, the directory holds no model that it can load without
            running code of the directory, or weights are missing; or
            what it says of an adapter or a control is damaged, or of another network.
    """
    place = find_model(directory)
    with quiet_transformers(directory, _REMEDY) as transformers:
        config = transformers.AutoConfig.from_pretrained(place.folder, **LOCAL)
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > _MOST_LAYERS:
            raise InputError(
                f"{directory}: config.json says that the model has {layers} layers, and none has"
                f" over {_MOST_LAYERS:,}; {_REMEDY}"
            )
        auto = _class_for(transformers, config)
        module, loading = auto.from_pretrained(
            place.folder, config=config, dtype="auto", output_loading_info=True, **LOCAL
        )
        predicts = auto is transformers.AutoModelForCausalLM
        if getattr(config, "is_encoder_decoder", False) and not predicts:
            run_encoder_alone(module)
        unknown = _unknown(directory, module, loading)
        if place.adapter is not None:
            module = merge_adapter(directory, place.adapter, module)
        module.config.use_cache = (
            False  # no token is generated: keys and values would be for nothing
        )
        embedding = _embedding(module)
        control = apply_note(directory, module)
        module.eval().to(device)
    head = module.get_output_embeddings() if predicts else None
    text = config.get_text_config()
    return LanguageModel(
        directory,
        module,
        text,
        0 if embedding is None else len(embedding),
        _longest(module, text),
        control,
        head is not None and not unknown,
        place.tokenizer,
        unknown,
    )


def _embedding(module: Any) -> Any:
    """The embedding of tokens ``[tokens, width]``; None of a model that has none."""
    try:
        found = getattr(module.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return found if found is not None and found.dim() == 2 else None


def _class_for(transformers: Any, config: Any) -> Any:
    """What the model of a configuration is loaded with."""
    kind = type(config)
    named = {*(getattr(config, "architectures", None) or ())}
    if kind in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
        encoder = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING[kind]
        alone = encoder is not transformers.MODEL_MAPPING[kind]
        if alone and named == {encoder.__name__}:  # as of T5, a directory without a decoder
            return transformers.AutoModelForTextEncoding
    # One architecture may serve as encoder and as decoder.
    encodes = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING and not (
        getattr(config, "is_decoder", False)
    )
    both = getattr(config, "is_encoder_decoder", False)
    if kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not (encodes or both):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _longest(module: nn.Module, config: Any) -> int | None:
    """Tokens of the longest window that a model can read."""
    if (places := _counted_places(module)) is not None:
        return places
    most = getattr(config, "max_position_embeddings", getattr(config, "n_positions", None))
    return most if most is not None and most > 0 else None


def _counted_places(module: nn.Module) -> int | None:
    """Of a model that numbers tokens behind the padding itself, as RoBERTa: how many it can."""
    for name, part in module.named_modules():
        own = isinstance(part, nn.Embedding) and part.padding_idx is not None
        if own and name.rpartition(".")[2] == "position_embeddings":
            return int(part.num_embeddings) - int(part.padding_idx) - 1
    return None


def _without_origin(value: Any) -> Any:
    """A configuration, and those within it, without what depends on where it was loaded from."""
    if not isinstance(value, dict):
        return value
    return {str(k): _without_origin(x) for k, x in value.items() if k not in _ORIGIN}


def _unknown(directory: str, module: Any, loading: dict[str, Any]) -> tuple[str, ...]:
    """The modules whose weights the directory lacks, and which others do not follow from.

    The library draws such weights at random, anew each time: they are set to 0.

    Raises:
        InputError: it lacks others.
    """
    base = module.base_model_prefix if module.base_model is not module else ""
    unneeded = {"pooler", "decoder"} if what_runs(module) is not module else {"pooler"}
    weights = dict(module.named_parameters(remove_duplicate=False))
    missing, unknown = [], set()
    for name in sorted(loading["missing_keys"]):
        parts = name.split(".")
        within = parts[0] == base or not base
        own = parts[1:] if base and within else parts
        if within and own[0] not in unneeded:
            missing.append(name)
            continue
        # A head has no name of its own within: all of it is unknown.
        unknown.add(".".join(parts[: len(parts) - len(own) + 1]))
        if name in weights:
            weights[name].data.zero_()
    # Pairs of (name, shapes) in older versions of the library, names in newer ones.
    missing += [str(entry) for entry in loading["mismatched_keys"]]
    if missing:
        raise InputError(
            f"{directory}: lacks {len(missing)} weights of the model (first {missing[0]}), which "
            f"would be random; {_REMEDY}"
        )
    return tuple(sorted(unknown))
