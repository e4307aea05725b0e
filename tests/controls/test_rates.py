"""Rates: each neuron of a control is above 0 as often as the trained one of its number."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.live_models import Plain, gpt2, llama, neox, token_ids
from support.untrained import DEAD, WIDTH, Network, above, trained, values
from univfast.controls import PILOT_TOKENS, rates, shifts_of
from univfast.errors import InputError

ACTIVATIONS = {
    "relu": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "tanh gelu": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
}


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize("hooks", ["act.*", "up.*"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_rates_are_the_trained_ones_in_every_layer(act: str, hooks: str, batches: int) -> None:
    if act == "in place" and hooks == "up.*":
        pytest.skip("what the hooks give is overwritten")
    model, pilot = trained(ACTIVATIONS[act]), list(torch.cat(token_ids()).chunk(batches))
    control = uf.control(model, 1, batches=pilot, hooks=hooks)
    expected, found = (above(x, hooks, pilot) for x in (model, control))
    assert list(found) == [hooks.replace("*", str(i)) for i in range(3)]
    plain = above(uf.control(model, 1, match_rate=False), hooks, pilot)
    for layer, count in expected.items():
        assert (count - found[layer]).abs().max() <= 1  # of 480
        assert (count - plain[layer]).abs().max() > 100
        assert count.max() > 100


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_dead_neurons_stay_dead(act: str) -> None:
    model, pilot = trained(ACTIVATIONS[act]), token_ids()
    control = uf.control(model, 1, batches=pilot, hooks="act.*")
    elsewhere = [torch.randint(0, 50, (50, 40), generator=torch.Generator().manual_seed(2))]
    for batches in (pilot, elsewhere):
        for layer in values(control, "act.*", batches).values():
            assert layer.isfinite().all()
            assert not layer[:, :DEAD].any()


def test_neurons_that_vary_below_0_are_not_dead() -> None:
    """GELU is not constant there."""
    model, pilot = trained(nn.GELU), token_ids()
    with torch.no_grad():
        model.up[0].bias[0] = -3
    control = uf.control(model, 0, batches=pilot, hooks="act.0")
    (layer,) = values(control, "act.0", pilot).values()
    assert (layer[:, 0] > 0).sum() == 0
    assert layer[:, 0].std() > 0


def test_thresholds_lie_between_values() -> None:
    v = torch.tensor([[4.0, 2.0, 1.0, -1.0]] * 6)
    count = torch.tensor([0, 1, 2, 3, 4, 0])
    dead = torch.tensor([False] * 5 + [True])
    found = rates._threshold(v, count, dead)
    assert found[1:4].tolist() == [3.0, 1.5, 0.0]
    assert 4 < found[0] < 5
    assert -2 < found[4] < -1
    assert 500 < found[5] < 1e5
    for dtype in (torch.float32, torch.float64):  # no room between
        one = torch.ones((), dtype=dtype)
        pair = torch.stack([torch.nextafter(one, 2 * one), one])[None]
        threshold = rates._threshold(pair, torch.tensor([1]), torch.tensor([False]))
        assert ((pair - threshold) > 0).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("values", "wanted", "got"),
    [
        ([3, 2, 2, 2, 1], 2, 1),
        ([3, 2, 2, 2, 1], 3, 4),
        ([2, 2, 2, 1, 0], 1, 3),  # not none: it would be dead
        ([2, 2, 2, 2, 2], 4, 5),
    ],
)
def test_equal_values_go_together(values: list[float], wanted: int, got: int) -> None:
    v = torch.tensor([values], dtype=torch.float32)
    threshold = rates._threshold(v, torch.tensor([wanted]), torch.tensor([False]))
    assert int((v - threshold[:, None] > 0).sum()) == got


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gpt2": (gpt2, "transformer.h.*.mlp.act"),
    "conv1d": (gpt2, "transformer.h.*.mlp.c_fc"),
    "neox": (neox, "gpt_neox.layers.*.mlp.act"),
    "gated": (llama, "model.layers.*.mlp.act_fn"),
    "gate": (llama, "model.layers.*.mlp.gate_proj"),
    "functional": (Plain, "blocks.*.mlp.up"),
    "input": (trained, "act.*:input"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_kinds_of_models(name: str) -> None:
    make, hooks = MODELS[name]
    model, pilot = make().eval(), token_ids()
    control = uf.control(model, 0, batches=pilot, hooks=hooks)
    found = above(control, hooks, pilot)
    for layer, count in above(model, hooks, pilot).items():
        # Where tokens are alike, as in a first layer without positions, they go together.
        ties = 20 if "0" in layer and name in ("neox", "gated", "gate", "functional") else 1
        assert (count - found[layer]).abs().max() <= (WIDTH if name == "functional" else ties)


def test_half_precision_stays_half() -> None:
    class Half(Network):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            return self.act[0](self.up[0](x + x.cumsum(1)))

    model, pilot = Half(nn.GELU, layers=1).bfloat16(), token_ids()
    control = uf.control(model, 0, batches=pilot, hooks="act.*")
    expected, found = (above(x, "act.*", pilot) for x in (model, control))
    for layer, count in expected.items():
        assert (count - found[layer]).abs().max() <= 10  # many are equal
    assert {x.dtype for x in values(control, "act.*", pilot).values()} == {torch.bfloat16}


def test_masks_leave_tokens_out() -> None:
    model, pilot = trained(), token_ids()
    masks = [torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.4 for x in pilot]
    control = uf.control(model, 0, batches=pilot, hooks="act.*", mask=masks)
    keep = torch.cat(masks).flatten()
    found = values(control, "act.*", pilot)
    for layer, x in values(model, "act.*", pilot).items():
        assert ((x[keep] > 0).sum(0) - (found[layer][keep] > 0).sum(0)).abs().max() <= 1
        assert ((x > 0).sum(0) - (found[layer] > 0).sum(0)).abs().max() > 1


def test_the_pilot_is_the_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "PILOT_TOKENS", 300)
    model, batches = trained(), token_ids()
    given = iter([*batches, torch.tensor([[99]])])  # unknown, and never read
    control = uf.control(model, 0, batches=given, hooks="act.*")
    found = values(control, "act.*", batches)
    for layer, x in values(model, "act.*", batches).items():
        assert ((x[:300] > 0).sum(0) - (found[layer][:300] > 0).sum(0)).abs().max() <= 1
    assert PILOT_TOKENS == 16_384


def test_layers_are_taken_in_the_order_in_which_they_run() -> None:
    class Backwards(Network):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            x = x + x.cumsum(1) / 10
            for i in (2, 0, 1):
                x = x + self.down[i](self.act[i](self.up[i](self.norm(x))))
            return x

    torch.manual_seed(0)
    model, pilot = Backwards(), token_ids()
    with torch.no_grad():
        for up in model.up:
            up.bias -= 1
    control = uf.control(model, 0, batches=pilot, hooks="act.*")
    found = above(control, "act.*", pilot)
    for layer, count in above(model, "act.*", pilot).items():
        assert (count - found[layer]).abs().max() <= 1


def test_the_trained_model_is_left_as_it_was() -> None:
    model, pilot = trained().train(), token_ids()
    model.act[1].eval()
    before = copy.deepcopy(model.state_dict()), [x.training for x in model.modules()]
    control = uf.control(model, 0, batches=pilot, hooks="act.*")
    assert all(torch.equal(x, before[0][name]) for name, x in model.state_dict().items())
    for network in (model, control):
        assert [x.training for x in network.modules()] == before[1]
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())
    hooked = [x for x in control.modules() if x._forward_hooks or x._forward_pre_hooks]
    assert hooked == [*control.act]


def test_shifts_move_with_the_control_and_are_copied_with_it() -> None:
    model, pilot = trained(), token_ids()
    control = uf.control(model, 0, batches=pilot, hooks="act.*")
    expected = above(control, "act.*", pilot)
    for other in (copy.deepcopy(control), pickle.loads(pickle.dumps(control))):
        assert all(torch.equal(x, expected[k]) for k, x in above(other, "act.*", pilot).items())
    assert {x.dtype for x in shifts_of(control.double()).values()} == {torch.float64}
    with pytest.raises(RuntimeError, match="univfast_shift_of_input"):
        trained().load_state_dict(control.state_dict())


class Shrinks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1)


@pytest.mark.parametrize(
    ("make", "hooks", "layer"),
    [
        (llama, "model.layers.*.mlp.down_proj:input", r"mlp.down_proj:input' \(Linear\)"),
        (llama, "model.layers.*.mlp.up_proj", r"mlp.up_proj' \(Linear\)"),
        (llama, "model.layers.*.mlp", r"layers.0.mlp' \(LlamaMLP\)"),
        (gpt2, "*.ln_2", r"h.0.ln_2' \(LayerNorm\)"),
        (Plain, "*.hook_post", r"hook_post' \(Identity\)"),
        (Plain, "*.dropout", r"dropout' \(Dropout\)"),
        (lambda: trained(nn.Tanh), "act.*", r"'act.0' \(Tanh\)"),
        (lambda: trained(nn.Sigmoid), "act.*", r"'act.0' \(Sigmoid\)"),
        (lambda: trained(nn.PReLU), "act.*", r"'act.0' \(PReLU\)"),
        (lambda: trained(Shrinks), "act.*", r"'act.0' \(Shrinks\)"),
        (lambda: trained(nn.Tanh), "up.*", r"'up.0' \(Linear\)"),
    ],
)
def test_other_layers_are_refused_by_name(
    make: Callable[[], nn.Module], hooks: str, layer: str
) -> None:
    with pytest.raises(InputError, match=rf"^hooks: rates cannot .*{layer}[^\n]*; hook those, or"):
        uf.control(make(), 0, batches=token_ids(), hooks=hooks)


def test_values_that_are_not_finite_are_refused() -> None:
    class Overflows(Network):
        def forward(self, ids: Tensor) -> Tensor:
            return self.act[0](self.up[0](self.embed(ids) * 3e38))

    model = Overflows(layers=1)
    model.embed.weight.data *= 1e-38
    with pytest.raises(InputError, match="control: gives values that are not finite at layer 'act"):
        uf.control(model, 0, batches=token_ids(), hooks="act.0")
