"""`ablate`: planted neurons, and numbers made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.ablated import (
    SITES,
    Planted,
    array,
    logits_by_hand,
    means_by_hand,
    planted_ids,
)
from support.live_models import gpt2, llama, neox
from univfast import reference
from univfast.ablation import next_token
from univfast.ablation.ablation_result import AblationResult
from univfast.experiment import ModelConfig, TinyTransformer


def own(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TinyTransformer(ModelConfig(sequence=20, d_model=16, heads=2, layers=2, d_mlp=32))


MODELS = {"gpt2": gpt2, "neox": neox, "llama": llama, "own": own}


def ids_of(samples: int = 6, length: int = 20) -> Tensor:
    return torch.randint(0, 50, (samples, length), generator=torch.Generator().manual_seed(5))


def test_an_essential_neuron_shows_and_an_idle_one_does_not() -> None:
    model, ids = Planted(), planted_ids()
    found = uf.ablate(model, [ids[:7], ids[7:]], "act", {"act": [0, 1]}, repeats=3)
    essential, idle = found.singles
    assert (essential.neuron, idle.neuron) == (0, 1)
    without = logits_by_hand(model, ids, {"act": means_by_hand(model, "act", [0], ids)})
    whole = logits_by_hand(model, ids, {})
    counts = torch.ones(len(ids), ids.shape[1] - 1, dtype=torch.bool)
    loss, kl = reference.ablation(array(whole), array(without), ids, counts)
    assert loss.mean > 0.3
    assert essential.effect.loss.mean == pytest.approx(loss.mean, abs=1e-6)
    assert essential.effect.loss.low == pytest.approx(loss.low, abs=1e-6)
    assert essential.effect.loss.high == pytest.approx(loss.high, abs=1e-6)
    assert essential.effect.kl.mean == pytest.approx(kl.mean, abs=1e-6)
    assert essential.effect.kl.high == pytest.approx(kl.high, abs=1e-6)
    assert essential.effect.loss.low > 0
    zero = idle.effect.loss, idle.effect.kl
    assert all((x.mean, x.low, x.high) == (0, 0, 0) for x in zero)
    (group,) = found.groups
    assert group.effect.loss.mean == pytest.approx(loss.mean, abs=1e-6)  # and the idle one
    assert group.finding == "more"
    assert found.sentences()[0].endswith("They matter more than others.")
    alone = uf.ablate(model, [ids], "act", {"act": [1]})
    assert alone.groups[0].finding == "no rise"
    assert alone.sentences()[0].endswith("The loss does not clearly rise without it.")


def test_the_loss_by_editing_weights() -> None:
    """A neuron at its mean is a bias: its output weights times the mean."""
    model, ids = Planted(), planted_ids()
    found = uf.ablate(model, [ids], "act", {"act": [0]}, repeats=0)
    mean = means_by_hand(model, "act", [0], ids)[0]
    edited = Planted()
    with torch.no_grad():
        edited.down.bias += mean * edited.down.weight[:, 0]
        edited.down.weight[:, 0] = 0

    def loss(of: nn.Module) -> float:
        with torch.no_grad():
            logits = of(ids)[:, :-1].flatten(0, 1)
        return float(nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))

    assert found.loss.mean == pytest.approx(loss(model), abs=1e-6)
    rise = found.groups[0].effect.loss.mean
    assert rise == pytest.approx(loss(edited) - loss(model), abs=1e-6)
    assert found.groups[0].finding == "not compared"
    assert found.sentences() == [
        f"Without the 1 chosen neuron of act the loss rises by {rise:.3g}"
        f" [{found.groups[0].effect.loss.low:.3g}, {found.groups[0].effect.loss.high:.3g}] nats a"
        " token. No random neurons were taken out beside it."
    ]


@pytest.mark.parametrize("kind", list(MODELS))
def test_real_architectures_by_hand(kind: str) -> None:
    model, ids = MODELS[kind](), ids_of()
    layers = [site.replace("*", str(i)) for i in range(2) for site in (SITES[kind],)]
    neurons = {layers[0]: [3, 7, 20], layers[1]: [0, 31]}
    found = uf.ablate(model, [ids[:4], ids[4:]], SITES[kind], neurons, top=4, repeats=2)
    counts = torch.ones(6, 19, dtype=torch.bool)
    whole = logits_by_hand(model, ids, {})
    means = {x: means_by_hand(model, x, range(32), ids) for x in layers}

    def check(effect: Any, sets: dict[str, list[int]]) -> None:
        values = {x: {n: means[x][n] for n in own} for x, own in sets.items()}
        without = logits_by_hand(model, ids, values)
        loss, kl = reference.ablation(array(whole), array(without), ids, counts)
        assert abs(loss.mean) > 1e-7  # it does something
        for got, expected in ((effect.loss, loss), (effect.kl, kl)):
            assert got.mean == pytest.approx(expected.mean, abs=3e-7)
            assert got.low == pytest.approx(expected.low, abs=3e-7)
            assert got.high == pytest.approx(expected.high, abs=3e-7)

    assert [group.layers for group in found.groups] == [[layers[0]], [layers[1]], layers]
    check(found.groups[0].effect, {layers[0]: neurons[layers[0]]})
    check(found.groups[1].effect, {layers[1]: neurons[layers[1]]})
    check(found.groups[2].effect, neurons)
    assert [(x.layer, x.neuron) for x in found.singles] == [
        *((layers[0], n) for n in (3, 7, 20)),
        (layers[1], 0),
    ]
    check(found.singles[1].effect, {layers[0]: [7]})
    check(found.singles[3].effect, {layers[1]: [0]})
    assert found.documents == 6
    assert found.tokens == found.mean_tokens == 6 * 19


def test_differences_are_paired_and_means_are_of_all_sets() -> None:
    model, ids = gpt2(), ids_of()
    layer = "transformer.h.0.mlp.act"
    found = uf.ablate(model, [ids], SITES["gpt2"], {layer: [1, 2, 3]}, repeats=4, top=0)
    (group,) = found.groups
    assert group.random_mean is not None
    assert group.difference is not None
    sets = [one.loss.mean for one in group.random]
    assert len({*sets}) > 1
    assert group.random_mean.loss.mean == pytest.approx(sum(sets) / 4, abs=1e-12)
    difference = group.effect.loss.mean - sum(sets) / 4
    assert group.difference.loss.mean == pytest.approx(difference, abs=1e-12)
    width = group.difference.loss.high - group.difference.loss.low
    assert width > 0
    assert group.candidates == {layer: 29}
    assert group.likeness.distinct <= 12


def test_a_layer_with_too_few_others_says_so() -> None:
    found = uf.ablate(Planted(), [planted_ids()], "act", {"act": range(8)}, top=0)
    (group,) = found.groups
    assert group.random == []
    assert group.difference is None
    assert group.lacking == ["act"]
    (sentence,) = found.sentences()
    assert "act has 4 that are live and not among them, too few to draw 8 from." in sentence


def test_what_else_reads_a_layer_s_memory_is_left_as_it_is() -> None:
    class Skip(Planted):
        def __init__(self) -> None:
            super().__init__()
            self.through = nn.Identity()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            x = self.act(self.up(self.embed(input_ids)))
            return self.down(self.through(x)) - 0.5 * self.down(x)

    model, ids = Skip(), planted_ids()
    found = uf.ablate(model, [ids], "through", {"through": [0]}, repeats=0, top=0)
    means = means_by_hand(model, "through", [0], ids)
    whole, without = (logits_by_hand(model, ids, x) for x in ({}, {"through": means}))
    counts = torch.ones(20, 11, dtype=torch.bool)
    loss, _ = reference.ablation(array(whole), array(without), ids, counts)
    assert found.groups[0].effect.loss.mean == pytest.approx(loss.mean, abs=1e-6)


def test_tokens_that_are_never_predicted_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Planted):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            x = super().forward(input_ids).clone()
            x[..., 4] = -torch.inf
            return x

    call: Any = {"batches": [planted_ids()], "hooks": "act", "neurons": {"act": [0, 3]}}
    found = uf.ablate(Never(), **call)
    assert 0 < found.groups[0].effect.kl.mean < math.inf
    monkeypatch.setattr(next_token, "_BLOCK_BYTES", 8 * 5 * 7)  # seven tokens at a time
    blocks = uf.ablate(Never(), **call)
    assert blocks.groups[0].effect.kl.mean == pytest.approx(
        found.groups[0].effect.kl.mean, abs=1e-12
    )
    assert blocks.loss.mean == pytest.approx(found.loss.mean, abs=1e-12)


def numbers(found: AblationResult) -> dict[str, Any]:
    return {k: v for k, v in found.to_dict().items() if k != "settings"}


def test_a_seed_gives_the_same_again_and_another_other_sets() -> None:
    model, ids = gpt2(), ids_of()
    call: Any = {"hooks": SITES["gpt2"], "neurons": {"transformer.h.1.mlp.act": [4, 5, 6]}}
    one, same, other = (uf.ablate(model, [ids], seed=seed, **call) for seed in (3, 3, 4))
    assert numbers(one) == numbers(same)
    assert one.groups[0].effect == other.groups[0].effect
    assert one.groups[0].random != other.groups[0].random


def test_means_are_of_the_first_tokens_that_count() -> None:
    model, ids = Planted(), planted_ids()
    few = uf.ablate(model, [ids[:5], ids[5:]], "act", {"act": [0]}, mean_tokens=30)
    assert few.mean_tokens == 30
    assert few.tokens == 20 * 11
    counts = torch.zeros(20, 11, dtype=torch.bool)
    counts.view(-1)[:30] = True
    mean = means_by_hand(model, "act", [0], ids, counts)
    without = logits_by_hand(model, ids, {"act": mean})
    whole = logits_by_hand(model, ids, {})
    loss, _ = reference.ablation(array(whole), array(without), ids, torch.ones_like(counts))
    assert few.groups[0].effect.loss.mean == pytest.approx(loss.mean, abs=1e-6)


@pytest.mark.parametrize("given", ["mask", "attention_mask", "both"])
def test_which_tokens_count(given: str) -> None:
    model, ids = Planted(), planted_ids()
    keep = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    there = torch.ones_like(keep)
    there[3, 7:] = False
    there[5, :] = False
    there[6, 1:] = False
    there[7, :3] = False
    counts = torch.ones(20, 11, dtype=torch.bool)
    batch: Any = ids
    mask = None
    if given != "attention_mask":
        mask = [keep]
        counts &= keep[:, :-1]
    if given != "mask":
        batch = {"input_ids": ids, "attention_mask": there.long()}
        counts &= there[:, :-1] & there[:, 1:]
    found = uf.ablate(model, [batch], "act", {"act": [0, 5]}, mask=mask, top=0)
    mean = means_by_hand(model, "act", [0, 5], ids, counts)
    whole = logits_by_hand(model, ids, {})
    without = logits_by_hand(model, ids, {"act": mean})
    loss, kl = reference.ablation(array(whole), array(without), ids, counts)
    assert found.tokens == int(counts.sum())
    assert found.documents == int(counts.any(dim=1).sum()) == (20 if given == "mask" else 18)
    effect = found.groups[0].effect
    assert effect.loss.mean == pytest.approx(loss.mean, abs=1e-6)
    assert effect.loss.low == pytest.approx(loss.low, abs=1e-6)
    assert effect.kl.mean == pytest.approx(kl.mean, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, ids = Planted().to(dtype), planted_ids()
    found = uf.ablate(model, [ids], "act", {"act": [0, 1]}, repeats=1)
    expected = uf.ablate(Planted(), [ids], "act", {"act": [0, 1]}, repeats=1)
    got, like = found.singles[0].effect, expected.singles[0].effect
    assert got.loss.mean == pytest.approx(like.loss.mean, rel=0.02)
    assert got.kl.mean == pytest.approx(like.kl.mean, rel=0.02)
    assert found.singles[1].effect.loss.mean == 0


def test_one_document_has_no_interval() -> None:
    found = uf.ablate(Planted(), [planted_ids(1, 200)], "act", {"act": [0]})
    assert found.groups[0].effect.loss.mean > 0.3
    assert math.isnan(found.groups[0].effect.loss.low)
    assert found.groups[0].finding == "unknown"
    assert found.sentences()[0].endswith("Whether it matters more cannot be said.")
    assert found.sentences()[-1] == "Of a single document there are no intervals."
    few = uf.ablate(Planted(), [planted_ids(3, 40)], "act", {"act": [0]})
    assert few.sentences()[-1] == "Intervals are of 3 documents only, and as uncertain."
