"""The published table with all of its columns: their names, their order, and what is in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import univfast as uf
from support.live_models import gpt2

CORRELATIONS = "max_corr,mean_corr,min_corr,max_baseline,min_baseline,mean_baseline"
WEIGHTS = "w_in_norm,input_bias,w_out_norm,in_out_sim,l2_penalty"
MOMENTS = "mean,var,skew,kurt"
VOCABULARY = "vocab_mean,vocab_var,vocab_skew,vocab_kurt"
# As the data published with Gurnee et al. 2024 have it.
WHOLE = f"layer,neuron,{CORRELATIONS},{WEIGHTS},{MOMENTS},{VOCABULARY},sparsity,excess_corr"
LAYERS = ("transformer.h.0.mlp.act", "transformer.h.1.mlp.act")


def activations(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(20, 16, 64, generator=torch.Generator().manual_seed(9))
    return {
        name: (shared[..., part] + torch.randn(20, 16, 32, generator=generator)).relu().double()
        for name, part in zip(LAYERS, (slice(32), slice(32, 64)), strict=True)
    }


def test_with_details_and_weights_it_is_whole() -> None:
    a, b = activations(0), activations(1)
    table = uf.weights(gpt2())
    result = uf.correlate(a, b, details=True, draws=2).with_weights(table)
    columns = result.published_columns()
    assert ",".join(columns) == WHOLE
    found = {name: np.array(values) for name, values in columns.items()}
    x = torch.cat([v.flatten(0, 1) for v in a.values()], dim=1).numpy()
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = {
        "mean": x.mean(axis=0),
        "var": x.var(axis=0),
        "skew": (z**3).mean(axis=0),
        "kurt": (z**4).mean(axis=0),
        "sparsity": (x > 0).mean(axis=0),
        "w_in_norm": table.input_norm,
        "input_bias": table.input_bias,
        "w_out_norm": table.output_norm,
        "in_out_sim": table.in_out_cosine,
        "l2_penalty": table.input_norm**2 + table.output_norm**2,
        "vocab_mean": table.cosine_mean,
        "vocab_var": table.cosine_variance,
        "vocab_skew": table.cosine_skew,
        "vocab_kurt": table.cosine_kurtosis,
        "excess_corr": result.excess,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert [*result.to_pandas(columns="published").columns] == WHOLE.split(",")[2:]


def test_what_is_not_known_is_left_out() -> None:
    a, b = activations(0), activations(1)
    plain = uf.correlate(a, b, draws=2)
    assert ",".join(plain.published_columns()) == f"layer,neuron,{CORRELATIONS},excess_corr"
    weighed = plain.with_weights(uf.weights(gpt2()))
    assert ",".join(weighed.published_columns()) == (
        f"layer,neuron,{CORRELATIONS},{WEIGHTS},{VOCABULARY},excess_corr"
    )
    bare = plain.with_weights(uf.weights(gpt2(), unembedding=None))
    assert bare.weights is not None
    detailed = uf.correlate(a, b, draws=2, details=True)
    assert ",".join(detailed.published_columns()) == (
        f"layer,neuron,{CORRELATIONS},{MOMENTS},sparsity,excess_corr"
    )


def test_weights_without_an_unembedding_leave_its_columns_absent() -> None:
    a, b = ({"h.0.mlp.act": activations(seed)[LAYERS[0]]} for seed in (0, 1))
    table = uf.weights(gpt2().transformer, "h.0.mlp.act")
    columns = uf.correlate(a, b, draws=2).with_weights(table).published_columns()
    assert np.isnan(columns["vocab_kurt"]).all()
    assert columns["w_in_norm"] == table.input_norm.tolist()


@pytest.mark.slow
def test_of_several_models_activations_are_those_of_a() -> None:
    a, others = activations(0), [activations(1), activations(2)]
    result = uf.correlate(a, others, draws=2, details=True)
    assert result.mean is None
    columns = result.with_weights(uf.weights(gpt2())).published_columns()
    assert ",".join(columns) == WHOLE
    x = torch.cat([v.flatten(0, 1) for v in a.values()], dim=1)
    np.testing.assert_allclose(columns["var"], x.var(dim=0, correction=0))


def test_rows_go_by_layer_whatever_their_order() -> None:
    a, b = activations(0), activations(1)
    model = gpt2()
    table = uf.weights(model)
    turned = {name: a[name] for name in reversed(LAYERS)}
    result = uf.correlate(turned, b, draws=2).with_weights(table)
    found = result.published_columns()
    assert found["layer"][0] == LAYERS[1]
    assert found["w_in_norm"][:32] == table.input_norm[32:].tolist()
    assert found["w_in_norm"][32:] == table.input_norm[:32].tolist()
    one = uf.correlate({LAYERS[1]: a[LAYERS[1]]}, b, draws=2).with_weights(table)
    assert one.published_columns()["w_in_norm"] == table.input_norm[32:].tolist()


def test_weights_of_another_model_are_refused() -> None:
    a, b = activations(0), activations(1)
    result = uf.correlate(a, b, draws=2)
    with pytest.raises(uf.InputError, match=r"table: layer .*h\.1.* has 32 neurons, and the wei"):
        result.with_weights(uf.weights(gpt2(layers=1)))
    with pytest.raises(uf.InputError, match="has 32 neurons, and the weights have 48 neurons"):
        result.with_weights(uf.weights(gpt2(width=48)))
    with pytest.raises(
        TypeError, match=r"table: expected a WeightTable of univfast\.weights, got d"
    ):
        result.with_weights({})
