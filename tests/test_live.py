"""`uf.correlate_models`: the same as from stored activations, and none of them kept."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BatchEncoding,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import univfast as uf
from univfast.errors import InputError

IDS = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 50}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    **IDS,
}


def gpt2(layers: int = 2, width: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(n_layer=layers, n_embd=16, n_inner=width, n_head=2, n_positions=32, **IDS)
    )


def neox(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL))


def llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SMALL))


class Block(nn.Module):
    """As in TransformerLens, activations pass through modules that do nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.up, self.mlp.down = nn.Linear(8, width), nn.Linear(width, 8)
        self.mlp.hook_post = nn.Identity()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        post = self.mlp.hook_post(self.mlp.up(x).relu())
        return x + self.dropout(self.mlp.down(post))


class Plain(nn.Module):
    def __init__(self, layers: int = 2, width: int = 24, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return x


POST = "blocks.*.mlp.hook_post"


def token_ids(batches: int = 4, samples: int = 6, sequence: int = 20) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (samples, sequence), generator=g) for _ in range(batches)]


def by_hand(
    model: nn.Module, modules: Sequence[str], batches: Sequence[Any], inputs: bool = False
) -> dict[str, Tensor]:
    """The activations of all batches, taken by hooks of the test's own."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def take(name: str) -> Callable[..., None]:
        return lambda module, args, output: found[name].append(
            (args[0] if inputs else output).clone()
        )

    handles = [model.get_submodule(x).register_forward_hook(take(x)) for x in modules]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    suffix = ":input" if inputs else ""
    return {name + suffix: torch.cat(x) for name, x in found.items()}


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


class Changing(nn.Module):
    """Centres its batch, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place, self.up = in_place, nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x.sub_(1) if self.in_place else x - 1)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "mapping"])
def test_a_model_that_changes_its_batch_is_refused(kind: str) -> None:
    x = torch.randn(6, 20, 8)
    batch = {"tensor": x, "tuple": (x,), "mapping": {"x": x}}[kind]
    good, bad = Changing(in_place=False), Changing(in_place=True)
    for pair, name in (((bad, good), "first"), ((good, bad), "second")):
        with pytest.raises(InputError, match=rf"^{name}: changes its batch in place, .*; have"):
            uf.correlate_models(*pair, [batch], hooks="up", names=("first", "second"))
    uf.correlate_models(good, good, [batch], hooks="up")


def test_each_model_gets_its_own_copy_of_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.randn(6, 20, 8)
    before, bad = x.clone(), Changing(in_place=True)
    result = uf.correlate_models(bad, Changing(in_place=False), [x], hooks="up")
    assert torch.equal(x, before)
    assert result.correlation.min() > 0.999


def test_by_index_layers_of_other_names_are_paired_in_order() -> None:
    a, b, batches = gpt2(width=24), Plain(width=24), token_ids()
    live = uf.correlate_models(a, b, batches, hooks="*.mlp.act", hooks_b=POST)
    assert live.layer[0] == "transformer.h.0.mlp.act"
    assert live.match_layer[0] == "blocks.0.mlp.hook_post"
    assert live.match_layer[-1] == "blocks.1.mlp.hook_post"
    x = by_hand(a, ["transformer.h.1.mlp.act"], batches)
    y = by_hand(b, ["blocks.1.mlp.hook_post"], batches)
    stored = uf.correlate(*x.values(), *y.values(), rotation="none", draws=0)
    torch.testing.assert_close(live.correlation[24:], stored.correlation, rtol=0, atol=1e-6)


def test_layers_of_the_same_names_are_paired_by_name_in_any_order() -> None:
    a, b = Plain(seed=1), Plain(seed=2)
    one = uf.correlate_models(a, b, token_ids(), hooks=POST)
    other = uf.correlate_models(a, b, token_ids(), hooks=POST, hooks_b=["*.1.*post", "*.0.*post"])
    assert other.match_layer == one.layer
    assert torch.equal(other.correlation, one.correlation)


