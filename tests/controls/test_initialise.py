"""A fresh copy of a model: what is drawn anew, what is kept, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from support.live_models import gpt2, llama, neox
from support.untrained import trained
from univfast.controls import initialise
from univfast.controls.shifts import add_shifts
from univfast.errors import InputError
from univfast.experiment import ModelConfig, TinyTransformer


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [trained, gpt2, llama, neox])
def test_a_seed_gives_the_same_weights_and_others_give_others(make) -> None:  # type: ignore[no-untyped-def]
    model = make()
    before = state(model)
    numbers = torch.get_rng_state()
    first, again, other, side = (
        state(initialise(model, seed, side)) for seed, side in ((0, ""), (0, ""), (1, ""), (0, "1"))
    )
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, value in first.items() if value.float().std() > 0]
    assert any("bias" not in name for name in drawn)
    for one, another in ((first, before), (first, other), (first, side)):
        assert not any(torch.equal(one[name], another[name]) for name in drawn)


def test_two_models_of_one_configuration_have_controls_of_their_own() -> None:
    a, b = (initialise(gpt2(seed=seed), 0).state_dict() for seed in (1, 2))
    name = "transformer.h.0.mlp.c_fc.weight"
    assert not torch.equal(a[name], b[name])


def test_weights_are_drawn_as_the_architecture_draws_them() -> None:
    """For transformers, by the configuration; for others, as constructors of modules do."""
    model = gpt2()
    model.transformer.h[0].mlp.c_fc.weight.data.fill_(7.0)
    fresh = initialise(model, 0)
    block = fresh.transformer.h[0].mlp.c_fc
    assert block.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.1)
    assert not block.bias.any()
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    tiny = TinyTransformer(ModelConfig(sequence=16, d_model=16, heads=2, d_mlp=24))
    again = initialise(tiny, 0)
    assert again.blocks[0].mlp.up.weight.abs().max() <= 0.25  # uniform, to 1 / sqrt(16)
    assert torch.equal(again.blocks[0].mlp_norm.weight, torch.ones(16))
    assert torch.equal(again.positions, tiny.positions)


@pytest.mark.parametrize("make", [trained, gpt2])
def test_modes_dtypes_and_gradients_are_the_models(make) -> None:  # type: ignore[no-untyped-def]
    model = make().to(torch.bfloat16).eval()
    module = next(iter(model.children()))
    module.train()
    next(model.parameters()).requires_grad_(False)
    fresh = initialise(model, 0)
    assert [x.training for x in fresh.modules()] == [x.training for x in model.modules()]
    for own, theirs in zip(fresh.parameters(), model.parameters(), strict=True):
        assert (own.dtype, own.requires_grad) == (torch.bfloat16, theirs.requires_grad)
        assert own.data_ptr() != theirs.data_ptr()
        assert own.grad is None
    assert torch.get_default_dtype() == torch.float32


def test_running_means_are_learned_and_other_buffers_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2))
    model.register_buffer("table", torch.arange(3.0))
    model[1](torch.randn(10, 4) + 5)
    fresh = initialise(model, 0)
    assert not fresh[1].running_mean.any()
    assert model[1].running_mean.any()
    assert torch.equal(fresh.table, model.table)
    assert not torch.equal(fresh[2].in_proj_weight, model[2].in_proj_weight)


class Scaled(nn.Linear):
    """Has a parameter that its reset_parameters does not know."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.scale = nn.Parameter(torch.ones(3))


class Broken(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.ready = True

    def reset_parameters(self) -> None:
        if hasattr(self, "ready"):
            raise KeyError("nothing")


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Own, "parameter 'weight' cannot be re-initialised, as Own has no reset_parameters"),
        (lambda: nn.Sequential(Scaled()), "parameter '0.scale' cannot be re-initialised, as Scal"),
        (Broken, "reset_parameters of a Broken fails"),
        (lambda: nn.ModuleDict({"x": gpt2()}), "parameter 'x.transformer.* as Conv1D has no"),
    ],
)
def test_what_cannot_be_drawn_anew_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=rf"^model: {message}[^\n]*; give controls that you made"):
        initialise(make(), 0)


def test_a_lazy_module_is_run_first() -> None:
    with pytest.raises(
        InputError, match=r"^model: parameter 'weight' of a lazy module has no shap"
    ):
        initialise(nn.LazyLinear(3), 0)


def test_a_model_that_is_not_as_its_configuration_says_is_refused() -> None:
    model = copy.deepcopy(gpt2())
    model.transformer.h[1].mlp.act = nn.ReLU()
    with pytest.raises(InputError, match=r"'transformer.h.1.mlp.act' is not as its config"):
        initialise(model, 0)


def test_controls_and_other_things_are_refused() -> None:
    model = trained()
    add_shifts(model, {"act.0:input": torch.zeros(24)})
    with pytest.raises(InputError, match="is a control itself; give the trained model"):
        initialise(model, 0)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got int"):
        initialise(3, 0)  # type: ignore[type-var]
    with pytest.raises(InputError, match="seed: got -1"):
        initialise(trained(), -1)
    with pytest.raises(TypeError, match="seed: expected an integer"):
        initialise(trained(), "1")  # type: ignore[arg-type]
