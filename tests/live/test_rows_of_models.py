"""Rows of live models are the tokens of the batch, in their order, or they are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import univfast as uf


class Experts(nn.Module):
    """Tokens in the order of their experts, in and out."""

    def __init__(self, top: int) -> None:
        super().__init__()
        self.up, self.act, self.top = nn.Parameter(torch.randn(4, 8, 12)), nn.ReLU(), top

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.flatten().argsort(stable=True)
        token, expert = order // self.top, chosen.flatten()[order]
        hidden = self.act(torch.einsum("td,tdh->th", x[token], self.up[expert]))
        return torch.zeros(len(x), 12).index_add(0, token, hidden)


class Routed(nn.Module):
    """A mixture of experts between linear layers, with what else gives rows that are no tokens."""

    def __init__(self, top: int = 2) -> None:
        super().__init__()
        self.embed, self.gate = nn.Embedding(50, 8), nn.Linear(8, 4)
        self.experts = Experts(top)
        self.shared = nn.Linear(8, 6)
        self.packed, self.pooled, self.turned = nn.Identity(), nn.Identity(), nn.Identity()
        self.flat, self.last = nn.Identity(), nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        chosen = self.gate(x).flatten(0, 1).topk(self.experts.top, dim=-1).indices
        out = self.experts(x.flatten(0, 1), chosen).view(*input_ids.shape, 12)
        if attention_mask is not None:
            self.packed(x[attention_mask.bool()])
        self.pooled(x.mean(dim=1))
        self.turned(x.transpose(0, 1))
        self.flat(x.flatten(0, 1))
        self.last(x[:, -1:])
        return out


def pair(top: int = 2) -> list[Routed]:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(Routed(top).eval())
    return found


def ids(samples: int = 4, length: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (samples, length), generator=generator) for _ in range(5)]


def run(models: list[Routed], batches: Any, hooks: str, **options: Any) -> uf.CorrelationResult:
    return uf.correlate_models(*models, batches, hooks=hooks, match="index", draws=2, **options)


@pytest.mark.parametrize("hooks", ["experts", "flat"])
@pytest.mark.parametrize("samples", [1, 4])
def test_flat_rows_in_the_order_of_tokens_are_right(hooks: str, samples: int) -> None:
    models, batches = pair(), ids(samples)
    found = run(models, batches, hooks)
    values = []
    for model in models:
        rows: list[Tensor] = []
        keep = model.get_submodule(hooks).register_forward_hook(
            lambda module, args, output, rows=rows: rows.append(output.detach())
        )
        with keep, torch.no_grad():
            for batch in batches:
                model(batch)
        values.append(torch.cat(rows).double().numpy())
    both = np.corrcoef(values[0].T, values[1].T)
    want = np.diagonal(both, offset=values[0].shape[1])
    np.testing.assert_allclose(found.correlation.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("top", [1, 2])
def test_rows_within_experts_are_refused(top: int, samples: int) -> None:
    """With one expert a token there are as many rows as tokens, in another order."""
    with pytest.raises(uf.InputError, match=r"routing order.*: ?hook|routing order.*; hook") as got:
        run(pair(top), ids(samples), "experts.act")
    message = str(got.value)
    assert message.startswith("hooks: layer 'experts.act' of a ")
    assert "hook 'experts', whose output is in the order of the tokens" in message
    if top == 2:
        assert f"gave shape [{24 * samples}, 12] for tokens [{samples}, 12]" in message


def test_rows_within_experts_of_any_name_are_refused() -> None:
    """What tells is the order of rows, not what modules are called."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            inner = Routed(1)
            self.embed, self.gate, self.inner = inner.embed, inner.gate, inner.experts

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            out: Tensor = self.inner(x.flatten(0, 1), self.gate(x).argmax(-1).flatten())
            return out

    model = Hidden().eval()
    with pytest.raises(uf.InputError, match=r"'inner\.act' of a gives its rows in another order"):
        uf.correlate_models(model, model, ids(), hooks="inner.act")
    assert uf.correlate_models(model, model, ids(), hooks="inner").summary["tokens"] == 240


def masked() -> list[dict[str, Tensor]]:
    batches = [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in ids()]
    for batch in batches:
        batch["attention_mask"][1, 7:] = 0
    return batches


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ("packed", r"gave shape \[43, 8\] for tokens \[4, 12\], .* that is no padding, as of pack"),
        ("pooled", r"gave shape \[4, 8\] .*; that is a row a sample, as of what pools, .* mask="),
        ("last", r"gave shape \[4, 1, 8\] .*; that is a row a sample, .* the last token alone"),
        ("turned", r"gave shape \[12, 4, 8\] .*; its samples are on the second axis"),
    ],
)
def test_rows_that_are_no_tokens_are_refused(hooks: str, message: str) -> None:
    with pytest.raises(uf.InputError, match=f"^hooks: layer '{hooks}' of a {message}"):
        run(pair(), masked(), hooks)


def test_as_many_samples_as_tokens_on_another_axis_are_refused() -> None:
    with pytest.raises(
        uf.InputError, match=r"'turned' of a gave .*; its samples are on the second"
    ):
        run(pair(), ids(12, 12), "turned")
    assert run(pair(), ids(12, 12), "embed").summary["tokens"] == 5 * 144