def test_a_model_with_itself() -> None:
    model, batches = Plain(), token_ids()
    live = uf.correlate_models(model, model, batches, hooks=POST)
    alive = ~live.dead
    torch.testing.assert_close(live.correlation[alive], torch.ones(int(alive.sum())).double())
    x = by_hand(model, ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"], batches)
    live = uf.correlate_models(model, model, batches, hooks=POST, match="best", exclude_self=True)
    assert_same(live, uf.correlate(x, x, match="best", exclude_self=True), 1e-6)
    # Its layers with one another.
    live = uf.correlate_models(model, model, batches, hooks="*.0.*post", hooks_b="*.1.*post")
    stored = uf.correlate(*x.values())
    torch.testing.assert_close(live.correlation, stored.correlation, equal_nan=True)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"ids": x}])
def test_batches_of_every_kind(wrap: Callable[[Tensor], Any]) -> None:
    a, b, ids = Plain(seed=1), Plain(seed=2), token_ids()
    plain = uf.correlate_models(a, b, ids, hooks=POST)
    live = uf.correlate_models(a, b, (wrap(x) for x in ids), hooks=POST)
    assert torch.equal(live.correlation, plain.correlation)


def padded() -> tuple[list[BatchEncoding], list[Tensor]]:
    """Batches of a tokenizer, and where their padding is not."""
    masks = [torch.arange(20) < torch.tensor([[20], [7], [1], [13], [20], [2]])] * 4
    batches = [
        BatchEncoding({"input_ids": x, "attention_mask": keep.long()})
        for x, keep in zip(token_ids(), masks, strict=True)
    ]
    return batches, masks


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


@pytest.mark.parametrize("match", ["index", "best"])
def test_bad_tokens_are_counted_over_all_batches(match: str) -> None:
    a, batches = Plain(), token_ids()
    batches = [torch.where(x == 3, 4, x) for x in batches]
    batches[2][1, 5] = 3
    with torch.no_grad():
        a.embed.weight[3] = torch.inf
    with pytest.raises(InputError, match=f"has .* at token {2 * 120 + 20 + 5}, neuron"):
        uf.correlate_models(a, Plain(seed=1), batches, hooks=POST, match=match)


