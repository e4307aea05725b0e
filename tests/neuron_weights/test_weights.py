"""`uf.weights` of models of every family, against plain NumPy from their weights by name."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

import univfast as uf
from support.live_models import IDS, SMALL, gpt2, llama, neox
from support.saved_results import as_cells
from support.tiny_models import BRIEF, text_file
from support.tiny_models import SMALL as SMALL_CONFIG
from univfast.experiment import train
from univfast.neuron_weights.weight_table import WeightTable

Floats = NDArray[np.float64]
# In float32, of moments about the mean.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def numpy_of(tensor: torch.Tensor) -> Floats:
    return tensor.detach().double().numpy()


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with all its parameters drawn anew, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + 0.1)
    return model.eval()


def bert() -> nn.Module:
    config = transformers.BertConfig(**{**SMALL, "is_decoder": True})
    return transformers.BertLMHeadModel(config)


def roberta() -> nn.Module:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    gated = {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, **gated, vocab_size=50)
    )


def opt() -> nn.Module:
    config = transformers.OPTConfig(
        **IDS, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


# Of each family: the hooks of a layer, its modules into and out of the neurons, whether the first
# axis of their weights is the inputs, the up projection, and the unembedding.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, tuple[str, str, bool, str, str]]] = {
    "GPT-2": (
        gpt2,
        "transformer.h.1.mlp.act",
        ("transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj", True, "", "lm_head"),
    ),
    "GPT-2, square": (
        lambda: gpt2(width=16),
        "transformer.h.1.mlp.c_proj:input",
        ("transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj", True, "", "lm_head"),
    ),
    "GPT-NeoX": (
        neox,
        "gpt_neox.layers.1.mlp.act",
        (
            *("gpt_neox.layers.1.mlp.dense_h_to_4h", "gpt_neox.layers.1.mlp.dense_4h_to_h"),
            *(False, "", "lm_head"),
        ),
    ),
    "Llama": (
        llama,
        "model.layers.1.mlp.down_proj:input",
        (
            *("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.down_proj", False),
            *("model.layers.1.mlp.up_proj", "lm_head"),
        ),
    ),
    "BERT": (
        bert,
        "bert.encoder.layer.1.intermediate",
        (
            *("bert.encoder.layer.1.intermediate.dense", "bert.encoder.layer.1.output.dense"),
            *(False, "", "cls.predictions.decoder"),
        ),
    ),
    "T5, gated": (
        t5,
        "decoder.block.0.layer.2.DenseReluDense.wo:input",
        (
            *("decoder.block.0.layer.2.DenseReluDense.wi_0",),
            *("decoder.block.0.layer.2.DenseReluDense.wo", False),
            *("decoder.block.0.layer.2.DenseReluDense.wi_1", "lm_head"),
        ),
    ),
    "OPT": (
        opt,
        "model.decoder.layers.0.activation_fn",
        (
            *("model.decoder.layers.0.fc1", "model.decoder.layers.0.fc2", False),
            *("", "lm_head"),
        ),
    ),
}


@pytest.fixture(params=list(FAMILIES))
def family(
    request: pytest.FixtureRequest,
) -> tuple[nn.Module, str, tuple[str, str, bool, str, str]]:
    make, hooks, names = FAMILIES[request.param]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return drawn(make()), hooks, names


def moments(rows: Floats) -> dict[str, Floats]:
    """Of each row, as the definitions have them."""
    mean = rows.mean(axis=1)
    centred = rows - mean[:, None]
    variance = (centred**2).mean(axis=1)
    return {
        "mean": mean,
        "variance": variance,
        "skew": (centred**3).mean(axis=1) / variance**1.5,
        "kurtosis": (centred**4).mean(axis=1) / variance**2,
    }


def check(
    table: WeightTable, into: Floats, bias: Floats | None, out: Floats, unembedding: Floats
) -> None:
    """Holds a table to ``W_in, W_out [neurons, width]`` and ``W_U [vocabulary, width]``."""
    norms = [np.sqrt((x**2).sum(axis=1)) for x in (into, out)]
    cosine = (into * out).sum(axis=1) / norms[0] / norms[1]
    expected = {"input_norm": norms[0], "output_norm": norms[1], "in_out_cosine": cosine}
    expected["input_bias"] = np.full(len(into), np.nan) if bias is None else bias
    logits = out @ unembedding.T
    expected |= {f"logit_{name}": x for name, x in moments(logits).items()}
    lengths = np.linalg.norm(unembedding, axis=1)
    cosines = logits / norms[1][:, None] / lengths
    expected |= {f"cosine_{name}": x for name, x in moments(cosines).items()}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(table, name), values, **CLOSE, err_msg=name)
    order = np.argsort(logits, axis=1)[:, : table.bottom_tokens.shape[1]]
    np.testing.assert_array_equal(table.bottom_tokens, order)
    np.testing.assert_allclose(
        table.bottom_logits, np.take_along_axis(logits, order, axis=1), rtol=1e-5
    )
    order = np.argsort(-logits, axis=1)[:, : table.top_tokens.shape[1]]
    np.testing.assert_array_equal(table.top_tokens, order)
    np.testing.assert_allclose(
        table.top_logits, np.take_along_axis(logits, order, axis=1), rtol=1e-5
    )


def test_every_family_is_as_its_weights_say(
    family: tuple[nn.Module, str, tuple[str, str, bool, str, str]],
) -> None:
    model, hooks, (into, out, turned, up, head) = family
    table = uf.weights(model, hooks, top_k=4)
    assert {*table.layer} == {hooks}
    assert table.neuron.tolist() == [*range(len(table))]
    assert table.unembedding == head

    def matrix(name: str) -> Floats:
        found = numpy_of(model.get_submodule(name).weight)
        return found.T if turned else found

    module = model.get_submodule(into)
    bias = None if module.bias is None else numpy_of(module.bias)
    unembedding = numpy_of(model.get_submodule(head).weight)
    check(table, matrix(into), bias, matrix(out).T, unembedding)
    assert (table.up_norm is None) == (not up)
    if up:
        rows, written = matrix(up), matrix(out).T
        norms = np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(table.up_norm, norms)
        cosine = (rows * written).sum(axis=1) / norms / np.linalg.norm(written, axis=1)
        np.testing.assert_allclose(table.up_out_cosine, cosine, rtol=1e-6)
        assert not np.allclose(table.up_norm, table.input_norm)


@pytest.mark.parametrize(
    ("make", "layers"), [(gpt2, 2), (neox, 2), (llama, 2), (bert, 2), (roberta, 2)]
)
def test_known_architectures_need_no_hooks(make: Callable[[], nn.Module], layers: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    table = uf.weights(model)
    assert len({*table.layer}) == layers
    assert len(table) == 32 * layers
    one = uf.weights(model, table.layer[-1])
    assert torch.equal(one.input_norm, table.input_norm[32:])
    assert torch.equal(one.logit_kurtosis, table.logit_kurtosis[32:])


def test_tied_embeddings_and_their_names() -> None:
    model = drawn(gpt2())
    assert model.lm_head.weight is model.transformer.wte.weight
    tables = [
        uf.weights(model, unembedding=name)
        for name in (None, "lm_head", "transformer.wte", "lm_head.weight", "transformer.wte.weight")
    ]
    for table in tables[1:]:
        assert torch.equal(table.top_tokens, tables[0].top_tokens)
    bare = uf.weights(model.transformer, "h.*.mlp.act")
    assert bare.unembedding is None
    assert bare.logit_mean is None
    assert "top_tokens" not in bare.columns()
    assert torch.equal(bare.input_norm, tables[0].input_norm)


def test_bfloat16_is_as_the_same_numbers_in_float64() -> None:
    model = drawn(gpt2()).bfloat16()
    short = uf.weights(model, "transformer.h.*.mlp.act")
    exact = uf.weights(model.double(), "transformer.h.*.mlp.act")
    for name in ("input_norm", "in_out_cosine", "logit_variance", "cosine_kurtosis"):
        np.testing.assert_allclose(getattr(short, name), getattr(exact, name), **CLOSE)
    assert torch.equal(short.top_tokens, exact.top_tokens)


def test_the_model_is_left_as_it_is() -> None:
    model = drawn(gpt2()).double()  # float64 is not copied on the way
    before = {name: value.clone() for name, value in model.state_dict().items()}
    uf.weights(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_of_a_trained_model(tmp_path: Path) -> None:
    trained = train(SMALL_CONFIG, str(text_file(tmp_path, 6_000)), 0, "first", BRIEF)
    table = uf.weights(trained, top_k=5)
    assert [*dict.fromkeys(table.layer)] == ["mlp.0", "mlp.1", "mlp.2"]
    model = trained.model()
    mlp, rows = model.blocks[1].mlp, slice(24, 48)
    part = WeightTable(
        **{
            name: value[rows] if isinstance(value, (list, torch.Tensor)) else value
            for name, value in vars(table).items()
        }
    )
    check(
        part,
        numpy_of(mlp.up.weight),
        numpy_of(mlp.up.bias),
        numpy_of(mlp.down.weight).T,
        numpy_of(model.unembedding.weight),
    )
    assert table.top_texts[0] == [chr(token) for token in table.top_tokens[0].tolist()]
    some = uf.weights(trained, ["mlp.[02]"], top_k=5)
    assert [*dict.fromkeys(some.layer)] == ["mlp.0", "mlp.2"]
    named = uf.weights(trained, "blocks.1.mlp.up", top_k=5)
    assert {*named.layer} == {"blocks.1.mlp.up"}
    assert torch.equal(named.logit_skew, table.logit_skew[rows])
    assert torch.equal(uf.weights(model).output_norm, table.output_norm)
    with pytest.raises(
        uf.InputError, match=r"hooks: 'blocks\.1\.mlp\.up' names no layer as 'mlp\.0'"
    ):
        uf.weights(trained, ["mlp.0", "blocks.1.mlp.up"])


def test_as_transformer_lens_has_it() -> None:
    """Not the library: its names, and the axes that go with them."""
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=generator))

    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Module()])
    mlp = model.blocks[0].mlp = nn.Module()
    mlp.W_in, mlp.b_in, mlp.W_out = parameter(8, 8), parameter(8), parameter(8, 8)
    mlp.hook_post = nn.Identity()
    model.unembed = nn.Module()
    model.unembed.W_U = parameter(8, 30)
    table = uf.weights(model, "blocks.*.mlp.hook_post", top_k=3)
    check(
        table,
        numpy_of(mlp.W_in).T,
        numpy_of(mlp.b_in),
        numpy_of(mlp.W_out),
        numpy_of(model.unembed.W_U).T,
    )
    mlp.W_gate = parameter(8, 8)
    gated = uf.weights(model, "blocks.*.mlp.hook_post")
    np.testing.assert_allclose(gated.input_norm, numpy_of(mlp.W_gate).T.__pow__(2).sum(1) ** 0.5)
    assert torch.equal(gated.up_norm, table.input_norm)


class Words:
    """A tokenizer of names that spreadsheets and readers of CSV might take for something else."""

    words = ("=1+1", 'say "a, b"', " the", "\n", "naïve", "]", "-1")

    def decode(self, tokens: list[int]) -> str:
        (token,) = tokens
        return self.words[token]  # IndexError of tokens that it does not have


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    model = drawn(llama())
    table = uf.weights(model, top_k=20, tokenizer=Words())
    assert table.top_texts[3] == [
        Words.words[token] if token < 7 else "" for token in table.top_tokens[3].tolist()
    ]
    path = tmp_path / "=weights.csv"
    table.save(path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    columns = table.columns()
    assert [*rows[0]] == [*columns]
    for name, values in columns.items():
        cells = [row[name] for row in rows]
        assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
        if isinstance(values[0], list):
            assert [json.loads(cell) for cell in cells] == values, name
        elif isinstance(values[0], str):
            assert cells == values
        else:
            np.testing.assert_array_equal(np.array(cells, dtype=float), as_cells(values))
    frame = table.to_pandas()
    assert frame.index.names == ["layer", "neuron"]
    assert frame.loc[("model.layers.1.mlp.down_proj:input", 5), "top_tokens"] == (
        table.top_tokens[37].tolist()
    )
    assert repr(table) == "<WeightTable of 64 neurons, 2 layers, unembedding 'lm_head'>"


def test_the_header_is_a_contract() -> None:
    header = ",".join(uf.weights(gpt2(), tokenizer=Words()).columns())
    assert header == (
        "layer,neuron,input_norm,input_bias,output_norm,in_out_cosine,"
        "logit_mean,logit_variance,logit_skew,logit_kurtosis,"
        "cosine_mean,cosine_variance,cosine_skew,cosine_kurtosis,"
        "top_tokens,top_logits,top_texts,bottom_tokens,bottom_logits,bottom_texts"
    )
    header = ",".join(uf.weights(llama()).columns())
    assert ",in_out_cosine,up_norm,up_bias,up_out_cosine,logit_mean," in header
    assert "texts" not in header


def test_more_tokens_than_there_are() -> None:
    table = uf.weights(gpt2(), top_k=1000)
    assert table.top_tokens.shape == (64, 50)
    assert torch.equal(table.top_tokens.sort(dim=1).values[0], torch.arange(50))
    assert torch.equal(table.top_logits, table.bottom_logits.flip(1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, uf.InputError, "top_k: got 0"),
        ({"tokenizer": 3}, TypeError, r"tokenizer: expected one with decode\(\[id\]\), got int"),
        ({"unembedding": 3}, TypeError, "unembedding: "),
        ({"hooks": 3}, TypeError, "hooks: expected glob patterns, got int"),
        ({"hooks": "no.*"}, uf.InputError, r"hooks: no module matches 'no\.\*'"),
    ],
)
def test_arguments_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        uf.weights(gpt2(), **options)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module or a TrainedModel"):
        uf.weights("gpt2")
    with pytest.raises(uf.InputError, match="hooks: none are known of a Linear; name the modules"):
        uf.weights(nn.Linear(3, 4))