def test_samples_are_compared_where_the_mask_says_so() -> None:
    models, batches = pair(), ids(9)
    found = run(models, batches, "pooled", mask=lambda x: torch.ones(len(x)).bool())
    with torch.no_grad():
        a, b = (torch.cat([m.embed(x).mean(1) for x in batches]).double().numpy() for m in models)
    want = np.diagonal(np.corrcoef(a.T, b.T), offset=8)
    np.testing.assert_allclose(found.correlation.numpy(), want, atol=1e-5)
    assert found.summary["tokens"] == 45


class Recurrent(nn.Module):
    """Over time, which may be first in batches, or within alone."""

    def __init__(self, time_first: bool, turns: bool = False) -> None:
        super().__init__()
        self.turns = turns
        self.inner = nn.GRU(4, 6, batch_first=not time_first)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.transpose(0, 1) if self.turns else x)[0]
        return out


@pytest.mark.parametrize("length", [7, 9])
@pytest.mark.parametrize("time_first", [False, True])
def test_recurrent_layers_with_samples_or_time_first(time_first: bool, length: int) -> None:
    torch.manual_seed(0)
    models = [Recurrent(time_first).eval() for _ in range(2)]
    batches = [torch.randn(n, length, 4) for n in (9, 9, 2)]
    found = uf.correlate_models(*models, batches, hooks="inner", match="index", draws=2)
    with torch.no_grad():
        a, b = (torch.cat([m(x).reshape(-1, 6) for x in batches]).double().numpy() for m in models)
    want = np.diagonal(np.corrcoef(a.T, b.T), offset=6)
    np.testing.assert_allclose(found.correlation.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("length", [7, 9])
def test_samples_that_one_model_puts_on_the_second_axis_are_refused(length: int) -> None:
    """Also where there are as many samples as tokens, so that shapes agree."""
    torch.manual_seed(0)
    plain, turned = Recurrent(False).eval(), Recurrent(True, turns=True).eval()
    batches = [torch.randn(9, length, 4) for _ in range(2)]
    words = rf"'inner' of b gave shape \[{length}, 9, 6\] .*; its samples are on the second axis"
    with pytest.raises(uf.InputError, match=words):
        uf.correlate_models(plain, turned, batches, hooks="inner")
    rows = torch.ones(length, 9, dtype=torch.bool)
    both = uf.correlate_models(turned, turned, batches, hooks="inner", mask=[rows, rows])
    assert both.summary["tokens"] == 2 * 9 * length


class Sorted(Recurrent):
    """Does not run on samples in another order."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        assert bool((lengths.diff() <= 0).all())
        return super().forward(x)


def test_as_many_samples_as_tokens_where_the_order_cannot_be_changed() -> None:
    model, lengths = Sorted(False).eval(), torch.tensor([5, 4, 4, 3, 1])
    batches = [(torch.randn(5, 5, 4), lengths)]
    with pytest.raises(
        uf.InputError, match=r"cannot be checked, .*; give batches of another number"
    ):
        uf.correlate_models(model, model, batches, hooks="inner")
    batches = [(torch.randn(5, 6, 4), lengths)]
    found = uf.correlate_models(model, model, batches, hooks="inner", draws=2)
    assert found.summary["tokens"] == 30


class Patches(nn.Module):
    """Of numbers that are no tokens: rows of each sample, in its order or another."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(5, 6)
        self.flat, self.router, self.routed = nn.Identity(), nn.Linear(6, 4), nn.Identity()
        self.some = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.flat(self.up(x).flatten(0, -2))
        order = self.router(hidden).argmax(-1).argsort(stable=True)
        self.some(hidden[:7])
        out: Tensor = self.routed(hidden[order])
        return out


@pytest.mark.parametrize("shape", [(16, 9, 5), (16, 5)])
def test_rows_of_samples_that_are_no_tokens(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, batches = Patches().eval(), [torch.randn(shape) for _ in range(4)]
    same = uf.correlate_models(model, model, batches, hooks="flat", match="index")
    assert same.summary["tokens"] == 4 * torch.Size(shape[:-1]).numel()
    with pytest.raises(uf.InputError, match="'routed' of a gives its rows in another order"):
        uf.correlate_models(model, model, batches, hooks="routed")
    if len(shape) == 3:
        with pytest.raises(uf.InputError, match=r"\[7, 6\] for 16 samples, expected as many rows"):
            uf.correlate_models(model, model, batches, hooks="some")


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("top", [1, 2])
def test_experts_of_transformers(top: int, implementation: str) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = MixtralConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=top,
            max_position_embeddings=32,
        )
        models.append(MixtralForCausalLM(config).eval())
        models[-1].set_experts_implementation(implementation)
    name = "model.layers.0.mlp"
    # Expert by expert, the activation function is called several times.
    why = "was called twice" if implementation == "eager" else f"hook '{name}.experts', whose"
    with pytest.raises(uf.InputError, match=f"'{name}.experts.act_fn' .*{why}"):
        uf.correlate_models(*models, ids(), hooks=f"{name}.experts.act_fn")
    whole = uf.correlate_models(*models, ids(), hooks=name, draws=2)
    experts = uf.correlate_models(*models, ids(), hooks=f"{name}.experts", draws=2)
    assert torch.equal(whole.correlation, experts.correlation)