@pytest.mark.parametrize("fails", [False, True])
def test_models_are_left_as_they_were(fails: bool) -> None:
    a, b, batches = Plain(seed=1), Plain(seed=2), token_ids()
    a.train()
    a.blocks[1].eval()
    b.eval()
    before = [m.training for model in (a, b) for m in model.modules()]
    if fails:
        with pytest.raises(IndexError):
            uf.correlate_models(a, b, [*batches, torch.tensor([[99]])], hooks=POST)
    else:
        twice = [uf.correlate_models(a, b, batches, hooks=POST).correlation for _ in range(2)]
        assert torch.equal(*twice)  # without dropout
    assert [m.training for model in (a, b) for m in model.modules()] == before
    for module in (*a.modules(), *b.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(x.grad is None for x in a.parameters())


def test_activations_are_given_up_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    kept = uf.PairedCorrelation.update_rows

    def watched(self: Any, a: Tensor, b: Tensor, mask: Any, origin: Any) -> None:
        assert [x() for x in alive] == [None] * len(alive)
        kept(self, a, b, mask, origin)
        alive.extend(weakref.ref(x.untyped_storage()) for x in (a, b))

    monkeypatch.setattr(uf.PairedCorrelation, "update_rows", watched)
    # Linear's output lives no longer in the model once ReLU has replaced it.
    uf.correlate_models(Plain(seed=1), Plain(seed=2), token_ids(), hooks="blocks.*.mlp.up")
    assert len(alive) == 4 * 2 * 2


def test_progress() -> None:
    calls: list[tuple[int, int | None]] = []

    def report(done: int, total: int | None) -> None:
        calls.append((done, total))

    options: Mapping[str, Any] = {"hooks": POST, "draws": 0, "rotation": "none"}
    uf.correlate_models(Plain(), Plain(), token_ids(2), progress=report, **options)
    uf.correlate_models(Plain(), Plain(), iter(token_ids(1)), progress=report, **options)
    assert calls == [(1, 2), (2, 2), (1, None)]


class Half(nn.Module):
    """Sees every other token alone."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__()
        self.model, self.flip = Plain(), flip

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids.T.contiguous() if self.flip else ids[:, ::2])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batches": []}, InputError, "batches: there are none"),
        ({"batches": token_ids()[0]}, TypeError, "batches: .* got Tensor; give a list"),
        ({"batches": {"ids": 1}}, TypeError, "batches: expected an iterable of batches, got dict"),
        ({"batches": 3}, TypeError, "batches: .* got int"),
        ({"hooks": "nothing"}, InputError, "hooks: no module matches 'nothing'; there are 'embed'"),
        ({"hooks_b": "*.0.*post"}, InputError, "a and b: have different layers: only a has"),
        ({"hooks": "embed:input"}, InputError, "layer 'embed:input' has dtype int64; convert"),
        (
            {"model_b": Plain(width=16)},
            InputError,
            "so 24 and 16 neurons; match='index' needs equal",
        ),
        ({"model_b": Plain(layers=3)}, InputError, "only b has 'blocks.2.mlp.hook_post'"),
        ({"model_b": 3}, TypeError, "model_b: expected a torch.nn.Module, got int"),
        (
            {"model_b": Half(), "hooks_b": f"model.{POST}"},
            InputError,
            r"'blocks.0.mlp.hook_post' and 'model.blocks.0.mlp.hook_post' has shape \[6, 20, 24\]"
            r" and \[6, 10, 24\], so 120 and 60 tokens; run both models on the same tokens",
        ),
        (
            {"model_b": Half(flip=True), "hooks_b": f"model.{POST}", "match": "best"},
            InputError,
            "as many tokens in another order",
        ),
        ({"mask": [torch.ones(6, 20).bool()]}, InputError, "more batches than masks"),
        ({"mask": [torch.ones(6, 20).bool()] * 5}, InputError, "more masks than batches"),
        ({"mask": lambda x: x < 0}, InputError, "mask: leaves no token"),
        ({"mask": lambda x: x[0] > 0}, InputError, r"mask: the mask has 20 values .* \[6, 20\]"),
        ({"mask": 3}, TypeError, "mask: expected a function or masks, got int"),
        ({"mask": "keep.npy"}, TypeError, "mask: expected a function or masks, got str"),
        ({"match": "nearest"}, InputError, "match: got 'nearest'"),
        ({"reverse": True}, InputError, "match: 'index' has no exclude_self and no reverse"),
        ({"match": "best", "mask": lambda x: x < 0}, InputError, "mask: leaves no token"),
        ({"names": "ab"}, TypeError, "names: expected those of both models"),
        ({"device": "tpu"}, InputError, "device: got 'tpu'"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], message: str) -> None:
    right = {"model_a": Plain(), "model_b": Plain(), "batches": token_ids(), "hooks": POST}
    with pytest.raises(error, match=message):
        uf.correlate_models(**{**right, **given})


@pytest.mark.gpu
@pytest.mark.parametrize("match", ["index", "best"])
def test_models_on_other_devices(match: str) -> None:
    a, b, batches = Plain(seed=1), Plain(seed=2), token_ids()
    expected = uf.correlate_models(a, b, batches, hooks=POST, match=match)
    live = uf.correlate_models(a, b.cuda(), batches, hooks=POST, match=match)
    assert live.summary["device"] == "cuda:0"
    torch.testing.assert_close(live.correlation, expected.correlation, rtol=0, atol=1e-4)


def test_a_layer_whose_width_changes_is_refused() -> None:
    model = nn.Sequential(nn.Identity())
    batches = [torch.randn(10, 4), torch.randn(10, 5)]
    with pytest.raises(InputError, match=r"batches: layers were .* hook modules of a fixed width"):
        uf.correlate_models(model, nn.Sequential(nn.Identity()), batches, hooks="0")


STREAM = """
import resource, torch, univfast as uf
from torch import nn

class Source(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(4))
        self.values = torch.rand(2048, 1024, generator=torch.Generator().manual_seed(seed))
    def forward(self, shift):
        for layer in self.layers:
            layer(self.values + shift)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def run(batches):
    a, b = Source(1), Source(2)
    return uf.correlate_models(a, b, range(batches), hooks="layers.*", draws=1)

run(1)
before = peak()
result = run(32)  # of 2 models x 4 layers x 8 MiB
assert result.summary["tokens"] == 65536
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STREAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB, of 2 GiB
