"""Which weights are whose: by names, by order, by width, and what is refused as it is not known."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.live_models import gpt2, llama


class Named(nn.Module):
    """A model of one MLP, of modules by name, and an unembedding."""

    def __init__(self, vocabulary: int = 20, head: str = "head", **modules: nn.Module) -> None:
        super().__init__()
        self.mlp = nn.Module()
        for name, module in modules.items():
            self.mlp.add_module(name, module)
        width = next((m.in_features for m in modules.values() if isinstance(m, nn.Linear)), 6)
        self.add_module(head, nn.Linear(width, vocabulary, bias=False))


def norms(weight: Tensor, dim: int) -> Tensor:
    return weight.detach().double().norm(dim=dim)


def test_a_sequence_says_its_order() -> None:
    model = nn.Sequential(
        OrderedDict(
            a=nn.Linear(8, 8), one=nn.ReLU(), b=nn.Linear(8, 8), two=nn.GELU(), c=nn.Linear(8, 8)
        )
    )
    for hooks, into, out in (
        ("one", model.a, model.b),
        ("two", model.b, model.c),
        ("b:input", model.a, model.b),
        ("b", model.b, model.c),
    ):
        table = uf.weights(model, hooks)
        assert torch.equal(table.input_norm, norms(into.weight, 1)), hooks
        assert torch.equal(table.output_norm, norms(out.weight, 0)), hooks
    for hooks in ("a:input", "c"):
        with pytest.raises(uf.InputError, match="has 3 linear layers, and not one into"):
            uf.weights(model, hooks)


@pytest.mark.parametrize("order", ["pq", "qp"])
def test_the_width_of_the_unembedding_says_which_is_which(order: str) -> None:
    maps = {"p": nn.Linear(6, 10), "q": nn.Linear(10, 6)}
    model = Named(act=nn.ReLU(), **{name: maps[name] for name in order})
    model.head = nn.Linear(6, 20)
    for hooks in ("mlp.act", "mlp.p", "mlp.q:input"):
        table = uf.weights(model, hooks, unembedding="head")
        assert torch.equal(table.input_norm, norms(maps["p"].weight, 1))
        assert torch.equal(table.output_norm, norms(maps["q"].weight, 0))
    with pytest.raises(uf.InputError, match="can be into the neurons and out of them, or the"):
        uf.weights(model, "mlp.act")
    model.head = nn.Linear(10, 20)  # a bottleneck
    table = uf.weights(model, "mlp.act", unembedding="head")
    assert len(table) == 6
    assert torch.equal(table.input_norm, norms(maps["q"].weight, 1))


def test_the_unembedding_that_the_project_names_is_found() -> None:
    model = Named(head="unembedding", up=nn.Linear(6, 10), relu=nn.ReLU(), down=nn.Linear(10, 6))
    table = uf.weights(model, "mlp.relu")
    assert table.unembedding == "unembedding"
    expected = model.mlp.down.weight.T.double() @ model.unembedding.weight.double().T
    assert torch.equal(table.top_tokens[:, 0], expected.argmax(dim=1))


def test_a_model_that_reads_one_width_and_writes_another() -> None:
    model = nn.Sequential(
        OrderedDict(up=nn.Linear(4, 10), act=nn.ReLU(), down=nn.Linear(10, 30, bias=False))
    )
    table = uf.weights(model, "act")
    assert table.in_out_cosine.isnan().all()
    assert torch.equal(table.output_norm, norms(model.down.weight, 0))


def test_an_autoencoder() -> None:
    model = nn.Module()
    model.encoder, model.relu, model.decoder = nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 5)
    with torch.no_grad():
        model.decoder.weight[:, 7] = -3 * model.encoder.weight[7]
    table = uf.weights(model, "relu")
    assert float(table.in_out_cosine[7]) == pytest.approx(-1)
    ratio = float(table.output_norm[7] / table.input_norm[7])
    assert ratio == pytest.approx(3, rel=1e-6)


class Quantised(nn.Module):
    """Packed weights, as libraries of quantisation have them."""


def quantised() -> nn.Module:
    model = gpt2()
    model.transformer.h[1].mlp.c_fc = Quantised()
    return model


def eight_bits() -> nn.Module:
    model = llama()
    weight = torch.zeros(32, 16, dtype=torch.int8)
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(weight, requires_grad=False)
    return model


def elsewhere() -> nn.Module:
    model = gpt2()
    model.transformer.h[0].mlp.c_proj.to("meta")
    return model


def gated() -> nn.Module:
    return Named(up=nn.Linear(6, 10), gate=nn.Linear(6, 10), act=nn.ReLU(), down=nn.Linear(10, 6))


def unfit() -> nn.Module:
    return Named(fc1=nn.Linear(6, 20), act=nn.ReLU(), fc2=nn.Linear(10, 6))


def square() -> nn.Module:
    return Named(p=nn.Linear(6, 6), act=nn.ReLU(), q=nn.Linear(6, 6))


def tanh() -> nn.Module:
    return Named(up=nn.Linear(6, 10), act=nn.Tanh(), down=nn.Linear(10, 6))


def sequence() -> nn.Module:
    return Named(inner=nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)))


GPT2, MLP = "transformer.h.*.mlp", "transformer.h.0.mlp"
LLAMA = "model.layers.*.mlp"


@pytest.mark.parametrize(
    ("make", "hooks", "message"),
    [
        (
            gpt2,
            GPT2,
            f"'{MLP}' is not where the neurons of the MLP '{MLP}' are; hook '{MLP}.c_proj",
        ),
        (gpt2, f"{GPT2}.dropout", "is not where the neurons"),
        (gpt2, f"{GPT2}.c_proj", "is not where the neurons"),
        (gpt2, f"{GPT2}.c_fc:input", "is not where the neurons"),
        (gpt2, "transformer.h.0.attn.c_proj:input", "attn' has 2 linear layers, and not one into"),
        (gpt2, "transformer.h.0", "has no linear maps around it"),
        (sequence, "mlp.inner", "'mlp.inner' has 2 linear layers, and not one into"),
        (llama, f"{LLAMA}.up_proj", "hook 'model.layers.0.mlp.down_proj:input'"),
        (llama, "model.layers.0.self_attn.o_proj:input", "has 4 linear layers, and not one into"),
        (quantised, f"{GPT2}.act", r"'transformer.h.1.mlp.c_fc' is a Quantised, whose weights"),
        (eight_bits, f"{LLAMA}.act_fn", r"up_proj.weight is quantised \(int8\), so that"),
        (elsewhere, f"{GPT2}.act", "c_proj.weight: is a meta tensor; pass a dense one"),
        (gated, "mlp.act", "'mlp.up' and 'mlp.gate' go into as many neurons"),
        (unfit, "mlp.act", "'mlp.fc1' from 6 to 20 and 'mlp.fc2' from 10 to 6 do not fit"),
        (square, "mlp.act", "can be into the neurons and out of them, or the other way round"),
        (square, "mlp.q:input", "can be into the neurons and out of them, or the other way round"),
        (tanh, "mlp.act", "hook 'mlp.down:input'"),
    ],
)
def test_what_is_not_known_is_refused(
    make: Callable[[], nn.Module], hooks: str, message: str
) -> None:
    with pytest.raises(uf.InputError, match=message) as caught:
        uf.weights(make(), hooks)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_names_make_square_layers_known() -> None:
    model = Named(down=nn.Linear(6, 6), act=nn.ReLU(), up=nn.Linear(6, 6))
    table = uf.weights(model, "mlp.act")
    assert torch.equal(table.input_norm, norms(model.mlp.up.weight, 1))
    assert torch.equal(table.output_norm, norms(model.mlp.down.weight, 0))
    assert torch.equal(uf.weights(tanh(), "mlp.down:input").neuron, torch.arange(10))


# ---- the unembedding -----------------------------------------------------------------------------


def unembedded(**parameters: Tensor) -> nn.Module:
    model = Named(up=nn.Linear(6, 10), relu=nn.ReLU(), down=nn.Linear(10, 6))
    for name, value in parameters.items():
        model.register_parameter(name, nn.Parameter(value))
    return model


def test_a_parameter_either_way_round() -> None:
    rows = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    model = unembedded(rows=rows, columns=rows.T.clone())
    tables = [uf.weights(model, "mlp.relu", name) for name in ("rows", "columns")]
    written = model.mlp.down.weight.T.double() @ rows.double().T
    for name, table in zip(("rows", "columns"), tables, strict=True):
        assert table.unembedding == name
        assert torch.equal(table.top_tokens[:, 0], written.argmax(dim=1))
    model.register_buffer("kept", rows)
    assert torch.equal(uf.weights(model, "mlp.relu", "kept").top_tokens, tables[0].top_tokens)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "the model has no module or parameter 'nothing'; give a name of"),
        ("mlp.relu", "'mlp.relu' is a ReLU, and no Linear, Conv1D or Embedding; name one"),
        ("square", r"the parameter 'square' is square \[6, 6\], and can be \[vocabulary, width\]"),
        ("other", r"'other' is of shape \[7, 8\], and the layers write 6 numbers; name"),
        ("one", r"'one' is of shape \[6\], and no matrix; name another"),
        ("mlp.down", "'mlp.down' takes 10 numbers, and the layers write 6; name the matrix"),
    ],
)
def test_a_wrong_unembedding_is_refused(name: str, message: str) -> None:
    sizes: dict[str, Any] = {"square": (6, 6), "other": (7, 8), "one": (6,)}
    model = unembedded(**{key: torch.zeros(size) for key, size in sizes.items()})
    with pytest.raises(uf.InputError, match=f"unembedding: {message}") as caught:
        uf.weights(model, "mlp.relu", name)
    assert "\n" not in str(caught.value)


def test_a_head_behind_a_projection_says_nothing_of_the_layers() -> None:
    model = Named(head="unembedding", up=nn.Linear(6, 10), relu=nn.ReLU(), down=nn.Linear(10, 6))
    model.unembedding = nn.Linear(4, 20)
    table = uf.weights(model, "mlp.relu")
    assert table.unembedding is None
    assert table.top_tokens is None
    assert [*table.columns()] == [
        *("layer", "neuron", "input_norm", "input_bias", "output_norm", "in_out_cosine")
    ]
