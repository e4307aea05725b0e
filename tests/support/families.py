"""Tiny models of families of Hugging Face transformers, of random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 300
WINDOW = 16

_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
_ONE_ID = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_PAIR = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "init_std": 0.3,
    **_ONE_ID,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "roberta": {**_SIZES, "pad_token_id": 1, "max_position_embeddings": 34},
    "mpnet": {**_SIZES, "pad_token_id": 1, "max_position_embeddings": 34},
    "electra": {**_SIZES, "embedding_size": 16},
    "deberta-v2": {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "modernbert": {**_SIZES, **_ONE_ID, "cls_token_id": 0, "sep_token_id": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
    "gpt_neox": _SIZES,
    "opt": {**_SIZES, **_ONE_ID, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "llama": _SIZES,
    "gemma": {**_SIZES, **_ONE_ID, "head_dim": 8, "num_key_value_heads": 1},
    "qwen2": {**_SIZES, "num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    "bart": _PAIR,
    "mbart": _PAIR,
    "mixtral": {**_SIZES, "num_local_experts": 4, "num_key_value_heads": 1},
    "qwen2_moe": {
        **_SIZES,
        **_EXPERTS,
        "num_key_value_heads": 1,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_moe": {**_SIZES, **_EXPERTS, "num_key_value_heads": 1, "head_dim": 8},
    "olmoe": {**_SIZES, "num_experts": 4, "num_experts_per_tok": 2},
}
"""By ``model_type``: the sizes of a model."""

_PATCHES = {**_SIZES, "image_size": 8, "patch_size": 4}
_SOUND = {"vocab_size": VOCABULARY, "num_mel_bins": 6, "max_source_positions": 8}

NO_TEXT: dict[str, dict[str, Any]] = {
    "vit": _PATCHES,
    "dinov2": {**_PATCHES, "mlp_ratio": 2},
    "clip_vision_model": _PATCHES,
    "siglip_vision_model": _PATCHES,
    "whisper": {**_PAIR, **_SOUND},
}
"""Of models that read no text."""

# Of what is refused.
_OTHERS = {"vit_mae": _PATCHES}


def configuration(family: str, **changes: Any) -> Any:
    import transformers

    kind = transformers.CONFIG_MAPPING[family]
    if (sizes := {**NO_TEXT, **_OTHERS}.get(family)) is not None:
        return kind(**{**sizes, **changes})
    return kind(**{"vocab_size": VOCABULARY, **FAMILIES[family], **changes})


def make(family: str, seed: int, auto: str = "AutoModel", **changes: Any) -> Any:
    """A model of a family, as a class of transformers makes it."""
    import transformers

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = configuration(family, **changes)
        return getattr(transformers, auto).from_config(config).eval()


def save(model: Any, folder: Path) -> Path:
    from univfast.text.library import silent

    with silent():
        model.save_pretrained(folder)
    return folder


def text_ids(tokens: int = 160) -> Tensor:
    """Token ids, none of which is special in any family."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(10, VOCABULARY, (tokens,), generator=generator)


def pixels(samples: int = 24, size: int = 8) -> Tensor:
    """``pixel_values``, as an image processor gives them."""
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(6))


def plain_layers(
    model: nn.Module, hooks: dict[str, str], ids: Tensor, window: int = WINDOW
) -> dict[str, Tensor]:
    """``[tokens, neurons]`` by layer, one window at a time.

    Args:
        model: called with ``input_ids`` alone.
        hooks: names of modules, or of what they are given, by layer.
        ids: ``[tokens]``.
        window: tokens of a window.
    """
    return plain_rows(model, hooks, [{"input_ids": part[None]} for part in ids.split(window)])


def plain_rows(
    model: nn.Module, hooks: dict[str, str], batches: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """``[tokens, neurons]`` by layer, by hooks of this file."""
    rows: dict[str, list[Tensor]] = {layer: [] for layer in hooks}
    for layer, name in hooks.items():
        module = model.get_submodule(name.removesuffix(":input"))
        if name.endswith(":input"):
            module.register_forward_pre_hook(lambda m, args, to=rows[layer]: to.append(args[0]))
        else:
            module.register_forward_hook(lambda m, args, out, to=rows[layer]: to.append(out))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    return {
        layer: torch.cat([(x[0] if isinstance(x, tuple) else x).flatten(0, -2) for x in parts])
        for layer, parts in rows.items()
    }
