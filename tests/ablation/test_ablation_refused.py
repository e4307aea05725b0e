"""`ablate`: what is refused, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.ablated import SITES, Planted, planted_ids
from support.live_models import gpt2
from support.made_up import made_up

IDS = planted_ids()


def refused(match: str, model: nn.Module | None = None, batches: Any = None, **given: Any) -> None:
    call: Any = {"hooks": "act", "neurons": {"act": [0]}, **given}
    batches = [IDS] if batches is None else batches
    with pytest.raises((uf.InputError, TypeError), match=match) as caught:
        uf.ablate(model or Planted(), batches, call.pop("hooks"), call.pop("neurons"), **call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"neurons": {"act": [12]}},
            r"^neurons: layer 'act' has 12 neurons, numbered from 0, and none of",
        ),
        ({"neurons": {"act": [1, 1]}}, r"^neurons: layer 'act' has a number twice; give each once"),
        ({"neurons": {"act": [-1]}}, r"^neurons: layer 'act': got -1, expected at least 0"),
        ({"neurons": {"act": [0.5]}}, r"^neurons: layer 'act': expected an integer, got float"),
        ({"neurons": {"act": 3}}, r"^neurons: expected numbers of layer 'act'"),
        ({"neurons": {}}, r"^neurons: none is chosen, so there is nothing to take out; "),
        ({"neurons": {"act": []}}, r"^neurons: none is chosen"),
        ({"neurons": [0]}, r"^neurons: expected a result, or numbers by layer, got list"),
        ({"neurons": {"other": [0]}}, r"^hooks: layer 'other' is none of those that they match \("),
        ({"hooks": "nothing"}, r"^hooks: no module matches 'nothing'; there are"),
        ({"layers": ["up"]}, r"^layers: there is no layer 'up'; there are 'act'; name one"),
        ({"layers": "act"}, r"^layers: expected a list of names, got a str"),
        ({"learned": True}, r"^learned: is a column of a result; leave it out"),
        ({"top": -1}, r"^top: got -1, expected at least 0"),
        ({"repeats": 1.5}, r"^repeats: expected an integer, got float"),
        ({"repeats": 10_001}, r"^repeats: got 10001, expected at most 10000"),
        ({"seed": -1}, r"^seed: got -1"),
        ({"mean_tokens": 0}, r"^mean_tokens: got 0, expected at least 1"),
        ({"batches": iter([IDS])}, r"^batches: is an iterator, which can be used only once, "),
        ({"batches": IDS}, r"^batches: expected an iterable of batches, got Tensor"),
        ({"batches": []}, r"^batches: no token counts whose next one is in the same sample; "),
        ({"batches": [IDS[:, :1]]}, r"^batches: no token counts whose next one is in the same"),
        ({"batches": [IDS.float()]}, r"^batches: have no token ids \[samples, length\]"),
        ({"batches": [IDS[0]]}, r"^batches: have no token ids \[samples, length\]"),
        ({"batches": [{"ids": IDS}]}, r"^batches: have no token ids"),
        ({"mask": [IDS < 0]}, r"^batches: no token counts whose next one is in the same sample; "),
        ({"mask": [IDS[:3] == 0]}, r"^mask: the mask has 36 values of shape"),
        ({"mask": iter([IDS == 0])}, r"^mask: is an iterator"),
    ],
)
def test_arguments(given: dict[str, Any], match: str) -> None:
    refused(match, **given)


class Gives(nn.Module):
    """A `Planted` that gives something else in place of logits."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.act, self.inner, self.give = nn.Identity(), Planted(), give

    def forward(self, input_ids: Tensor) -> Any:
        self.act(self.inner.embed(input_ids))
        return self.give(self.inner(input_ids))


NO_LOGITS = r"^model: gives no logits \[samples, length, vocabulary\]"


@pytest.mark.parametrize(
    ("give", "match"),
    [
        (lambda x: {"last_hidden_state": x}, NO_LOGITS),
        (lambda x: x[:, -1:], NO_LOGITS + r" but \[20, 1, 5\]; use a causal"),
        (lambda x: x.argmax(-1), NO_LOGITS),
        (lambda x: "none", NO_LOGITS),
        (lambda x: x[..., :2], r"^model: gives logits of 2 tokens, and the batches hold token 2; "),
        (lambda x: x / 0 * 0, r"^model: its loss is not finite"),
        (lambda x: x + x.mean(dim=1, keepdim=True), r"^model: what it predicts of a token follows"),
        (lambda x: x + x.roll(-1, dims=1), r"^model: what it predicts of a token follows"),
    ],
)
def test_models_that_are_no_causal_language_models(give: Any, match: str) -> None:
    refused(match, Gives(give))


def test_what_logits_may_be_in() -> None:
    expected = uf.ablate(Gives(lambda x: x), [IDS], "act", {"act": [0]}).to_dict()
    for give in (lambda x: {"logits": x}, lambda x: (x, None), lambda x: [x]):
        assert uf.ablate(Gives(give), [IDS], "act", {"act": [0]}).to_dict() == expected


