"""`uf.correlate_models`: which tokens count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import univfast as uf
from support.live_models import POST, Plain, gpt2, padded, token_ids
from univfast.errors import InputError


def test_the_attention_mask_leaves_padding_out() -> None:
    (batches, masks), a, b = padded(), gpt2(seed=1), gpt2(seed=2)
    live = uf.correlate_models(a, b, batches, hooks="*.mlp.act")
    assert live.summary["tokens"] == int(sum(keep.sum() for keep in masks))
    ways: list[Any] = [masks, iter(masks), lambda batch: batch["attention_mask"]]
    for mask in ways:
        again = uf.correlate_models(a, b, batches, hooks="*.mlp.act", mask=mask)
        assert torch.equal(again.correlation, live.correlation)
    everything = uf.correlate_models(a, b, batches, hooks="*.mlp.act", mask=lambda batch: None)
    assert everything.summary["tokens"] == 480
    assert not torch.equal(everything.correlation, live.correlation)


@pytest.mark.parametrize("match", ["index", "best"])
def test_values_that_the_mask_leaves_out_do_not_count(match: str) -> None:
    a, b, batches = Plain(seed=1), Plain(seed=2), token_ids()
    keep = [x != 3 for x in batches]
    clean = uf.correlate_models(a, b, batches, hooks=POST, mask=keep, match=match)
    with torch.no_grad():
        b.embed.weight[3] = torch.nan
    masked = uf.correlate_models(a, b, batches, hooks=POST, mask=keep, match=match)
    assert torch.equal(masked.correlation, clean.correlation)
    token = int(torch.cat([x.flatten() for x in batches]).eq(3).nonzero()[0])
    assert token >= 20  # not in the first sample
    message = f"right: layer 'blocks.0.mlp.hook_post' has nan at token {token}, neuron 0"
    with pytest.raises(InputError, match=message):
        uf.correlate_models(a, b, batches, hooks=POST, match=match, names=("left", "right"))


def test_attention_masks_of_floats() -> None:
    (batches, _), a, b = padded(), gpt2(seed=1), gpt2(seed=2)
    floats = [{**batch, "attention_mask": batch["attention_mask"].float()} for batch in batches]
    live, expected = (
        uf.correlate_models(a, b, given, hooks="*.mlp.act") for given in (floats, batches)
    )
    assert live.summary["tokens"] == expected.summary["tokens"]
    torch.testing.assert_close(live.correlation, expected.correlation, rtol=0, atol=1e-6)
    x = token_ids()[0]
    for mask, match in (
        (torch.full((6, 20), -1e4), "batches: attention_mask holds other values .*; give mask="),
        (torch.full((6, 20), 2), "batches: attention_mask: a mask holds 0 and 1 alone"),
        (torch.ones(6, 19), r"batches: attention_mask: the mask has 114 values"),
    ):
        batch = {"ids": x, "attention_mask": mask}
        with pytest.raises(InputError, match=f"^{match}"):
            uf.correlate_models(Plain(), Plain(), [batch], hooks=POST)


@pytest.mark.parametrize("match", ["index", "best"])
def test_bad_tokens_are_counted_over_all_batches(match: str) -> None:
    a, batches = Plain(), token_ids()
    batches = [torch.where(x == 3, 4, x) for x in batches]
    batches[2][1, 5] = 3
    with torch.no_grad():
        a.embed.weight[3] = torch.inf
    with pytest.raises(InputError, match=f"has .* at token {2 * 120 + 20 + 5}, neuron"):
        uf.correlate_models(a, Plain(seed=1), batches, hooks=POST, match=match)
