"""`torch.nn.TransformerEncoder` with padding: its modules are called, and padding is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import univfast as uf

HOOKS = "layers.*.linear1"


def encoder(seed: int, batch_first: bool = True) -> nn.TransformerEncoder:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    found = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
    for parameter in found.parameters():  # layers are copies of one
        nn.init.normal_(parameter, std=0.3)
    return found.eval()


def batches(samples: int = 6, tokens: int = 10) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(samples)[:, None] % 5 + tokens - 5
    padding = torch.arange(tokens) >= lengths
    return [
        {
            "src": torch.randn(samples, tokens, 8, generator=generator),
            "src_key_padding_mask": padding,
        }
        for _ in range(3)
    ]


def rows(model: nn.TransformerEncoder, given: list[dict[str, torch.Tensor]]) -> Any:
    """What the first ``linear1`` gives where there is no padding, by the slow path."""
    found: list[np.ndarray] = []
    layer = model.layers[0]
    hook = layer.linear1.register_forward_hook(lambda m, i, out: found.append(out.numpy()))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), hook:
            for batch in given:
                model(**batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return np.concatenate(
        [x[~b["src_key_padding_mask"].numpy()] for x, b in zip(found, given, strict=True)]
    )


def test_padding_does_not_count() -> None:
    a, b, given = encoder(1), encoder(2), batches()
    found = uf.correlate_models(a, b, given, hooks=HOOKS, match="index", rotation="none")
    x, y = rows(a, given), rows(b, given)
    kept = 3 * sum(int((~b).sum()) for b in (given[0]["src_key_padding_mask"],))
    assert found.summary["tokens"] == kept == len(x) < 180
    right = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(16)]
    np.testing.assert_allclose(found.correlation[:16].numpy(), right, rtol=0, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_capture_hears_its_modules() -> None:
    model, (batch, *_) = encoder(1), batches()
    with uf.capture(model, HOOKS) as captured, torch.no_grad():
        model(**batch)
        keep = ~batch["src_key_padding_mask"]
        np.testing.assert_allclose(captured["layers.0.linear1"][keep].numpy(), rows(model, [batch]))


def test_what_could_be_read_in_two_ways_is_refused() -> None:
    model, square = encoder(1), batches(10, 10)
    options: dict[str, Any] = {"hooks": HOOKS, "rotation": "none"}
    uf.correlate_models(model, model, square, **options)
    tokens_first = encoder(1, batch_first=False)
    turned = [{**x, "src": x["src"].transpose(0, 1)} for x in square]
    with pytest.raises(uf.InputError, match=r"puts tokens before samples .*; give mask=, .*~mask"):
        uf.correlate_models(tokens_first, tokens_first, turned, **options)
    found = uf.correlate_models(
        *(tokens_first, tokens_first, turned),
        mask=lambda batch: (~batch["src_key_padding_mask"]).T,
        **options,
    )
    assert found.summary["tokens"] == sum(int((~x["src_key_padding_mask"]).sum()) for x in square)
    both = [{**x, "attention_mask": x["src_key_padding_mask"]} for x in square]
    with pytest.raises(uf.InputError, match="both attention_mask and src_key_padding_mask; give"):
        uf.correlate_models(model, model, both, **options)
    added = [{**x, "src_key_padding_mask": x["src_key_padding_mask"].float()} for x in square]
    with pytest.raises(uf.InputError, match="holds float32, expected bool, true for padding; give"):
        uf.correlate_models(model, model, added, **options)


def test_a_function_in_place_of_a_module_is_named() -> None:
    model = encoder(1)
    with pytest.raises(uf.InputError, match=r"did not reach layer 'layers.0.self_attn.out_proj'"):
        uf.correlate_models(model, model, batches(), hooks="layers.*.self_attn.out_proj")