def test_modules_whose_neurons_cannot_be_told() -> None:
    class Twice(Planted):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.down(self.act(self.act(self.up(self.embed(input_ids)))))

    refused(r"^hooks: layer 'act' was called twice in one forward pass", Twice())
    tied = Planted()
    tied.again = tied.act
    refused(r"^hooks: 'act' and 'again' are one module", tied)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x, None

    class Tuple(Planted):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.down(self.pair(self.act(self.up(self.embed(input_ids))))[0])

    given: Any = {"hooks": "pair", "neurons": {"pair": [0]}}
    refused(
        r"^hooks: layer 'pair' gives a tuple, in which no neuron can be set; hook", Tuple(), **given
    )
    summed = nn.Sequential(OrderedDict(a=Planted(), act=nn.Flatten(), b=nn.Unflatten(1, (12, 5))))
    given = {"hooks": "act", "neurons": {"act": [0]}}
    refused(r"^hooks: layer 'act' gave shape \[20, 60\] for tokens \[20, 12\]", summed)


def test_layers_without_finite_values() -> None:
    class Broken(Planted):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            x = self.act(self.up(self.embed(input_ids)) * torch.inf).nan_to_num(posinf=1.0)
            return self.down(x)

    refused(r"^model: layer 'act' gives NaN or infinity, which has no mean; ", Broken())


def test_results_that_are_not_of_the_model() -> None:
    model = gpt2()
    layers = ("transformer.h.0.mlp.act", "transformer.h.1.mlp.act")
    ids = torch.randint(0, 50, (3, 10), generator=torch.Generator().manual_seed(0))
    given: Any = {"model": model, "batches": [ids], "hooks": SITES["gpt2"]}
    wide = made_up(80, 5, layers=layers)
    match = r"^neurons: layer 'transformer.h.0.mlp.act' has 40 neurons in the result, and 32 in"
    refused(match, neurons=wide, **given)
    fits = made_up(64, 5, layers=layers)
    none = made_up(64, 0, layers=layers)
    refused(r"^neurons: none is universal, so there is nothing to take out", neurons=none, **given)
    refused(r"^learned: the result was not compared", neurons=fits, learned=True, **given)
    match = r"^layers: layer 'transformer.h.1.mlp.act' has no universal neuron; name one of"
    refused(match, neurons=fits, layers=[layers[1]], **given)
    far = made_up(64, 5, layers=("mlp.1", "mlp.2"))
    refused(r"^hooks: layer 'mlp.1' is none of those that they match \(", neurons=far, **given)


def state(model: nn.Module) -> list[object]:
    return [
        (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("kind", ["act", "down:input"])
def test_nothing_is_left_behind(kind: str) -> None:
    model = Planted()
    model.act.eval()
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    ids = IDS.clone()
    with torch.enable_grad():
        uf.ablate(model, [ids], kind, {kind: [0, 3]})
        assert torch.is_grad_enabled()
    assert state(model) == before
    assert model.training
    assert torch.equal(ids, IDS)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_nothing_is_left_behind_after_an_error() -> None:
    model, calls = Planted(), [0]
    before = state(model)

    def fail(done: int, total: int | None) -> None:
        calls[0] = done
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uf.ablate(model, [IDS], "act", {"act": [0, 3]}, progress=fail)
    assert calls == [4]
    assert state(model) == before


def test_progress_counts_all_runs_of_the_model() -> None:
    seen: list[tuple[int, int | None]] = []
    uf.ablate(
        Planted(),
        [IDS[:10], IDS[10:]],
        "act",
        {"act": [0, 3]},
        repeats=3,
        progress=lambda *x: seen.append(x),
    )
    # Means, the whole model, the two neurons, three random sets, each of the two.
    assert [done for done, _ in seen] == list(range(1, 2 * (1 + 1 + 1 + 3 + 2) + 1))
    assert {total for _, total in seen} == {16}


def test_results_name_universal_and_learned_neurons() -> None:
    layers = ("transformer.h.0.mlp.act", "transformer.h.1.mlp.act")
    result = made_up(64, 5, dead=3, layers=layers)
    ids = torch.randint(0, 50, (4, 10), generator=torch.Generator().manual_seed(0))
    found = uf.ablate(gpt2(), [ids], SITES["gpt2"], result, top=3, repeats=2)
    (group,) = found.groups
    assert found.word == "universal"
    assert group.neurons == {layers[0]: [0, 1, 2, 3, 4]}
    assert group.candidates == {layers[0]: 27}
    best = result.excess[:5].argsort(descending=True)[:3].tolist()
    assert [one.neuron for one in found.singles] == best
    assert [one.excess for one in found.singles] == result.excess[best].tolist()
    flags = torch.zeros(64, dtype=torch.bool)
    flags[1] = flags[33] = True
    both = dataclasses.replace(result, learned=flags, universal=result.universal | flags)
    learned = uf.ablate(gpt2(), [ids], SITES["gpt2"], both, learned=True)
    assert learned.word == "learned"
    assert [group.neurons for group in learned.groups] == [
        {layers[0]: [1]},
        {layers[1]: [1]},
        {layers[0]: [1], layers[1]: [1]},
    ]
    # Neither those that are universal, nor dead ones, of which all three are in the second layer.
    assert [group.candidates for group in learned.groups] == [
        {layers[0]: 27},
        {layers[1]: 28},
        {layers[0]: 27, layers[1]: 28},
    ]
    numbered = made_up(64, 5, dead=3, layers=("mlp.0", "mlp.1"))
    by_number = uf.ablate(gpt2(), [ids], SITES["gpt2"], numbered, top=3, repeats=2)
    assert by_number.groups[0].effect == group.effect
    assert by_number.groups[0].sites == [layers[0]]
