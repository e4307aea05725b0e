"""`uf.correlate_models`: the same as from stored activations, whatever the models and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.live_models import POST, Plain, by_hand, gpt2, llama, neox, token_ids


def assert_same(live: uf.CorrelationResult, stored: uf.CorrelationResult, limit: float) -> None:
    assert live.layer == stored.layer
    assert live.match_layer == stored.match_layer
    assert torch.equal(live.match_neuron, stored.match_neuron)
    assert torch.equal(live.universal, stored.universal)
    assert torch.equal(live.dead, stored.dead)
    for name in ("correlation", "baseline", "baseline_std"):
        one, other = getattr(live, name), getattr(stored, name)
        torch.testing.assert_close(one, other, rtol=0, atol=limit, equal_nan=True)
    for key in ("match", "rotation", "tokens", "neurons", "universal", "device"):
        assert live.summary[key] == stored.summary[key], key


@pytest.mark.parametrize(
    ("make", "modules", "inputs"),
    [
        (gpt2, "transformer.h.{}.mlp.act", False),
        (neox, "gpt_neox.layers.{}.mlp.act", False),
        (llama, "model.layers.{}.mlp.down_proj", True),
        (Plain, "blocks.{}.mlp.hook_post", False),
    ],
)
@pytest.mark.parametrize("match", ["index", "best"])
def test_the_same_as_from_stored_activations(
    make: Callable[..., nn.Module], modules: str, inputs: bool, match: str
) -> None:
    a, b, batches = make(seed=1), make(seed=2), token_ids()
    glob = modules.format("*") + (":input" if inputs else "")
    # With one draw, all pairs rotate the tokens as they come.
    options: dict[str, Any] = {"match": match, "draws": 3 if match == "index" else 1, "seed": 7}
    live = uf.correlate_models(a, b, batches, hooks=glob, **options)
    names = [modules.format(layer) for layer in range(2)]
    x, y = (by_hand(model, names, batches, inputs) for model in (a, b))
    assert_same(live, uf.correlate(x, y, **options), 1e-6)
    assert live.summary["tokens"] == 480
    assert live.summary["models"] == ["a", "b"]


@pytest.mark.parametrize("match", ["index", "one-to-one"])
def test_double_precision(match: str) -> None:
    a, b, batches = Plain(seed=1).double(), Plain(seed=2).double(), token_ids()
    with torch.no_grad():  # the second model shares its first layer with the first
        b.embed.weight.copy_(a.embed.weight)
        b.blocks[0].mlp.up.load_state_dict(a.blocks[0].mlp.up.state_dict())
    live = uf.correlate_models(a, b, batches, hooks=POST, match=match)
    names = ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"]
    x, y = (by_hand(model, names, batches) for model in (a, b))
    assert_same(live, uf.correlate(x, y, match=match), 1e-12)
    assert int(live.universal.sum()) >= 1


def test_models_of_other_kinds_widths_and_depths() -> None:
    a, b, batches = gpt2(layers=3, width=24), Plain(layers=2, width=40), token_ids()
    options: dict[str, Any] = {"match": "best", "draws": 2, "top_k": 3}
    live = uf.correlate_models(
        a,
        b,
        batches,
        hooks="*.mlp.act",
        hooks_b=POST,
        names=("gpt2", "plain"),
        reverse=True,
        **options,
    )
    x = by_hand(a, [f"transformer.h.{i}.mlp.act" for i in range(3)], batches)
    y = by_hand(b, [f"blocks.{i}.mlp.hook_post" for i in range(2)], batches)
    stored = uf.correlate(x, y, reverse=True, **options)
    assert_same(live, stored, 1e-6)
    assert live.reverse is not None
    assert stored.reverse is not None
    assert_same(live.reverse, stored.reverse, 1e-6)
    assert live.top_correlation is not None
    assert live.top_correlation.shape == (72, 3)
    assert live.summary["models"] == ["gpt2", "plain"]


@pytest.mark.parametrize("match", ["index", "best"])
def test_a_batch_without_tokens_is_passed_over(match: str) -> None:
    a, b, batches = gpt2(seed=1), gpt2(seed=2), token_ids()
    none = torch.zeros(0, 20, dtype=torch.int64)
    done: list[int] = []
    live, expected = (
        uf.correlate_models(
            a, b, given, hooks="*.mlp.act", match=match, progress=lambda n, _: done.append(n)
        )
        for given in ([none, *batches[:2], none[:, :0], *batches[2:]], batches)
    )
    assert torch.equal(live.correlation, expected.correlation)
    assert done == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]


def test_by_index_layers_of_other_names_are_paired_in_order() -> None:
    a, b, batches = gpt2(width=24), Plain(width=24), token_ids()
    live = uf.correlate_models(a, b, batches, hooks="*.mlp.act", hooks_b=POST, match="index")
    assert live.layer[0] == "transformer.h.0.mlp.act"
    assert live.match_layer[0] == "blocks.0.mlp.hook_post"
    assert live.match_layer[-1] == "blocks.1.mlp.hook_post"
    x = by_hand(a, ["transformer.h.1.mlp.act"], batches)
    y = by_hand(b, ["blocks.1.mlp.hook_post"], batches)
    stored = uf.correlate(*x.values(), *y.values(), match="index", rotation="none", draws=0)
    torch.testing.assert_close(live.correlation[24:], stored.correlation, rtol=0, atol=1e-6)


def test_layers_of_the_same_names_are_paired_by_name_in_any_order() -> None:
    a, b = Plain(seed=1), Plain(seed=2)
    one, other = (
        uf.correlate_models(a, b, token_ids(), hooks=POST, hooks_b=hooks_b, match="index")
        for hooks_b in (None, ["*.1.*post", "*.0.*post"])
    )
    assert other.match_layer == one.layer
    assert torch.equal(other.correlation, one.correlation)


@pytest.mark.slow
def test_a_model_with_itself() -> None:
    model, batches = Plain(), token_ids()
    live = uf.correlate_models(model, model, batches, hooks=POST, match="index")
    alive = ~live.dead
    torch.testing.assert_close(live.correlation[alive], torch.ones(int(alive.sum())).double())
    x = by_hand(model, ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"], batches)
    live = uf.correlate_models(model, model, batches, hooks=POST, match="best", exclude_self=True)
    assert_same(live, uf.correlate(x, x, match="best", exclude_self=True), 1e-6)
    # Its layers with one another.
    for match in ("index", "best"):
        live = uf.correlate_models(
            model, model, batches, hooks="*.0.*post", hooks_b="*.1.*post", match=match
        )
        stored = uf.correlate(*x.values(), match=match)
        torch.testing.assert_close(live.correlation, stored.correlation, equal_nan=True)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"ids": x}])
def test_batches_of_every_kind(wrap: Callable[[Tensor], Any]) -> None:
    a, b, ids = Plain(seed=1), Plain(seed=2), token_ids()
    plain = uf.correlate_models(a, b, ids, hooks=POST)
    live = uf.correlate_models(a, b, (wrap(x) for x in ids), hooks=POST)
    assert torch.equal(live.correlation, plain.correlation)


@pytest.mark.gpu
@pytest.mark.parametrize("match", ["index", "best"])
def test_models_on_other_devices(match: str) -> None:
    a, b, batches = Plain(seed=1), Plain(seed=2), token_ids()
    expected = uf.correlate_models(a, b, batches, hooks=POST, match=match)
    live = uf.correlate_models(a, b.cuda(), batches, hooks=POST, match=match)
    assert live.summary["device"] == "cuda:0"
    torch.testing.assert_close(live.correlation, expected.correlation, rtol=0, atol=1e-4)
